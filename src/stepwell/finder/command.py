"""What `stepwell find-lr` prints: the learning rate of a task and an optimizer."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepwell.arguments import mapping, path, text, whole
from stepwell.errors import MissingExtra, UsageError, printable
from stepwell.finder.find import find_lr
from stepwell.finder.found import FoundLR
from stepwell.optimizers import create, find
from stepwell.step.estimators import twice_differentiable

if TYPE_CHECKING:
    from stepwell.tasks import Task

ENDINGS = (".png", ".svg", ".pdf")


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
    """Run the finder on a task's model of this seed; `str()` of the result is what the command prints.

    Args:
        task: of `stepwell.tasks`. optimizer: its name.
        options: its arguments besides lr, over those that it has in a comparison (momentum 0.9 for SGD).
        out: also draw the curve into this file: .png, .svg or .pdf.
        attempts: as in `find_lr`, but 3 by default.
        low, high, iterations, orders, attempts, accumulate, seed, progress: as in `find_lr`.

    Raises UsageError for what `find_lr` refuses, and before anything is trained for an `out` that cannot be written;
    MissingExtra if `out` needs matplotlib.
    """
    target = check_out(out)
    chosen_options = _options(optimizer, options)
    model = task.build(whole("find-lr", "seed", seed, most=2**32 - 1))
    if "model" in inspect.signature(find(optimizer)).parameters:  # SAM: for the statistics of batch norm
        chosen_options.setdefault("model", model)
    chosen = create(optimizer, model, **chosen_options)
    found = find_lr(
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
    """Where the picture goes, or UsageError for a place where none can be written; nothing is written yet."""
    if out is None:
        return None
    target = path("find-lr", "out", out)
    said = printable(str(target))[:200]
    if target.suffix.lower() not in ENDINGS:
        raise UsageError(f"--out {said}: pictures are written as {', '.join(ENDINGS)}; end the name with one of these")
    if not target.parent.is_dir():
        raise UsageError(
            f"--out {said}: the folder {printable(str(target.parent))[:200]} does not exist; make it first"
        )
    if target.exists() and not target.is_file():
        raise UsageError(f"--out {said}: there is something else than a file at this place; give another name")
    if not os.access(target if target.exists() else target.parent, os.W_OK):
        raise UsageError(f"--out {said}: you may not write there; give another place")
    if find_spec("matplotlib") is None:
        raise MissingExtra("matplotlib", "tools", "drawing the curve")
    return target


def _options(optimizer: str, given: Any) -> dict[str, Any]:
    """The options that an optimizer has in a comparison, and over them the given ones."""
    mine = {} if given is None else mapping("find-lr", "options", given, "a dict, as {'momentum': 0.9}")
    for name in mine:
        text("find-lr", "an option", name, "the name of an argument, as momentum")
    if "lr" in mine:
        raise UsageError("find-lr: options have lr, which is what is searched; its range is low and high")
    cls = find(optimizer)
    inside = find(mine["base"]) if "base" in mine else cls
    return {**inside.facts.compare_options, **mine}
