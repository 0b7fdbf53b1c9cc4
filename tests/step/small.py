"""A small model, its data, and how states are compared."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def model(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).to(dtype)


def data(count: int = 12, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 5, generator=generator, dtype=dtype)
    return x, torch.randint(3, (count,), generator=generator)


def loss(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(network(x), y)


def flat(network: nn.Module) -> Tensor:
    """All parameters as one vector, a copy."""
    return torch.cat([p.detach().reshape(-1) for p in network.parameters()])


def same(one: Any, other: Any) -> bool:
    """Whether two states are equal bit for bit, through dicts and lists."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        return torch.equal(
            one.contiguous().view(torch.uint8) if one.dim() else one.reshape(1).view(torch.uint8),
            other.contiguous().view(torch.uint8) if other.dim() else other.reshape(1).view(torch.uint8),
        )
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return type(one) is type(other) and one == other
