"""Copies of weights, and weights in the precision of their optimizer, with the low bits of split weights."""

from __future__ import annotations

import torch
from torch import Tensor

from stepwell.engine import formats, halves, sharding
from stepwell.engine.update import innermost


def copy_all(targets: list[Tensor], values: list[Tensor]) -> None:
    """Copy every value into its target, in one operation where possible."""
    if not targets:
        return
    if any(hasattr(target, "full_tensor") for target in targets):  # shards: torch has no such operation for them
        for target, value in zip(targets, values, strict=True):
            target.copy_(value)
    else:
        torch._foreach_copy_(targets, values)


def wide(tensor: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:
    """The weights in fp32 or wider, with the low bits of split weights."""
    low = innermost(optimizer).state.get(tensor, {}).get(formats.LOW_BITS)
    if low is None:
        return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))
    whole = halves.join(sharding.local(tensor.detach()), sharding.local(low))
    return sharding.spread_like(tensor, whole) if sharding.is_spread(tensor) else whole


def write_wide(tensor: Tensor, values: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Set the weights to fp32 values, rounded to the nearest; split weights keep the lost bits."""
    low = innermost(optimizer).state.get(tensor, {}).get(formats.LOW_BITS)
    if low is None:
        tensor.detach().copy_(values)
        return
    held = sharding.local(tensor.detach()), sharding.local(low)
    for kept, part in zip(held, halves.split(sharding.local(values), tensor.dtype), strict=True):
        kept.copy_(part)
