"""What `stepwell find-lr` prints: the learning rate of a task and an optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepwell.errors import MissingExtra
from stepwell.finder.find import find_lr
from stepwell.finder.found import FoundLR
from stepwell.optimizers import create
from stepwell.step.estimators import twice_differentiable

if TYPE_CHECKING:
    from stepwell.tasks import Task


def found_for(
    task: Task,
    optimizer: str,
    *,
    options: Mapping[str, Any] | None = None,
    low: float | None = None,
    high: float | None = None,
    iterations: int = 99,
    orders: int = 3,
    accumulate: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    progress: bool | None = None,
) -> FoundLR:
    """Run the finder on a task's model of this seed; `str()` of the result is what the command prints.

    Args:
        task: of `stepwell.tasks`. optimizer: its name. options: its arguments besides lr.
        out: also draw the curve into this file: .png, .svg or .pdf.
        low, high, iterations, orders, accumulate, seed, progress: as in `find_lr`.

    Raises UsageError for what `find_lr` refuses; MissingExtra if `out` needs matplotlib, before anything is trained.
    """
    if out is not None:
        try:
            import matplotlib
        except ImportError:
            raise MissingExtra("matplotlib", "tools", "drawing the curve") from None
        matplotlib.use("Agg")
    model = task.build(seed)
    chosen = create(optimizer, model, **(options or {}))
    found = find_lr(
        model,
        chosen,
        task.batches,
        twice_differentiable(chosen, task.loss),
        low=low,
        high=high,
        iterations=iterations,
        orders=orders,
        accumulate=accumulate,
        seed=seed,
        progress=progress,
    )
    if out is not None:
        axes = found.plot()
        axes.figure.savefig(out)
        import matplotlib.pyplot as plt

        plt.close(axes.figure)
    return found
