"""Parameters that are sharded over a device mesh (DTensor): steps run on the local shard, sums are reduced over the
mesh.

DTensor's dispatch is not used. Every process takes part in every reduction, even with empty shards: otherwise the other
processes would wait for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

# (mesh, the mesh's dimensions over which a tensor is cut): what a sum over the tensor must be reduced over
Shards = tuple[Any, tuple[int, ...]]


def local(tensor: Tensor) -> Tensor:
    """The local part of a tensor: itself, unless it is a DTensor."""
    return getattr(tensor, "_local_tensor", tensor)


def is_spread(tensor: Tensor) -> bool:
    return hasattr(tensor, "_local_tensor")


def shards_of(tensor: Tensor) -> Shards | None:
    """The mesh dimensions over which a sum over all elements of `tensor` is reduced; None if all elements are local."""
    if not is_spread(tensor):
        return None
    spec: Any = tensor
    cut = tuple(i for i, placement in enumerate(spec.placements) if not placement.is_replicate())
    return (spec.device_mesh, cut) if cut else None


def is_cut(tensor: Tensor) -> bool:
    """Whether parts of a tensor are in other processes."""
    shards = shards_of(tensor)
    return shards is not None and any(shards[0].size(dimension) > 1 for dimension in shards[1])


def no_matrix(tensor: Tensor) -> str | None:
    """The reason why a matrix rule cannot update a tensor, or None. The answer is the same in every process."""
    if is_cut(tensor):
        return "it is sharded over a device mesh, and its rule needs the whole matrix; replicate it"
    return None


def largest_shard(tensor: Tensor) -> int:
    """The number of elements of the largest shard of a tensor, which is that of the first process."""
    spread: Any = tensor
    shape = list(tensor.shape)
    for number, placement in enumerate(spread.placements):
        if not placement.is_replicate():
            shape[placement.dim] = -(-shape[placement.dim] // spread.device_mesh.size(number))
    return math.prod(shape)


def rows_of_all(owner: Tensor, part: Tensor, length: int, follows_elements: bool) -> Tensor:
    """A vector that belongs to the shard here (block scales, packed codes), as a part of one tensor over all processes.

    Distributed checkpoints take a plain tensor for one that is everywhere the same, and keep that of one process.

    Args:
        owner: the parameter.
        part: the vector.
        length: how long that of the largest shard is; shorter ones are filled up.
        follows_elements: whether the vectors one after the other are that of the whole parameter, so that another
            number of processes can read them: a vector then, and otherwise a row for each process.
    """
    from torch.distributed.tensor import DTensor, Replicate, Shard

    known: Any = owner
    mesh = known.device_mesh
    placements = [Replicate() if one.is_replicate() else Shard(0) for one in known.placements]
    if len(part) < length:
        part = torch.cat([part, part.new_ones(length - len(part))])
    return DTensor.from_local(part if follows_elements else part[None], mesh, placements, run_check=False)


def local_gradient(gradient: Tensor, owner: Tensor) -> Tensor:
    """The local part of a gradient, for the local part of its parameter."""
    if is_spread(gradient) and is_spread(owner):
        spread: Any = gradient
        wanted = owner.placements  # type: ignore[attr-defined]  # a DTensor, as is_spread says
        if spread.placements != wanted:
            gradient = spread.redistribute(placements=wanted)
    return local(gradient)


def spread_like(owner: Tensor, part: Tensor) -> Tensor:
    """Local state of a DTensor as a DTensor, so that distributed checkpoints know its placement."""
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
    """Each value once, in the order of the parameters, which is the same in every process."""
    return list(dict.fromkeys(one for one in shards if one is not None))
