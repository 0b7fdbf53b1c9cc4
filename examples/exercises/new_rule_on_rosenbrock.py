"""A new rule, RMSprop with Nesterov momentum, against SGD and Adam on Rosenbrock's valley.

The rule is in rmsprop_nesterov.py. Every optimizer starts at (-1.2, 1), has no noise in its gradient, and is given the
same number of learning rates. Its best rate is the rate that first brings the loss below 0.01 to stay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from exercise import COLORS, Options, finish, options, panels
from rmsprop_nesterov import RMSpropNesterov
from torch import nn

import stepwell as sw
from stepwell.tasks.rosenbrock import height, task

GOAL, START = 0.01, (-1.2, 1.0)
HOLD = 20  # steps that the loss must stay below the goal: a path that jumps across the plane may hit it by chance

# The optimizer, and the range of its learning rates: six, evenly spaced in their logarithm.
CANDIDATES: dict[str, tuple[Callable[..., torch.optim.Optimizer], float, float]] = {
    "SGD": (sw.SGD, 1e-4, 3e-3),
    "SGD, momentum 0.9": (lambda p, lr: sw.SGD(p, lr=lr, momentum=0.9), 1e-4, 1e-2),
    "Adam": (sw.Adam, 1e-2, 3.0),
    "RMSprop": (sw.RMSprop, 1e-3, 1e-1),
    "RMSprop, momentum 0.9": (lambda p, lr: sw.RMSprop(p, lr=lr, momentum=0.9), 3e-4, 1e-1),
    "RMSprop, Nesterov": (RMSpropNesterov, 3e-4, 1e-1),
}


@dataclass(frozen=True)
class Run:
    """One path: its learning rate, its points [n, 2], its losses [n]."""

    lr: float
    path: np.ndarray
    losses: np.ndarray

    @property
    def steps(self) -> int | None:
        """The number of steps until the loss is below the goal and stays there, or None."""
        arrived = len(self.losses) > HOLD and (self.losses[-HOLD:] < GOAL).all()
        return len(self.losses) - HOLD if arrived else None


def follow(make: Callable[..., torch.optim.Optimizer], lr: float, most: int) -> Run:
    """Run until the loss stays below the goal, for at most `most` steps."""
    point = nn.Parameter(torch.tensor(START))
    optimizer = make([point], lr=lr)
    path, losses = [], []
    held = 0
    while held < HOLD and len(losses) < most + HOLD:
        loss = height(*point)
        path.append(point.tolist())
        losses.append(loss.item())
        held = held + 1 if losses[-1] < GOAL else 0
        if not losses[-1] < 1e6:  # so far up the wall that no path comes back
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Run(lr, np.array(path), np.array(losses))


def best(make: Callable[..., torch.optim.Optimizer], rates: np.ndarray, most: int) -> Run:
    """The run that reaches the goal in the fewest steps; if no run does, the run that ends lowest."""
    found: Run | None = None
    for lr in rates:
        run = follow(make, float(lr), most)
        if found is None or (run.steps or most + 1, run.losses[-1]) < (found.steps or most + 1, found.losses[-1]):
            found = run
            most = run.steps or most  # a slower run is not of interest
    assert found is not None
    return found


def draw(runs: dict[str, Run], options: Options) -> None:
    figure, (plane, curves) = panels(1, 2, (11, 4.6))
    assert task.surface is not None
    x, y = torch.meshgrid(torch.linspace(-1.7, 1.5, 160), torch.linspace(-0.6, 1.8, 120), indexing="xy")
    plane.contourf(x, y, torch.log10(height(x, y) + 1e-3), levels=14, cmap="Greys", alpha=0.35)
    plane.plot(*task.surface.minima[0], "k*", markersize=12)
    for color, (name, run) in zip(COLORS, runs.items(), strict=False):
        plane.plot(*run.path.T, color=color, linewidth=1.2)
        curves.plot(run.losses, color=color, label=f"{name}: {run.steps or 'not reached'}, lr {run.lr:.2g}")
    plane.set(xlim=(-1.7, 1.5), ylim=(-0.6, 1.8), title="paths to the star, each at its best lr")
    curves.axhline(GOAL, color="0.5", linestyle="--", linewidth=1)
    curves.set(xscale="symlog", yscale="log", xlabel="steps", ylabel="loss", title=f"steps to a loss below {GOAL}")
    curves.set_xlim(left=0)
    curves.legend(fontsize=8)
    finish(figure, {f"{name}, steps": run.steps for name, run in runs.items()}, options)


def main() -> None:
    chosen = options(__doc__)
    tried, most = (slice(3, 5), 350) if chosen.quick else (slice(6), 3000)
    runs = {}
    for name, (make, low, high) in CANDIDATES.items():
        runs[name] = best(make, np.geomspace(low, high, 6)[tried], most)
    draw(runs, chosen)


if __name__ == "__main__":
    main()
