"""`stepwell schedule`: an expression, drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stepwell import terminal
from stepwell.errors import UsageError
from stepwell.schedules.base import Schedule
from stepwell.schedules.draw import draw, save
from stepwell.schedules.expression import parse


def schedule(
    expression: Annotated[str, typer.Argument(help='As "warmup(500).then(cosine(9500, to=0.1))".')],
    lr: Annotated[float, typer.Option(help="The learning rate that the factors multiply.")] = 1.0,
    steps: Annotated[int | None, typer.Option(help="Updates of the run; needed for fractions.")] = None,
    out: Annotated[str | None, typer.Option(help="Also write a picture: .png, .svg or .pdf.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="ASCII only.")] = False,
) -> None:
    """Draw a schedule of the learning rate. The expression is parsed, never evaluated."""
    ascii_only = plain or terminal.is_plain()
    print(show(expression, lr=lr, steps=steps, out=out, width=terminal.width(), plain=ascii_only))


def show(
    expression: str,
    *,
    lr: float = 1.0,
    steps: int | None = None,
    out: str | Path | None = None,
    width: int = 78,
    height: int = 14,
    plain: bool = False,
) -> str:
    """The output of the command: the parsed schedule, its plot, and the path of the file written.

    Args:
        expression: see `parse`.
        lr: the value that the factors multiply.
        steps: the updates of the run, needed for fractions. A schedule that does not fit the run is refused.
        out: a file for the plot, .png, .svg or .pdf.
        width, height, plain: see `draw`.

    >>> print(show("linear()", steps=3, width=40, height=4, plain=True).splitlines()[0])
    linear(3)
    """
    parsed = _fitted(parse(expression), steps)
    rate = 1.0 if parsed.absolute else lr
    lines = [str(parsed), "", draw(parsed, lr=rate, steps=steps, width=width, height=height, plain=plain)]
    if out is not None:
        lines += ["", f"written to {save(parsed, out, lr=rate, steps=steps)}"]
    return "\n".join(lines)


def _fitted(schedule: Schedule, steps: int | None) -> Schedule:
    if steps is not None:
        return schedule.over(steps)
    if not schedule.resolved:
        raise UsageError(
            f"{schedule} has a part whose length depends on the run; pass the updates of the run as --steps"
        )
    if schedule.horizon is None:
        raise UsageError(f"{schedule} never ends; pass the number of steps to draw as --steps")
    return schedule
