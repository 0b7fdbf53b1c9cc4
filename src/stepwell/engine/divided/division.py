"""How processes divide a tensor: which region of the whole each of them holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from stepwell.errors import UsageError

Region = tuple[slice, ...]  # of a tensor, one slice for each dimension

_groups: dict[tuple[int, ...], Any] = {}  # process groups over several mesh dimensions, by ranks


class Division:
    """The processes over which a sharded parameter is cut, and their regions.

    Args:
        tensor: a DTensor whose parts are in several processes.

    Attributes:
        group: the process group of all parts. Where the mesh also replicates, each copy has a group.
        rank: the number of this process in the group.
        size: the number of processes in the group.
    """

    def __init__(self, tensor: Tensor) -> None:
        spread: Any = tensor
        self.mesh, self.placements = spread.device_mesh, tuple(spread.placements)
        self._cut = [
            dimension
            for dimension, placement in enumerate(self.placements)
            if not placement.is_replicate() and self.mesh.size(dimension) > 1
        ]
        self.group = _group_over(self.mesh, self._cut)
        self.rank = torch.distributed.get_rank(self.group)
        self.size = torch.distributed.get_world_size(self.group)

    @cached_property
    def key(self) -> tuple[int, ...]:
        """The ranks of the group; the same for all parameters that are exchanged together."""
        return tuple(torch.distributed.get_process_group_ranks(self.group))

    @cached_property
    def _coordinates(self) -> list[tuple[int, ...]]:
        """The place in the mesh of each process of the group."""
        places = self.mesh.mesh
        return [tuple((places == rank).nonzero()[0].tolist()) for rank in self.key]

    def placements_of(self, shape: Sequence[int], like: Sequence[int]) -> tuple[Any, ...]:
        """The placements of a piece of state: those of the parameter if it has its shape `like`, else by rows."""
        from torch.distributed.tensor import Replicate, Shard

        if tuple(shape) == tuple(like):
            return self.placements
        return tuple(Shard(0) if d in self._cut else Replicate() for d in range(len(self.placements)))

    def regions(self, shape: Sequence[int], placements: Sequence[Any]) -> tuple[Region, ...]:
        """The region of each process of the group. Raises UsageError if they do not add up to the whole."""
        found = tuple(_region(shape, self.mesh.shape, where, placements) for where in self._coordinates)
        if sum(map(elements_of, found)) != math.prod(shape):
            raise UsageError(f"a tensor of shape {tuple(shape)} with the placements {placements}: the parts overlap")
        return found

    def spread(self, part: Tensor, shape: Sequence[int], placements: Sequence[Any]) -> Tensor:
        """A local part as a DTensor."""
        from torch.distributed.tensor import DTensor

        stride = torch.empty(tuple(shape), device="meta").stride()
        return DTensor.from_local(part, self.mesh, placements, run_check=False, shape=torch.Size(shape), stride=stride)


class Copies:
    """Processes that have equal copies of parameters and gradients (DistributedDataParallel): every one has the whole.

    Args:
        group: their process group.
    """

    placements: tuple[Any, ...] = ()

    def __init__(self, group: Any) -> None:
        self.group = group
        self.rank, self.size = torch.distributed.get_rank(group), torch.distributed.get_world_size(group)
        self.key = ("copies", *torch.distributed.get_process_group_ranks(group))

    def placements_of(self, shape: Sequence[int], like: Sequence[int]) -> tuple[Any, ...]:
        """None."""
        return ()

    def regions(self, shape: Sequence[int], placements: Sequence[Any]) -> tuple[Region, ...]:
        """The whole, in each process."""
        return (tuple(slice(0, length) for length in shape),) * self.size

    def spread(self, part: Tensor, shape: Sequence[int], placements: Sequence[Any]) -> Tensor:
        """The tensor itself."""
        return part


def elements_of(region: Region) -> int:
    return math.prod(one.stop - one.start for one in region)


def sizes_of(region: Region) -> tuple[int, ...]:
    return tuple(one.stop - one.start for one in region)


def _group_over(mesh: Any, dimensions: Sequence[int]) -> Any:
    """The process group over some dimensions of a mesh. Every process of the group calls this."""
    if len(dimensions) == 1:
        return mesh.get_group(dimensions[0])
    where = mesh.get_coordinate()
    place = tuple(slice(None) if d in dimensions else where[d] for d in range(mesh.ndim))
    ranks = tuple(sorted(mesh.mesh[place].flatten().tolist()))
    known = _groups.get(ranks)
    if known is None or known not in torch.distributed.distributed_c10d._world.pg_map:  # it may have been destroyed
        known = _groups[ranks] = torch.distributed.new_group(list(ranks), use_local_synchronization=True)
    return known


def _region(shape: Sequence[int], sizes: Sequence[int], where: Sequence[int], placements: Sequence[Any]) -> Region:
    """The region of the process at `where` in a mesh of `sizes`, as DTensor cuts: from the first mesh dimension to the
    last, each part into chunks whose sizes differ only at the end."""
    kept: list[Sequence[int]] = [range(length) for length in shape]
    for size, place, placement in zip(sizes, where, placements, strict=True):
        if placement.is_replicate():
            continue
        dimension, factor = placement.dim, getattr(placement, "split_factor", 1)
        if factor == 1:
            kept[dimension] = _chunk(kept[dimension], size, place)
        else:  # FSDP over tensor parallelism cuts each chunk of the later mesh dimension (`_StridedShard`)
            chunks = [_chunk(kept[dimension], factor, k) for k in range(factor)]
            kept[dimension] = [index for chunk in chunks for index in _chunk(chunk, size, place)]
    for indices in kept:
        if indices and indices[-1] - indices[0] != len(indices) - 1:
            raise UsageError(f"the rows that a process holds of a tensor of shape {tuple(shape)} are not neighbors")
    return tuple(slice(one[0], one[-1] + 1) if one else slice(0, 0) for one in kept)


def _chunk(indices: Sequence[int], count: int, place: int) -> Sequence[int]:
    length = -(-len(indices) // count)
    return indices[place * length : (place + 1) * length]
