"""Styblinski and Tang's four valleys, each of another depth. The start is high above the shallowest: a slow optimizer
stops there, and an optimizer with momentum or large steps rolls over the ridges into the deepest.

height = (x^4 - 16 x^2 + 5 x + y^4 - 16 y^2 + 5 y) / 2 + 78.33..., minimum 0 at x = y = -2.9035. The other three valleys
have the heights 14.14 (two) and 28.27.

Reference: M. A. Styblinski, T. S. Tang, Experiments in nonconvex optimization, Neural Networks 3, 1990.
"""

from __future__ import annotations

from torch import Tensor

from stepwell.tasks.plane import plane_task
from stepwell.tasks.task import Surface

LOWEST = -2.9035340277711769  # the lowest root of the slope, 4 x^3 - 32 x + 5
DEPTH = 78.332331407542841  # minus the sum at the minimum


def height(x: Tensor, y: Tensor) -> Tensor:
    """(x [..], y [..]) -> [..], at least 0."""
    return (x**4 - 16 * x**2 + 5 * x + y**4 - 16 * y**2 + 5 * y) / 2 + DEPTH


task = plane_task(
    "styblinski",
    "a point rolls through four valleys of different depth, 2 parameters",
    Surface(height, x=(-5.0, 5.0), y=(-5.0, 5.0), minima=((LOWEST, LOWEST),)),
    start=(4.6, 4.0),
    steps=500,
    target=1.0,
    spread=0.1,
    noise=30.0,
    about="(x^4 - 16 x^2 + 5 x + y^4 - 16 y^2 + 5 y) / 2 + 78.33",
)
