"""The memory order of the elements of a tensor. State has the memory order of its parameter."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def flat(tensor: Tensor) -> Tensor:
    """The elements in the order of memory, as a view. The tensor must have no gaps."""
    return tensor.as_strided((tensor.numel(),), (1,))


def order_of(tensor: Tensor) -> tuple[int, ...]:
    """The dimensions of a tensor in memory order, the slowest first."""
    stride = torch.empty_like(tensor, device="meta").stride()
    return tuple(sorted((d for d in range(tensor.ndim) if tensor.shape[d] > 1), key=lambda d: -stride[d]))


def stride_of(shape: torch.Size, order: Sequence[int]) -> tuple[int, ...]:
    """The strides of a tensor without gaps of that order."""
    stride, step = [1] * len(shape), 1
    for dimension in reversed(order):
        stride[dimension] = step
        step *= shape[dimension]
    return tuple(stride)


def in_order(values: Tensor, shape: torch.Size, stride: tuple[int, ...]) -> Tensor:
    """Flat values in the order of memory of a tensor with `shape` and `stride`, as such a tensor without gaps."""
    like = torch.empty_like(torch.empty_strided(shape, stride, device="meta"))
    result = torch.empty_strided(shape, like.stride(), dtype=values.dtype, device=values.device)
    flat(result).copy_(values)
    return result
