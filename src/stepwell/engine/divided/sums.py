"""The update of matrices whose rule knows them by sums (Adafactor), where every process has a part.

Every process keeps the rows and columns of the whole, two vectors, and updates its part. Each time that the rule asks
for sums, those of all matrices go through one all-reduce in float64: 8 (rows + columns) bytes for a matrix, and 8 for a
total. The arithmetic is that of one process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stepwell.engine.backends import stacks
from stepwell.engine.divided.agreement import agree
from stepwell.engine.divided.division import Division, Region
from stepwell.engine.launch import Launch
from stepwell.engine.whole import Asking, Squares

_NOTHING: Any = None  # what a generator is sent to begin


class Sums:
    """The matrices of an optimizer whose sums one process group adds up: launches in the order of every process."""

    def __init__(self, launches: Sequence[Launch]) -> None:
        self.launches = list(launches)
        self._device = launches[0].tensors[0].device
        members = [(launch, index) for launch in self.launches for index in range(len(launch.owners))]
        self._members = sorted(members, key=lambda member: member[0].places[member[1]])
        self._regions: dict[Launch, Region] = {}
        self._stacks: list[tuple[Launch, float, list[int]]] = []
        self._answers: list[dict[int, list[Tensor]]] = []  # by turn, of each stack
        for launch in self.launches:
            launch.divided = self
            cut = Division(launch.owners[0])
            self.group = cut.group  # that of all
            self._regions[launch] = cut.regions(launch.owners[0].shape, cut.placements)[cut.rank]
        self.done()

    def begin(self) -> None:
        """Nothing: the launches create their state."""

    def start(self, skips: bool, agreed: bool) -> None:
        """Begin an update. Every process of the group calls this.

        Args:
            skips: whether the update is left out.
            agreed: whether the processes know already that they have the same gradients.
        """
        self._is_made = not skips
        if not agreed:
            names = [launch.names[index] for launch, index in self._members]
            gradients = [launch.gradients[index] for launch, index in self._members]
            self._is_made = agree(self.group, names, gradients, skips, self._device)
        self._stacks = [(launch, *stack) for launch in self.launches for stack in stacks.stacks_of(launch)]
        self._answers = []

    def settle(self, gradient_factor: float) -> None:
        """Update all stacks. After an interruption, those that are not finished begin again, with the sums that they
        have had before."""
        if not self._is_made:
            return
        for launch in self.launches:
            if launch.writing is not None:
                launch.writing()
        asking: list[tuple[int, Asking[None]]] = []
        for place, (launch, step, members) in enumerate(self._stacks):
            if members[0] not in launch.finished:
                asking.append((place, stacks.update(launch, members, step, gradient_factor, self._regions[launch])))
        turn = 0
        answers: dict[int, Any] = {}
        while asking:
            asked: list[tuple[int, Asking[None], Squares]] = []
            for place, one in asking:
                try:
                    asked.append((place, one, one.send(answers.get(place, _NOTHING))))
                except StopIteration:
                    continue
            if turn == len(self._answers) and asked:
                self._answers.append(self._added_up([(place, squares) for place, _, squares in asked]))
            answers = self._answers[turn] if asked else {}
            asking = [(place, one) for place, one, _ in asked]
            turn += 1

    def _added_up(self, asked: Sequence[tuple[int, Squares]]) -> dict[int, list[Tensor]]:
        """The sums over whole matrices, by the place of their stack."""
        whole: list[tuple[int, Tensor]] = []
        for place, squares in asked:
            launch = self._stacks[place][0]
            summed = squares.summed(launch.owners[0].ndim)
            for sums, over in zip(squares.sums(), summed, strict=True):
                whole.append((place, self._placed(launch, sums, over)))
        buffer = torch.cat([one.reshape(-1) for _, one in whole])
        torch.distributed.all_reduce(buffer, group=self.group)
        found: dict[int, list[Tensor]] = {}
        for (place, one), part in zip(whole, buffer.split([one.numel() for _, one in whole]), strict=True):
            found.setdefault(place, []).append(part.view_as(one))
        return found

    def _placed(self, launch: Launch, sums: Tensor, over: set[int]) -> Tensor:
        """The sums of a part, at their places among those of the whole, and 0 elsewhere."""
        sizes, places = [len(sums)], [slice(None)]
        for dimension, (length, part) in enumerate(zip(launch.owners[0].shape, self._regions[launch], strict=True)):
            sizes.append(1 if dimension in over else length)
            places.append(slice(None) if dimension in over else part)
        whole = torch.zeros(sizes, dtype=sums.dtype, device=sums.device)
        whole[tuple(places)] = sums
        return whole

    def of(self, launch: Launch, index: int) -> None:
        """None: no process owns these matrices."""

    def done(self) -> None:
        """After an update: forget it."""
        self._is_made, self._stacks, self._answers = False, [], []
