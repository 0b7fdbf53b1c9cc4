"""The move of SAM and ASAM to the highest loss nearby, as an update of its own by kernels.

size = |p| + eta for the tensors whose `adaptive` is True, 1 for others
p   <- p + rho * size * size * g / ||size * g||        (one norm over all tensors; nothing moves where it is 0)

Two passes over weights and gradients, where torch's operations make nine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stepwell.engine import Optimizer, Range, sharding
from stepwell.engine.kernels.installed import has_numba
from stepwell.ops import abs, sqrt, where


class Part(NamedTuple):
    """Tensors that are moved alike. A negative rho moves to the lowest loss nearby."""

    tensors: list[Tensor]
    rho: float
    adaptive: bool


def measure(g: Any, p: Any, t: Any, *, eta: Any, adaptive: bool) -> dict[str, Any]:
    """What an element adds to the squared norm."""
    scaled = (abs(p) + eta) * g if adaptive else g
    return {"squared": scaled * scaled}


def update(g: Any, p: Any, t: Any, *, lr: Any, rho: Any, eta: Any, adaptive: bool, squared: Any) -> Any:
    """What is subtracted from an element."""
    length = lr * where(squared > 0, rho / sqrt(squared), 0)
    size = abs(p) + eta if adaptive else 1
    return -(length * (size * size * g))


class _Perturbation(Optimizer):
    rule, measure, sums, over, decay = update, measure, ("squared",), "run", None
    ranges = {"rho": Range(-float("inf")), "eta": Range(0)}

    def choose(
        self, group: Mapping[str, Any], tensor: Tensor, flags: dict[str, Any], decay: str | None
    ) -> tuple[dict[str, Any], str | None]:
        return {**flags, "adaptive": group["adaptive"]}, decay


class Perturbation:
    """Moves the weights of some parameters, with their gradients."""

    def __init__(self) -> None:
        self._parts: list[Part] = []
        self._optimizer: Any = None

    def move(self, parts: Sequence[Part], eta: float) -> None:
        """Move those of the tensors that have a gradient: all, or, if an exception occurs before, none."""
        if not self._fits(parts):
            groups = [{"params": part.tensors} for part in parts]
            self._optimizer = _Perturbation(groups, {"lr": 1.0, "rho": 0.0, "eta": 0.0, "adaptive": False}, {})
            self._parts = [part._replace(tensors=list(part.tensors)) for part in parts]
        for group, part in zip(self._optimizer.param_groups, parts, strict=True):
            group["rho"], group["eta"], group["adaptive"] = part.rho, eta, part.adaptive
        self._optimizer.update()

    def _fits(self, parts: Sequence[Part]) -> bool:
        return len(parts) == len(self._parts) and all(
            len(one.tensors) == len(other.tensors) and all(map(is_, one.tensors, other.tensors))
            for one, other in zip(parts, self._parts, strict=True)
        )


def can_move(tensor: Tensor) -> bool:
    """Whether kernels move a tensor as torch's operations would: a usual one in the memory of the CPU, whose numbers
    are those that are computed with."""
    usual = tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.float64) and tensor.is_leaf
    return usual and not sharding.is_spread(tensor) and type(tensor) in (Tensor, torch.nn.Parameter) and has_numba()
