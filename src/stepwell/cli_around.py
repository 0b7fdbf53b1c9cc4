"""The commands `schedule` and `plan`; `add` puts them into the app."""

# No `from __future__ import annotations` here: typer reads the annotations, and they name a lazily imported module.

import shutil
import sys
from typing import Annotated, Any


def add(app: Any) -> None:
    """Register both commands on a typer app."""
    import typer

    @app.command()
    def schedule(
        expression: Annotated[str, typer.Argument(help='as "warmup(500).then(cosine(9500, to=0.1))"')],
        lr: Annotated[float, typer.Option(help="the rate that the factors multiply")] = 1.0,
        steps: Annotated[int | None, typer.Option(help="updates of the run; fractions need it")] = None,
        out: Annotated[str | None, typer.Option(help="also write a picture: .png, .svg or .pdf")] = None,
        plain: Annotated[bool, typer.Option("--plain", help="ASCII only")] = False,
    ) -> None:
        """Draw a schedule of the learning rate. The expression is parsed, never evaluated."""
        from stepwell.schedules.command import show

        ascii_only = plain or "utf" not in (sys.stdout.encoding or "").lower()
        print(show(expression, lr=lr, steps=steps, out=out, width=_width(), plain=ascii_only))

    @app.command()
    def plan(
        task: Annotated[str, typer.Argument(help="a task's name, or my_task.py:task")],
        optimizer: Annotated[str, typer.Option(help="its name")] = "adamw",
        lr: Annotated[float | None, typer.Option(help="learning rate; the optimizer's default if left out")] = None,
        weight_decay: Annotated[float | None, typer.Option(help="weight decay; likewise")] = None,
        layer_decay: Annotated[float | None, typer.Option(help="multiplies lr per block from the top, as 0.75")] = None,
        state: Annotated[str, typer.Option(help="format of the state: fp32, bf16, int8, int4")] = "fp32",
        averages: Annotated[int, typer.Option(help="copies of the weights that are kept (EMA)")] = 0,
        device: Annotated[str, typer.Option(help="whose memory it must fit: cpu, cuda, cuda:1")] = "cpu",
    ) -> None:
        """Show what each tensor of a task's model gets, and the memory that training it will need."""
        from stepwell import optimizers
        from stepwell.errors import UsageError
        from stepwell.groups.command import plan as planned
        from stepwell.groups.memory import STATE
        from stepwell.tasks import find

        chosen: Any = optimizer
        try:
            chosen = optimizers.find(optimizer)
        except UsageError:
            if optimizer.lower() not in STATE:  # known to the forecast only
                raise
        print(
            planned(
                find(task).build(0),
                chosen,
                lr=lr,
                weight_decay=weight_decay,
                layer_decay=layer_decay,
                state=state,
                averages=averages,
                device=device,
            )
        )


def _width() -> int:
    return max(40, min(100, shutil.get_terminal_size((78, 24)).columns))
