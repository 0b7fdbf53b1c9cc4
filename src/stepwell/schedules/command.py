"""What `stepwell schedule` prints: an expression, drawn."""

from __future__ import annotations

from pathlib import Path

from stepwell.errors import UsageError
from stepwell.schedules.base import Schedule
from stepwell.schedules.draw import draw, save
from stepwell.schedules.expression import parse


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
    """The text of the command: the schedule as it was understood, its picture, and the file that was written.

    Args:
        expression: see `parse`.
        lr: what the factors are multiplied with.
        steps: the updates of the run; fractions need it, and a schedule that does not fit it is refused.
        out: a file for the picture too, .png, .svg or .pdf.
        width, height, plain: see `draw`.

    >>> print(show("linear()", steps=3, width=40, height=4, plain=True).splitlines()[0])
    linear(3)
    """
    schedule = _fitted(parse(expression), steps)
    rate = 1.0 if schedule.absolute else lr
    lines = [str(schedule), "", draw(schedule, lr=rate, steps=steps, width=width, height=height, plain=plain)]
    if out is not None:
        lines += ["", f"written to {save(schedule, out, lr=rate, steps=steps)}"]
    return "\n".join(lines)


def _fitted(schedule: Schedule, steps: int | None) -> Schedule:
    if steps is not None:
        return schedule.over(steps)
    if not schedule.resolved:
        raise UsageError(f"{schedule} has a part whose length depends on the run; give the run's with --steps")
    if schedule.horizon is None:
        raise UsageError(f"{schedule} never ends; say how many steps to draw with --steps")
    return schedule
