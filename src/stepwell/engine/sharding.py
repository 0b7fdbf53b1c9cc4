"""Parameters that are sharded over a device mesh (DTensor): steps run on the local shard, sums are reduced over the
mesh.

DTensor's dispatch is not used. Every process takes part in every reduction, even with empty shards: otherwise the other
processes would wait for it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stepwell.engine import randomness


def local(tensor: Tensor) -> Tensor:
    """The local part of a tensor: itself, unless it is a DTensor."""
    return getattr(tensor, "_local_tensor", tensor)


def is_spread(tensor: Tensor) -> bool:
    return hasattr(tensor, "_local_tensor")


def groups_of(tensor: Tensor) -> list[Any]:
    """The process groups over which a sum over all elements of `tensor` is reduced, one for each mesh dimension that
    cuts it; empty if all elements are local."""
    if not is_spread(tensor):
        return []
    spec: Any = tensor
    mesh = spec.device_mesh
    cut = [i for i, placement in enumerate(spec.placements) if not placement.is_replicate()]
    return [mesh.get_group(dimension) for dimension in cut if mesh.size(dimension) > 1]


def is_cut(tensor: Tensor) -> bool:
    """Whether parts of a tensor are in other processes."""
    return bool(groups_of(tensor))


class Cuts:
    """How the parameters of an optimizer are cut, and sums over them. False if none is.

    All sums of one step go in one tensor, with a row for each parameter that is cut, through one reduction for each
    process group. The order of parameters and groups is that of the optimizer, and so the same in every process.

    Attributes:
        row: the row of each parameter that is cut, by its number among all parameters.
        sizes: of each row, how many processes have parts of the parameter.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.row: dict[int, int] = {}
        self.sizes: list[int] = []
        self._members: dict[Any, list[int]] = {}  # for each process group, the rows that it cuts
        self._device = "cpu"
        for place, tensor in enumerate(tensors):
            groups = groups_of(tensor)
            if groups:
                self._device = tensor.device.type
                row = self.row[place] = len(self.row)
                self.sizes.append(math.prod(map(torch.distributed.get_world_size, groups)))
                for group in groups:
                    self._members.setdefault(group, []).append(row)

    def __bool__(self) -> bool:
        return bool(self.row)

    def zeros(self, width: int) -> Tensor:
        """The tensor for sums, float64 (parameters that are cut, width)."""
        return torch.zeros((len(self.row), width), dtype=torch.float64, device=self._device)

    def reduce(self, values: Tensor) -> None:
        """Add up the rows over the processes that hold parts of their parameters, in place."""
        for group, rows in self._members.items():
            if len(rows) == len(values):
                torch.distributed.all_reduce(values, group=group)
                continue
            part = values[rows]
            torch.distributed.all_reduce(part, group=group)
            values[rows] = part


