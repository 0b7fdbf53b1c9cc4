"""The state of divided matrices in checkpoints.

Between steps the owner of a matrix has its state, and the others have empty tensors. A checkpoint has the state as
DTensors that are cut like the parameter (and by rows if they have another shape), so torch.distributed.checkpoint
stores and reshards it like any state, and the owners may be others when it is loaded. A file of one process has the
whole tensors, and is loaded as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stepwell.engine import formats, sharding, together
from stepwell.engine.divided.division import Division, sizes_of

_OF_THE_PART = ("step", formats.LOW_BITS)  # what every process keeps of its part


def shown(optimizer: Any) -> dict[Tensor, dict[str, Any]]:
    """For each divided matrix, the state of the whole as DTensors. All processes that share one call this."""
    if optimizer.owners.is_empty:
        return {}
    plan = optimizer._plan or optimizer.make_plan()
    found: dict[Tensor, dict[str, Any]] = {}
    for matrices in plan.owned:
        together.meet(type(optimizer).__name__, "optimizer.state_dict", ranks=matrices.ranks)
        found.update(matrices.shown())
    return found


def is_of_whole(optimizer: Any, tensor: Tensor, group: Mapping[str, Any] | None = None) -> bool:
    """Whether the state of a parameter is that of a whole matrix, at its owner.

    Args:
        group: the hyperparameters of the parameter; those of its group in the optimizer if None.
    """
    if not hasattr(optimizer, "owners"):
        return False
    if group is None:
        group = next((g for g in optimizer.param_groups if any(p is tensor for p in g["params"])), None)
    return group is not None and bool(optimizer.owners.divides(optimizer.signature_for(group, tensor), tensor))


def empty(tensor: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A DTensor to read a piece of the state of a divided matrix into, whose shape is not that of the matrix."""
    division = Division(tensor)
    placements = division.placements_of(shape, tensor.shape)
    region = division.regions(shape, placements)[division.rank]
    return division.spread(torch.zeros(sizes_of(region), dtype=dtype, device=tensor.device), shape, placements)


def gathered(tensor: Tensor, slots: Mapping[Any, Any]) -> dict[Any, Any]:
    """The saved slots of a divided matrix as whole tensors, in every process: what is wrong with one is an error
    everywhere. Low bits belong to the part of each process. All processes that share the matrix call this."""
    result = dict(slots)
    low = slots.get(formats.LOW_BITS)
    if isinstance(low, Tensor) and low.shape == tensor.shape:
        result[formats.LOW_BITS] = sharding.placed_like(low, tensor)
    for key, value in slots.items():
        if key not in _OF_THE_PART and isinstance(value, Tensor) and sharding.is_spread(value):
            spread: Any = value
            result[key] = spread.full_tensor()
    return result


def kept(optimizer: Any, tensor: Tensor, whole: Mapping[str, Any]) -> dict[str, Any]:
    """The checked state of a divided matrix as this process keeps it: the step and what belongs to its part, and the
    state of the whole, which is empty where another process is the owner."""
    if optimizer.owners.owner_of(tensor) == optimizer.owners.division_of(tensor).rank:
        return dict(whole)
    return {key: one if key in _OF_THE_PART else torch.empty(0, dtype=one.dtype) for key, one in whole.items()}
