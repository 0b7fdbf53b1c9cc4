"""A monkey saddle: three ways down and three ways up meet at a point where gradient and curvature are zero. Close to it
a plain gradient step is tiny, however large the learning rate; a step that is divided by the gradient's size is not.

In polar coordinates, height = 4 r^3 cos(3 a) + 3 r^4 + 1: the monkey saddle x^3 - 3 x y^2 with a fourth power that
bounds it. The minimum is 0 at distance 1, at the angles 60, 180 and 300 degrees.

References: D. Hilbert, S. Cohn-Vossen, Anschauliche Geometrie, 1932 (the monkey saddle); Y. N. Dauphin et al.,
Identifying and attacking the saddle point problem in high-dimensional non-convex optimization, 2014, figure 1.
"""

from __future__ import annotations

from torch import Tensor

from stepwell.tasks.plane import plane_task
from stepwell.tasks.task import Surface

HALF_ROOT = 0.75**0.5  # sine of 60 degrees


def height(x: Tensor, y: Tensor) -> Tensor:
    """(x [..], y [..]) -> [..], at least 0."""
    return 4 * (x**3 - 3 * x * y**2) + 3 * (x**2 + y**2) ** 2 + 1


task = plane_task(
    "saddle",
    "a point leaves a monkey saddle, where the gradient vanishes, 2 parameters",
    Surface(height, x=(-1.5, 1.5), y=(-1.5, 1.5), minima=((-1.0, 0.0), (0.5, HALF_ROOT), (0.5, -HALF_ROOT))),
    start=(0.03, 0.0),  # on one of the three ways up
    steps=500,
    target=0.01,
    spread=0.01,
    noise=0.03,
    about="4 x^3 - 12 x y^2 + 3 (x^2 + y^2)^2 + 1",
)