def is_one_of_several() -> bool:
    """Whether this process trains together with others."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    return torch.distributed.get_world_size() > 1


def is_flattened(tensor: Tensor) -> bool:
    """Whether a parameter is a part of FullyShardedDataParallel (FSDP1): a vector of what this process has of it."""
    return hasattr(tensor, "_fsdp_flattened") and is_one_of_several()


def no_shape(tensor: Tensor) -> str | None:
    """The reason why no rule that sums over tensors or sees their shape can update a tensor, or None."""
    if is_flattened(tensor):
        return (
            "it is a flat part of FullyShardedDataParallel (FSDP1), which says neither its shape nor where the rest "
            "is; shard the model with torch.distributed.fsdp.fully_shard (in Accelerate: fsdp_version=2)"
        )
    return None


def inside_zero() -> bool:
    """Whether a ZeroRedundancyOptimizer constructs an optimizer now."""
    module = sys.modules.get("torch.distributed.optim.zero_redundancy_optimizer")
    if module is None:
        return False
    frame = sys._getframe().f_back
    while frame is not None:
        if isinstance(frame.f_locals.get("self"), module.ZeroRedundancyOptimizer):
            return True
        frame = frame.f_back
    return False


def left_behind(tensors: Sequence[Tensor]) -> str:
    """What may be the cause where no parameter of a distributed run has a gradient; empty for one process."""
    if not is_one_of_several() or any(map(is_spread, tensors)):
        return ""
    return (
        "if fully_shard or another call has replaced the model's parameters since, make the optimizer after that call"
    )


def first_element(tensor: Tensor, exact: bool = True) -> int:
    """The place in the whole tensor of the first element here. Rounding draws its bits by place, so that processes do
    not draw the same ones.

    Where a tensor is cut otherwise than in rows, and those who ask know no rows (`exact` is False), the number is only
    another one in every process.
    """
    if not is_cut(tensor):
        return 0
    spread: Any = tensor
    first = 0
    for size, start in zip(tensor.shape, _offset(tensor), strict=True):
        first = first * size + start
    cut = {placement.dim for placement in spread.placements if not placement.is_replicate()}
    return first if exact or cut == {0} else int(randomness.mix(first & 0xFFFFFFFF))


def rows_here(tensor: Tensor) -> tuple[int, int] | None:
    """How the elements here follow one another in the whole tensor: in rows of so many, with so many between the end of
    one and the beginning of the next. None if there are none between them, or if a tensor is cut in a way that has no
    such rows."""
    if not is_cut(tensor):
        return None
    spread: Any = tensor
    inner = {placement.dim for placement in spread.placements if not placement.is_replicate()} - {0}
    part = local(tensor)
    if len(inner) != 1 or part.numel() == 0:
        return None
    dimension = inner.pop()
    length = math.prod(part.shape[dimension:])
    return length, math.prod(tensor.shape[dimension:]) - length


def _offset(tensor: Tensor) -> tuple[int, ...]:
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    spread: Any = tensor
    return compute_local_shape_and_global_offset(tensor.shape, spread.device_mesh, spread.placements)[1]


def largest_shard(tensor: Tensor) -> list[int]:
    """The shape of the largest shard of a tensor, which is that of the first process."""
    spread: Any = tensor
    shape = list(tensor.shape)
    for number, placement in enumerate(spread.placements):
        if not placement.is_replicate():
            shape[placement.dim] = -(-shape[placement.dim] // spread.device_mesh.size(number))
    return shape


def rows_of_all(owner: Tensor, part: Tensor, length: int) -> Tensor:
    """What belongs to the shard here alone (block scales, packed codes), as a row of one tensor over all processes:
    (processes, length, ...).

    Distributed checkpoints take a plain tensor for one that is everywhere the same, and keep that of one process.

    Args:
        owner: the parameter.
        part: the numbers, (n, ...).
        length: how many the largest shard has; others are filled up.
    """
    from torch.distributed.tensor import DTensor, Replicate, Shard

    known: Any = owner
    placements = [Replicate() if one.is_replicate() else Shard(0) for one in known.placements]
    if len(part) < length:
        part = torch.cat([part, part.new_ones(length - len(part), *part.shape[1:])])
    return DTensor.from_local(part[None], known.device_mesh, placements, run_check=False)


def local_gradient(gradient: Tensor, owner: Tensor) -> Tensor:
    """The local part of a gradient, for the local part of its parameter."""
    ours, theirs = getattr(gradient, "_spec", None), getattr(owner, "_spec", None)
    if ours is not theirs and ours is not None and theirs is not None and ours.placements != theirs.placements:
        spread: Any = gradient
        gradient = spread.redistribute(placements=theirs.placements)
    return local(gradient)


def placed_like(whole: Any, owner: Tensor) -> Any:
    """A whole tensor, as one process saves it, cut like a tensor of its shape; anything else as it is. Every process
    has the whole; nothing is sent."""
    if not is_spread(owner) or not isinstance(whole, Tensor) or is_spread(whole):
        return whole
    known: Any = owner
    return placed(whole, owner, known.placements)


def placed(whole: Tensor, owner: Tensor, placements: Sequence[Any]) -> Tensor:
    """A whole tensor, which every process has, on the mesh of `owner`, cut so; nothing is sent."""
    from torch.distributed.tensor import distribute_tensor

    known: Any = owner
    return distribute_tensor(whole.to(known.device), known.device_mesh, placements, src_data_rank=None)


def spread_like(owner: Tensor, part: Tensor) -> Tensor:
    """Local state of a DTensor as a DTensor, so that distributed checkpoints know its placement."""
    from torch.distributed.tensor import DTensor

    known: Any = owner
    return DTensor.from_local(
        part, known.device_mesh, known.placements, run_check=False, shape=owner.shape, stride=owner.stride()
    )


def spread_as(owner: Tensor, part: Tensor, shape: tuple[int, int], placements: Sequence[Any]) -> Tensor:
    """A part of a matrix of this shape, cut so, as a DTensor on the mesh of `owner`."""
    from torch.distributed.tensor import DTensor

    known: Any = owner
    whole, stride = torch.Size(shape), (shape[1], 1)
    return DTensor.from_local(part, known.device_mesh, placements, run_check=False, shape=whole, stride=stride)
