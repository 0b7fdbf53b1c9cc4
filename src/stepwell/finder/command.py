"""`stepwell find-lr`: the learning rate of a task and an optimizer."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stepwell.arguments import mapping, path, text, whole
from stepwell.errors import MissingExtra, UsageError, printable
from stepwell.terminal import DONE, FAILED

if TYPE_CHECKING:
    from stepwell.finder.result import FoundLR
    from stepwell.tasks import Task

ENDINGS = (".png", ".svg", ".pdf")


def find_lr(
    task: Annotated[str, typer.Argument(help="A task's name, or my_task.py:task.")],
    optimizer: Annotated[str, typer.Option(help="Its name.")] = "adamw",
    option: Annotated[
        list[str] | None, typer.Option(help="Set an argument: sgd.momentum=0.8. May be repeated.")
    ] = None,
    low: Annotated[float | None, typer.Option(help="Lowest rate.")] = None,
    high: Annotated[float | None, typer.Option(help="Highest rate.")] = None,
    iterations: Annotated[int, typer.Option(help="Updates in total.")] = 99,
    orders: Annotated[int, typer.Option(help="Sweeps, each over another order of the data.")] = 3,
    attempts: Annotated[
        int, typer.Option(help="Attempts; each takes three times the updates of the previous one.")
    ] = 3,
    accumulate: Annotated[int | None, typer.Option(help="Micro-batches per update.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the model and of the orders.")] = 0,
    out: Annotated[str | None, typer.Option(help="Also plot the curve: .png, .svg or .pdf.")] = None,
) -> int:
    """Find the learning rate by a range test: the peak for a schedule of warmup and decay.

    If the curve gives no answer, find-lr tries again: lower, higher, or with more updates over more orders of the data.
    The exit code is 1 if the last attempt gives no answer.
    """
    from stepwell.optimizers.command import options, options_of
    from stepwell.tasks import find

    given = options(option or [], "find-lr searches lr; set its range with --low and --high")
    chosen = options_of(optimizer, given)
    check_out(out)  # before a task file is read, and before anything is trained
    found = found_for(
        find(task), optimizer, options=chosen, low=low, high=high, iterations=iterations, orders=orders,
        attempts=attempts, accumulate=accumulate, seed=seed, out=out,
    )  # fmt: skip
    print(found)
    return DONE if found.suggestion is not None else FAILED


def found_for(
    task: Task,
    optimizer: str,
    *,
    options: Mapping[str, Any] | None = None,
    low: float | None = None,
    high: float | None = None,
    iterations: int = 99,
    orders: int = 3,
    attempts: int = 3,
    accumulate: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    progress: bool | None = None,
) -> FoundLR:
    """Run the finder on a task's model of this seed. The command prints `str()` of the result.

    Args:
        task: a task of `stepwell.tasks`. optimizer: name of the optimizer.
        options: arguments of the optimizer besides lr; they override those of a comparison (momentum 0.9 for SGD).
        out: a file for a plot of the curve: .png, .svg or .pdf.
        attempts: as in `find_lr`, but 3 by default.
        low, high, iterations, orders, attempts, accumulate, seed, progress: as in `find_lr`.

    Raises UsageError as `find_lr` does, and, before training, for an `out` that cannot be written. Raises MissingExtra
    if `out` is given and matplotlib is not installed.
    """
    from stepwell.finder.find import find_lr as search
    from stepwell.optimizers import create, find
    from stepwell.step.estimators import twice_differentiable

    target = check_out(out)
    chosen_options = _options(optimizer, options)
    model = task.build(whole("find-lr", "seed", seed, most=2**32 - 1))
    if "model" in inspect.signature(find(optimizer)).parameters:  # SAM: for the statistics of batch norm
        chosen_options.setdefault("model", model)
    chosen = create(optimizer, model, **chosen_options)
    found = search(
        model,
        chosen,
        task.batches,
        twice_differentiable(chosen, task.loss),
        low=low,
        high=high,
        iterations=iterations,
        orders=orders,
        attempts=attempts,
        accumulate=accumulate,
        seed=seed,
        progress=progress,
    )
    if target is not None:
        from matplotlib.figure import Figure

        figure = Figure(layout="constrained")
        found.plot(figure.add_subplot())
        try:
            figure.savefig(target)
        except OSError as error:
            raise UsageError(f"--out {printable(str(target))}: cannot be written: {error.strerror or error}") from None
    return found


def check_out(out: Any) -> Path | None:
    """The path of the plot. Raises UsageError if no file can be written there; nothing is written yet."""
    if out is None:
        return None
    target = path("find-lr", "out", out)
    said = printable(str(target))[:200]
    if target.suffix.lower() not in ENDINGS:
        raise UsageError(f"--out {said}: plots are written as {', '.join(ENDINGS)}; use one of these file extensions")
    if not target.parent.is_dir():
        raise UsageError(
            f"--out {said}: the folder {printable(str(target.parent))[:200]} does not exist; create it first"
        )
    if target.exists() and not target.is_file():
        raise UsageError(f"--out {said}: the path exists and is not a file; give another name")
    if not os.access(target if target.exists() else target.parent, os.W_OK):
        raise UsageError(f"--out {said}: the path is not writable; give another path")
    if find_spec("matplotlib") is None:
        raise MissingExtra("matplotlib", "tools", "drawing the curve")
    return target


def _options(optimizer: str, given: Any) -> dict[str, Any]:
    """The options of an optimizer in a comparison, overridden by the given options."""
    from stepwell.optimizers import find

    mine = {} if given is None else mapping("find-lr", "options", given, "a dict, as {'momentum': 0.9}")
    for name in mine:
        text("find-lr", "an option", name, "the name of an argument, as momentum")
    if "lr" in mine:
        raise UsageError("find-lr: options contain lr, which is searched; set its range with low and high")
    cls = find(optimizer)
    inside = find(mine["base"]) if "base" in mine else cls
    return {**inside.facts.compare_options, **mine}
