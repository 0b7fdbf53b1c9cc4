"""Beale's plateau: wide flat ground with steep walls at the corners. One learning rate is too large for the walls and
too small for the ground.

height = (1.5 - x + x y)^2 + (2.25 - x + x y^2)^2 + (2.625 - x + x y^3)^2, minimum 0 at (3, 0.5). A flat valley with
heights below 1 leads along y = 1 to infinity, away from the minimum.

Reference: E. M. L. Beale, On an iterative method for finding a local minimum of a function of more than one variable,
1958; J. J. More et al., Testing unconstrained optimization software, 1981, problem 5.
"""

from __future__ import annotations

from torch import Tensor

from stepwell.tasks.plane import plane_task
from stepwell.tasks.task import Surface


def height(x: Tensor, y: Tensor) -> Tensor:
    """(x [..], y [..]) -> [..], at least 0."""
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


task = plane_task(
    "beale",
    "a point leaves Beale's wall and crosses flat ground, 2 parameters",
    Surface(height, x=(-0.5, 4.5), y=(-1.5, 2.0), minima=((3.0, 0.5),), log=True),
    start=(1.0, 1.5),
    steps=1000,
    target=0.01,
    spread=0.05,
    noise=0.02,
    about="(1.5 - x + x y)^2 + (2.25 - x + x y^2)^2 + (2.625 - x + x y^3)^2",
)
