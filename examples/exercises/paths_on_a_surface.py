"""The paths of five optimizers on three surfaces: a ravine, a saddle, and many minima.

Each optimizer has the same number of learning rates on each surface, and its best rate is the rate that ends lowest.
There is no noise. A surface of two parameters shows how a rule moves. It does not show which
rule trains networks well.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from exercise import COLORS, finish, options, panels
from torch import Tensor, nn

import stepwell as sw
from stepwell.tasks import rastrigin, ravine

Height = Callable[[Tensor, Tensor], Tensor]


def saddle(x: Tensor, y: Tensor) -> Tensor:
    """x^2 - y^2 + y^4 / 4 + 1: a saddle of height 1 at (0, 0), and minima of height 0 at y = -1.41 and y = 1.41."""
    return x**2 - y**2 + y**4 / 4 + 1


# The height, the start, the window (x, y), and the height that counts as arrived.
SURFACES: dict[str, tuple[Height, tuple[float, float], tuple[float, float, float, float], float]] = {
    "ravine": (ravine.height, (-2.6, -1.2), (-3.0, 1.0, -2.2, 1.0), 0.01),
    "saddle": (saddle, (-1.5, 1e-3), (-2.0, 2.0, -0.6, 2.0), 0.01),
    "many minima": (rastrigin.height, (-2.2, 1.8), (-3.0, 3.0, -3.0, 3.0), 0.01),
}

# The optimizer, and the range of its learning rates.
OPTIMIZERS: dict[str, tuple[Callable[..., torch.optim.Optimizer], float, float]] = {
    "SGD": (sw.SGD, 3e-4, 0.3),
    "SGD, momentum 0.9": (lambda p, lr: sw.SGD(p, lr=lr, momentum=0.9), 1e-4, 0.1),
    "RMSprop": (sw.RMSprop, 1e-3, 0.3),
    "Adam": (sw.Adam, 3e-3, 1.0),
    "Lion": (sw.Lion, 1e-3, 0.3),
}


def follow(
    make: Callable[..., torch.optim.Optimizer], lr: float, height: Height, start: tuple[float, float], steps: int
) -> np.ndarray:
    """The points [n, 3] of a path, with their heights; a path that leaves the surface ends there."""
    point = nn.Parameter(torch.tensor(start))
    optimizer = make([point], lr=lr)
    path = []
    for _ in range(steps + 1):
        value = height(*point)
        path.append([*point.tolist(), value.item()])
        if not abs(path[-1][2]) < 1e5:
            break
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return np.array(path)


def main() -> None:
    chosen = options(__doc__)
    steps, rates = (90, 3) if chosen.quick else (200, 5)
    figure, axes = panels(2, 3, (13, 7.6))
    numbers: dict[str, float | int | None] = {}
    for column, (surface, (height, start, (left, right, low, high), goal)) in enumerate(SURFACES.items()):
        plane, curves = axes[column], axes[3 + column]
        x, y = torch.meshgrid(torch.linspace(left, right, 150), torch.linspace(low, high, 150), indexing="xy")
        z = height(x, y)
        shown = torch.log10(z + 0.05) if surface == "ravine" else z
        plane.contourf(x, y, shown, levels=12, cmap="Greys", alpha=0.35)
        for color, (name, (make, least, most)) in zip(COLORS, OPTIMIZERS.items(), strict=False):
            paths = {lr: follow(make, lr, height, start, steps) for lr in np.geomspace(least, most, rates).tolist()}
            lr, path = min(paths.items(), key=lambda item: item[1][-1, 2] if len(item[1]) > steps else np.inf)
            plane.plot(path[:, 0], path[:, 1], color=color, linewidth=1.3)
            curves.plot(path[:, 2] + 1e-6, color=color, label=f"{name}, lr {lr:.2g}")
            arrived = np.flatnonzero(path[:, 2] < goal)
            numbers[f"{surface}, {name}, steps below {goal}"] = int(arrived[0]) if len(arrived) else None
            numbers[f"{surface}, {name}, end"] = float(f"{path[-1, 2]:.2g}")
        plane.plot(*start, "ko", markersize=5)
        plane.set(xlim=(left, right), ylim=(low, high), title=surface)
        plane.grid(False)
        curves.set(xlabel="steps", ylabel="height", yscale="log")
        curves.legend(fontsize=7)
    finish(figure, numbers, chosen)


if __name__ == "__main__":
    main()
