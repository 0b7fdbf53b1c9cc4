"""Which process owns which matrix: the division of work."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from stepwell.engine import sharding
from stepwell.engine.divided.division import Copies, Division
from stepwell.engine.rule import RuleSignature
from stepwell.errors import UsageError, shown


class Owners:
    """The owners of the divided matrices of an optimizer. A matrix keeps its owner, which has its state.

    Args:
        process_group: processes with equal parameters and gradients, that divide the matrices; None for parameters that
            each process updates alone. Matrices that are cut are divided over their mesh.
    """

    def __init__(self, process_group: Any = None) -> None:
        self._process_group = process_group
        self._known: Any = WeakIdKeyDictionary()  # tensor -> (division, owner, work)

    def __contains__(self, tensor: Tensor) -> bool:
        return tensor in self._known

    @property
    def is_empty(self) -> bool:
        """Whether no matrix has an owner."""
        return not self._known

    def divides(self, signature: RuleSignature, tensor: Tensor) -> bool:
        """Whether a tensor is a matrix that is updated by one process, which owns it. The answer is the same in every
        process."""
        if signature.view == "element" or signature.asks_for_sums:
            return False
        copied = self._process_group is not None and not sharding.is_spread(tensor)
        return sharding.is_cut(tensor) or copied

    def refusal(self, signature: RuleSignature, tensor: Tensor) -> str | None:
        """The reason why a matrix cannot be divided, or None. The answer is the same in every process."""
        if self.divides(signature, tensor) and signature.reads_weights:
            return (
                "it is sharded over a device mesh, and its rule reads all weights of a matrix, which no process has; "
                "train with DistributedDataParallel and without process_group, or give sharded matrices to Muon, or "
                "to an optimizer of single elements, such as AdamW or Lion"
            )
        return None

    def division_of(self, tensor: Tensor) -> Division | Copies:
        return self._known[tensor][0]

    def owner_of(self, tensor: Tensor) -> int:
        """The number of a process in the group of the division."""
        return self._known[tensor][1]

    def _division(self, tensor: Tensor) -> Division | Copies:
        return Division(tensor) if sharding.is_cut(tensor) else Copies(self._process_group)

    def assign(self, matrices: Iterable[tuple[Tensor, float]]) -> None:
        """Give the matrices that have no owner one: (tensor, work) in the order of the optimizer, which is that of
        every process."""
        new: dict[Any, list[tuple[Tensor, Division | Copies, float]]] = {}
        loads: dict[Any, list[float]] = {}
        for tensor, work in matrices:
            division = self.division_of(tensor) if tensor in self else self._division(tensor)
            load = loads.setdefault(division.key, [0.0] * division.size)
            if tensor in self:
                load[self.owner_of(tensor)] += work
            else:
                new.setdefault(division.key, []).append((tensor, division, work))
        for key, members in new.items():
            owners = assigned([work for _, _, work in members], len(loads[key]), loads[key])
            for (tensor, division, work), owner in zip(members, owners, strict=True):
                self._known[tensor] = division, owner, work


def process_group_of(owner: str, value: Any, optimizer: Any) -> Any:
    """The checked option `process_group`; None for a group of one process."""
    if value is None:
        return None
    signatures: Iterable[RuleSignature] = getattr(optimizer, "signatures", {}).values()
    if all(signature.view == "element" or signature.asks_for_sums for signature in signatures):
        raise UsageError(f"{owner}: process_group divides whole matrices over processes, and {owner} has none; omit it")
    if not (torch.distributed.is_available() and isinstance(value, torch.distributed.ProcessGroup)):
        raise UsageError(
            f"{owner}: process_group={shown(value)}; it must be a process group of torch.distributed that this process "
            "belongs to, such as torch.distributed.group.WORLD, or None"
        )
    return value if value.size() > 1 else None


def assigned(works: Sequence[float], count: int, loads: Sequence[float] | None = None) -> list[int]:
    """The owner of each matrix, by the longest processing time first (Graham 1969): the largest matrix that is left
    goes to the process with the least work. The result is the same in every process.

    Args:
        works: the work of each matrix.
        count: the number of processes.
        loads: what each of them already has; nothing if None.

    >>> assigned([3.0, 1.0, 2.0], 2)
    [0, 1, 1]
    """
    loads = [0.0] * count if loads is None else list(loads)
    owners = [0] * len(works)
    for place in sorted(range(len(works)), key=lambda place: (-works[place], place)):
        owner = min(range(count), key=lambda rank: (loads[rank], rank))
        owners[place] = owner
        loads[owner] += works[place]
    return owners
