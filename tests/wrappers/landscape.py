"""A loss that can be evaluated anywhere, in torch and in float64 NumPy, other at every step.

    loss(w, t) = sum_i sum log cosh(a_ti * w_i - b_ti) + c / 2 * (sum of all w)^2

Tensors are left out of it before their first step, so that their gradient comes late.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

SHAPES = ((6, 4), (4, 6), (5,), (), (3, 2, 2, 2))
NAMES = ("a.weight", "b.weight", "a.bias", "scale", "c.weight")
LATE = {2: 3, 3: 1}
STEPS = 20
_COUPLING = 0.05


class Landscape:
    """The loss, its gradient, and where to begin."""

    def __init__(self, seed: int = 0, late: bool = True) -> None:
        rng = np.random.default_rng(seed)
        self.start = [np.asarray(rng.normal(size=shape)) for shape in SHAPES]
        self.late = LATE if late else {}
        self._a = [[np.asarray(rng.normal(size=shape) + 1.5) for shape in SHAPES] for _ in range(STEPS)]
        self._b = [[np.asarray(rng.normal(size=shape)) for shape in SHAPES] for _ in range(STEPS)]

    def gradient(self, params: Sequence[np.ndarray], step: int) -> list[np.ndarray | None]:
        """Analytically."""
        present = [step >= self.late.get(i, 0) for i in range(len(params))]
        total = sum(np.sum(p) for p, there in zip(params, present, strict=True) if there)
        found: list[Any] = []
        for p, a, b, there in zip(params, self._a[step], self._b[step], present, strict=True):
            found.append(a * np.tanh(a * p - b) + _COUPLING * total if there else None)
        return found

    def loss(self, params: Sequence[Tensor], step: int) -> Tensor:
        """With torch."""
        value = torch.zeros((), dtype=params[0].dtype)
        total = torch.zeros((), dtype=params[0].dtype)
        for i, p in enumerate(params):
            if step >= self.late.get(i, 0):
                a, b = (torch.from_numpy(x[step][i]).to(p.dtype) for x in (self._a, self._b))
                value = value + torch.log(torch.cosh(a * p - b)).sum()
                total = total + p.sum()
        return value + _COUPLING / 2 * total**2

    def leaves(self, dtype: torch.dtype = torch.float64) -> list[Tensor]:
        """The parameters where it begins."""
        return [torch.from_numpy(p.copy()).to(dtype).requires_grad_() for p in self.start]


def named(params: Sequence[Tensor]) -> list[tuple[str, Tensor]]:
    """With names, as `model.named_parameters()` gives them."""
    return list(zip(NAMES, params, strict=True))


def closure_of(optimizer: torch.optim.Optimizer, landscape: Landscape, params: Sequence[Tensor], step: int) -> Any:
    """What `optimizer.step` takes."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = landscape.loss(params, step)
        value.backward()
        return value

    return closure
