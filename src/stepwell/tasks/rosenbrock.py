"""Rosenbrock's banana: a curved valley whose floor is almost flat. Finding the valley is easy, following it is not.

height = (1 - x)^2 + 100 (y - x^2)^2, minimum 0 at (1, 1).

Reference: H. H. Rosenbrock, An automatic method for finding the greatest or least value of a function, 1960.
"""

from __future__ import annotations

from torch import Tensor

from stepwell.tasks.plane import plane_task
from stepwell.tasks.task import Surface


def height(x: Tensor, y: Tensor) -> Tensor:
    """(x [..], y [..]) -> [..], at least 0."""
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


task = plane_task(
    "rosenbrock",
    "a point follows Rosenbrock's curved valley, 2 parameters",
    Surface(height, x=(-2.0, 2.0), y=(-1.0, 3.0), minima=((1.0, 1.0),), log=True),
    start=(-1.2, 1.0),  # the start of the paper
    steps=500,
    target=0.1,
    spread=0.05,
    noise=0.01,
    about="(1 - x)^2 + 100 (y - x^2)^2",
)
