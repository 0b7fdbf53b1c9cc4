"""A ravine: a quadratic that is a thousand times steeper across than along, rotated so that no axis is parallel to it.

height = (u^2 + 1000 v^2) / 2 with u, v the coordinates rotated by 30 degrees, minimum 0 at (0, 0). A rate that is
stable across the ravine is very slow along it. The classical remedies are momentum and a scale per parameter; the
rotation makes a scale per parameter half as effective.

Reference: B. T. Polyak, Some methods of speeding up the convergence of iteration methods, 1964.
"""

from __future__ import annotations

import math

from torch import Tensor

from stepwell.tasks.plane import plane_task
from stepwell.tasks.task import Surface

STEEPNESS = 1000.0
COS, SIN = math.cos(math.pi / 6), math.sin(math.pi / 6)


def height(x: Tensor, y: Tensor) -> Tensor:
    """(x [..], y [..]) -> [..], at least 0."""
    along, across = COS * x + SIN * y, COS * y - SIN * x
    return (along**2 + STEEPNESS * across**2) / 2


task = plane_task(
    "ravine",
    "a point runs down a narrow slanted ravine (condition number 1000), 2 parameters",
    Surface(height, x=(-3.0, 1.0), y=(-2.2, 1.0), minima=((0.0, 0.0),), log=True),
    start=(-2.6, -1.2),
    steps=500,
    target=0.01,
    spread=0.05,
    noise=0.05,
    about="(u^2 + 1000 v^2) / 2, turned by 30 degrees",
)
