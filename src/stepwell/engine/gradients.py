"""Operations on all gradients: their norm, and their multiplication for optimizers that do not accept a factor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Factor = float | Tensor


def values(gradient: Tensor) -> Tensor:
    """The values of a gradient; of a sparse gradient, the values of its rows."""
    return gradient.coalesce().values() if gradient.is_sparse else gradient


def norms(gradients: Sequence[Tensor], order: float = 2.0) -> list[Tensor]:
    """The norm of each gradient, at least fp32, on its device: ||g_i||."""
    found: list[Any] = [None] * len(gradients)
    by_kind: dict[Any, list[int]] = {}
    for place, gradient in enumerate(gradients):
        by_kind.setdefault((gradient.device, gradient.dtype), []).append(place)
    for (_, dtype), places in by_kind.items():
        wide = dtype if dtype == torch.float64 else torch.float32  # squares of fp16 overflow at 256
        part = torch._foreach_norm([values(gradients[place]) for place in places], order, dtype=wide)
        for place, value in zip(places, part, strict=True):
            found[place] = value.full_tensor() if hasattr(value, "full_tensor") else value  # over the mesh
    return found


def global_norm(gradients: Sequence[Tensor], order: float = 2.0) -> Tensor:
    """The norm of all gradients as one vector, a 0-d tensor on the device of the first.

    sqrt(sum_i ||g_i||^2), or the largest magnitude for `order=inf`.
    """
    parts = norms(gradients, order)
    device = parts[0].device
    dtype = max((part.dtype for part in parts), key=lambda kind: kind.itemsize)
    return torch.linalg.vector_norm(torch.stack([part.to(device, dtype) for part in parts]), order)


def multiply(gradients: Sequence[Tensor], factor: Factor) -> None:
    """Multiply every gradient in place: one pass, for optimizers that do not accept a factor."""
    if isinstance(factor, float) and factor == 1.0:
        return
    by_kind: dict[Any, list[Tensor]] = {}
    for gradient in gradients:
        if gradient.is_sparse:
            gradient.mul_(factor)
        else:
            by_kind.setdefault((gradient.device, gradient.dtype), []).append(gradient)
    for (device, dtype), part in by_kind.items():
        torch._foreach_mul_(part, factor.to(device, dtype) if isinstance(factor, Tensor) else factor)
