"""Rastrigin's egg box: a bowl covered with local minima, one per integer point. Small steps stay in the first minimum.

height = 20 + x^2 - 10 cos(2 pi x) + y^2 - 10 cos(2 pi y), minimum 0 at (0, 0).

Reference: L. A. Rastrigin, Systems of extremal control, 1974; this form from H. Muehlenbein et al., 1991.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stepwell.tasks.plane import plane_task
from stepwell.tasks.task import Surface


def height(x: Tensor, y: Tensor) -> Tensor:
    """(x [..], y [..]) -> [..], at least 0."""
    return 20 + x**2 - 10 * torch.cos(2 * math.pi * x) + y**2 - 10 * torch.cos(2 * math.pi * y)


task = plane_task(
    "rastrigin",
    "a point crosses Rastrigin's field of local minima, 2 parameters",
    Surface(height, x=(-3.5, 2.0), y=(-2.0, 4.5), minima=((0.0, 0.0),)),
    start=(-1.6, 2.4),
    steps=500,
    target=1.5,  # the centre and the four minima beside it (height 1); those on the diagonals have height 2
    spread=0.2,
    noise=30.0,  # slopes reach 65: noise and a large rate climb walls together, as in simulated annealing
    about="20 + x^2 - 10 cos(2 pi x) + y^2 - 10 cos(2 pi y)",
)
