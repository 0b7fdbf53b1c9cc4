"""Parameters that are spread over a mesh of processes (DTensor): steps run on the local shard, sums over the mesh.

Nothing here goes through DTensor's dispatch. Every process takes part in every reduction, also one whose shards are all
empty: otherwise the others would wait for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

# (mesh, the mesh's dimensions over which a tensor is cut): what a sum over the tensor must be reduced over
Shards = tuple[Any, tuple[int, ...]]


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that lies here: itself, unless it is a DTensor."""
    return getattr(tensor, "_local_tensor", tensor)


def is_spread(tensor: Tensor) -> bool:
    return hasattr(tensor, "_local_tensor")


def shards_of(tensor: Tensor) -> Shards | None:
    """What a sum over all elements of `tensor` must be reduced over; None where all of them lie here."""
    if not is_spread(tensor):
        return None
    spec: Any = tensor
    cut = tuple(i for i, placement in enumerate(spec.placements) if not placement.is_replicate())
    return (spec.device_mesh, cut) if cut else None


def local_gradient(gradient: Tensor, owner: Tensor) -> Tensor:
    """The part of a gradient that belongs to the local part of its parameter."""
    if is_spread(gradient) and is_spread(owner):
        spread: Any = gradient
        wanted = owner.placements  # type: ignore[attr-defined]  # a DTensor, as is_spread says
        if spread.placements != wanted:
            gradient = spread.redistribute(placements=wanted)
    return local(gradient)


def spread_like(owner: Tensor, part: Tensor) -> Tensor:
    """Local state of a DTensor as a DTensor, so that distributed checkpoints know where it lies."""
    from torch.distributed.tensor import DTensor

    known: Any = owner
    return DTensor.from_local(
        part, known.device_mesh, known.placements, run_check=False, shape=owner.shape, stride=owner.stride()
    )


def reduce(values: Tensor, shards: Shards) -> None:
    """Add up `values` over the processes that hold parts of a tensor, in place."""
    mesh, dimensions = shards
    for dimension in dimensions:
        torch.distributed.all_reduce(values, group=mesh.get_group(dimension))


def ordered(shards: Iterable[Shards | None]) -> list[Shards]:
    """Each once, in the order of the parameters, which is the same in every process."""
    return list(dict.fromkeys(one for one in shards if one is not None))
