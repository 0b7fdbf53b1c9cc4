"""Himmelblau's four basins: four minima of equal height around one hill. The start is on the hill, so the first steps
and the noise decide which minimum is found; every one of them counts.

height = (x^2 + y - 11)^2 + (x + y^2 - 7)^2, minimum 0 at (3, 2) and at three other points.

Reference: D. M. Himmelblau, Applied nonlinear programming, 1972.
"""

from __future__ import annotations

from torch import Tensor

from stepwell.tasks.plane import plane_task
from stepwell.tasks.task import Surface

MINIMA = (
    (3.0, 2.0),
    (-2.8051180869527448, 3.1313125182505730),
    (-3.7793102533777469, -3.2831859912861694),
    (3.5844283403304917, -1.8481265269644034),
)


def height(x: Tensor, y: Tensor) -> Tensor:
    """(x [..], y [..]) -> [..], at least 0."""
    return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2


task = plane_task(
    "himmelblau",
    "a point leaves a hill for one of Himmelblau's four minima, 2 parameters",
    Surface(height, x=(-5.5, 5.5), y=(-5.5, 5.5), minima=MINIMA, log=True),
    start=(-0.27, -0.92),  # the top of the hill
    steps=500,
    target=0.01,
    spread=0.2,
    noise=1.0,
    about="(x^2 + y - 11)^2 + (x + y^2 - 7)^2",
)
