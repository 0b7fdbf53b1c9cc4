"""Which process owns which matrix: the division of work."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from stepwell.engine.divided.division import Division


class Owners:
    """The owners of the divided matrices of an optimizer. A matrix keeps its owner, which has its state."""

    def __init__(self) -> None:
        self._known: Any = WeakIdKeyDictionary()  # tensor -> (division, owner, work)

    def __contains__(self, tensor: Tensor) -> bool:
        return tensor in self._known

    def __bool__(self) -> bool:
        return bool(self._known)

    def division_of(self, tensor: Tensor) -> Division:
        return self._known[tensor][0]

    def owner_of(self, tensor: Tensor) -> int:
        """The number of a process in the group of the division."""
        return self._known[tensor][1]

    def assign(self, matrices: Iterable[tuple[Tensor, float]]) -> None:
        """Give the matrices that have no owner one: (tensor, work) in the order of the optimizer, which is that of
        every process."""
        new: dict[tuple[int, ...], list[tuple[Tensor, Division, float]]] = {}
        loads: dict[tuple[int, ...], list[float]] = {}
        for tensor, work in matrices:
            division = self.division_of(tensor) if tensor in self else Division(tensor)
            load = loads.setdefault(division.key, [0.0] * division.size)
            if tensor in self:
                load[self.owner_of(tensor)] += work
            else:
                new.setdefault(division.key, []).append((tensor, division, work))
        for key, members in new.items():
            owners = assigned([work for _, _, work in members], len(loads[key]), loads[key])
            for (tensor, division, work), owner in zip(members, owners, strict=True):
                self._known[tensor] = division, owner, work


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
