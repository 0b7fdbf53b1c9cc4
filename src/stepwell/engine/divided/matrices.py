"""The update of matrices that are divided over processes.

A matrix rule needs the whole matrix, and no process has it. So each matrix has an owner, which keeps its state:

    gradients     every process sends its part of each gradient to the owner            one all-to-all
    rule          the owner computes the direction of its matrices, on stacks
    directions    every owner sends each process its part of the direction              one all-to-all
    weights       every process applies decay and learning rate to the part it has

For P elements of b bytes and N processes, each process sends 2 P b (N - 1) / N^2 bytes, whatever the number of
matrices. The arithmetic is that of one process, bit for bit. Before, one all-reduce of 4 bytes for each matrix tells
every process which gradients there are: an error is then an error everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepwell.engine import formats
from stepwell.engine.backends import stacks
from stepwell.engine.divided import exchange
from stepwell.engine.divided.agreement import agree
from stepwell.engine.divided.division import Copies, Division, Region
from stepwell.engine.divided.exchange import Piece
from stepwell.engine.kind import LaunchKind
from stepwell.engine.launch import Launch, Member
from stepwell.engine.rule import RuleSignature
from stepwell.engine.watch import Watched

_NO_ROWS = np.zeros((0, 0))  # a rule on stacks reads its numbers from the group


@dataclass
class Matrix:
    """One divided matrix.

    Attributes:
        name, place, group: of the parameter; see `launch.Member`.
        parameter: the DTensor.
        state: its entry in `optimizer.state`.
        kind, signature: of its rule.
        owner: the number of the owner in the process group.
        division: the processes that have parts.
        launch, index: the part that is here.
        regions: the parts of all processes.
        whole, number: at the owner, the launch that updates the whole, and the index in it.
        shown: whether the state of the parameter has all keys of the state of the whole.
    """

    name: str
    place: int
    group: int
    parameter: Tensor
    state: Any
    kind: LaunchKind
    signature: RuleSignature
    owner: int
    division: Division | Copies
    launch: Launch
    index: int
    regions: tuple[Region, ...] = ()
    whole: Launch | None = None
    number: int = 0
    shown: bool = False

    def __post_init__(self) -> None:
        self.regions = self.division.regions(self.shape, self.division.placements)

    @property
    def settings(self) -> dict[str, Any]:
        return self.launch.param_groups[self.group]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.parameter.shape)

    def piece(self, dtype: torch.dtype) -> Piece:
        return Piece(self.owner, self.shape, dtype, self.regions)


class Matrices:
    """The divided matrices of an optimizer that one process group exchanges, in the order of the parameters."""

    def __init__(self, matrices: Sequence[Matrix], optimizer: Any) -> None:
        self.matrices = list(matrices)
        division = matrices[0].division
        self.group, self.ranks = division.group, torch.distributed.get_process_group_ranks(division.group)
        self.rank, self.size = division.rank, division.size
        self._copied = isinstance(division, Copies)
        self.device = matrices[0].launch.tensors[0].device
        for one in self.matrices:
            one.launch.divided = self
        self.owned = self._launches(optimizer)
        self._release()

    def _launches(self, optimizer: Any) -> list[Launch]:
        """The launches of the matrices that are owned here: stacks of equal shape, as in one process."""
        stacked: dict[Any, list[Matrix]] = {}
        for one in self.matrices:
            if one.owner == self.rank:
                stacked.setdefault((one.kind, one.shape, one.group), []).append(one)
        launches = []
        for (kind, _, group), ones in stacked.items():
            members = []
            for one in ones:
                like = placeholder(one.parameter, self.device)
                state = Watched(_of_whole(one), optimizer._kept)
                members.append(Member(one.name, like, like, group, one.place, state))
            launch = Launch(
                kind, ones[0].signature, stacks, type(optimizer).__name__, optimizer.said, members,
                optimizer.param_groups, [member.state for member in members],
            )  # fmt: skip
            for number, one in enumerate(ones):
                one.whole, one.number = launch, number
            launches.append(launch)
        return launches

    def _release(self) -> None:
        self._active: list[Matrix] = []  # those with a gradient, in every process
        self._gradients: exchange.Arriving | None = None
        self._directions: exchange.Arriving | None = None
        self._settled = self._collected = False

    def of(self, launch: Launch, index: int) -> Matrix:
        """The matrix whose part is in a launch."""
        return next(one for one in self.matrices if one.launch is launch and one.index == index)

    def begin(self) -> None:
        """Create the state of all matrices that are owned here."""
        for launch in self.owned:
            launch.begin()
        self._show()

    def _show(self) -> None:
        """Show the state of whole matrices in that of their parameters: the tensors at the owner, and empty ones under
        the same keys elsewhere, because torch looks for the keys in every process."""
        for one in self.matrices:
            if not one.launch.slots.started[one.index] or one.shown:
                continue
            for key in _keys(one):  # another format has other ones
                dict.pop(one.state, key, None)
            for key, _, dtype in self.entries(one):
                here = torch.empty(0, dtype=dtype) if one.whole is None else one.whole.states[one.number][key]
                dict.__setitem__(one.state, key, here)
            one.shown = True

    # An update

    def start(self, skips: bool, agreed: bool) -> None:
        """Send the gradients to their owners. Every process of the group calls this.

        Args:
            skips: whether the update is left out.
            agreed: whether the processes know already that they have the same gradients.
        """
        self._release()
        gradients = [one.launch.gradients[one.index] for one in self.matrices]
        if agreed:
            is_made = not skips
        else:
            is_made = agree(self.group, [one.name for one in self.matrices], gradients, skips, self.device)
        if not is_made:
            return
        self._active = [one for one, gradient in zip(self.matrices, gradients, strict=True) if gradient is not None]
        parts = [one.launch.gradient_of(one.index) for one in self._active]
        pieces = [one.piece(part.dtype) for one, part in zip(self._active, parts, strict=True)]
        self._pieces = pieces
        if pieces and not self._copied:
            self._gradients = exchange.to_owners(self.group, self.rank, self.size, pieces, parts)

    def settle(self, gradient_factor: float) -> None:
        """Compute the directions of the matrices that are owned here, exchange them, and put each into its launch in
        place of the gradient: None where a matrix makes no step. May be called again after an interruption."""
        if self._settled or not self._active:
            return
        if self._directions is None:
            said = self._compute(gradient_factor)
            wide = [one.piece(formats.working_dtype(one.kind.weights)) for one in self._active]
            counts = [sum(one.owner == rank for one in self._active) for rank in range(self.size)]
            verdicts = [
                Piece(rank, (count,), torch.float32, (exchange.whole_region((count,)),) * self.size)
                for rank, count in enumerate(counts)
            ]
            self._pieces = [*wide, *verdicts]
            self._directions = exchange.from_owners(self.group, self.rank, self.size, self._pieces, said, self.device)
            self._free()
        parts = exchange.parts_here(self.rank, self.size, self._pieces, self._directions.wait())
        verdicts_of = [iter(part.tolist()) for part in parts[len(self._active) :]]
        for one, part in zip(self._active, parts, strict=False):
            one.launch.gradients[one.index] = part
            one.launch.verdicts[one.index] = next(verdicts_of[one.owner])
        self._settled = True

    def _compute(self, gradient_factor: float) -> list[Tensor]:
        """The directions of the matrices that are owned here, and at last what there is to say of each."""
        mine = [one for one in self._active if one.owner == self.rank]
        if not self._collected:
            wholes = [one.launch.gradient_of(one.index) for one in mine]  # where every process has the whole
            if self._gradients is not None:
                received = self._gradients.wait()
                wholes = exchange.at_owner(self.rank, self.size, self._pieces, received)
            for one, gradient in zip(mine, wholes, strict=True):
                assert one.whole is not None
                one.whole.owners[one.number].grad = gradient
            self._gradients, self._collected = None, True
            for launch in self.owned:
                launch.directions = {}
                launch.collect()
            self._show()
        for launch in self.owned:
            stacks.finish(launch, _NO_ROWS, gradient_factor)
        found, said = [], []
        for one in mine:
            assert one.whole is not None
            assert one.whole.directions is not None
            directions = one.whole.directions
            direction = directions.get(one.number)
            verdict = stacks.COUNTED if direction is None else stacks.STEP
            said.append(verdict if one.number in directions else stacks.LEFT_OUT)
            empty = torch.zeros((), dtype=formats.working_dtype(one.kind.weights), device=self.device)
            found.append(empty.expand(one.shape) if direction is None else direction)
        return [*found, torch.tensor(said, dtype=torch.float32, device=self.device)]

    def done(self) -> None:
        """After an update: release gradients and messages."""
        self._free()
        for launch in self.owned:
            launch.directions = None
            launch.done()
        self._release()

    def _free(self) -> None:
        """Free the whole gradients and directions."""
        for launch in self.owned:
            launch.drop()
            if launch.directions is not None:
                launch.directions = dict.fromkeys(launch.directions)
            for owner in launch.owners:
                owner.grad = None

    # The state of whole matrices

    @staticmethod
    def entries(one: Matrix) -> Iterator[tuple[str, tuple[int, ...], torch.dtype]]:
        """The tensors of the state of a whole matrix: key, shape and dtype; the same in every process."""
        for slot, present, name in zip(one.signature.slots, one.kind.slots, one.kind.slot_formats, strict=True):
            if present is not None:
                yield from formats.tensors_of(slot.name, name, slot.signed, slot.shape(one.shape, one.settings))

    def shown(self) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """The state of each matrix as DTensors, cut like its parameter. Every process of the group calls this."""
        begun = [one for one in self.matrices if one.launch.slots.started[one.index]]
        pieces, wholes, places = [], [], []
        for one in begun:
            for key, shape, dtype in self.entries(one):
                placements = one.division.placements_of(shape, one.shape)
                pieces.append(Piece(one.owner, shape, dtype, one.division.regions(shape, placements)))
                places.append((one, key, shape, placements))
                if one.whole is not None:
                    wholes.append(one.whole.states[one.number][key])
        received = exchange.from_owners(self.group, self.rank, self.size, pieces, wholes, self.device).wait()
        found: dict[int, dict[str, Tensor]] = {one.place: {} for one in begun}
        parts = exchange.parts_here(self.rank, self.size, pieces, received)
        for (one, key, shape, placements), part in zip(places, parts, strict=True):
            empty = 0 in shape
            found[one.place][key] = part.clone() if empty else one.division.spread(part.clone(), shape, placements)
        for one in begun:
            yield one.parameter, found[one.place]


def placeholder(parameter: Tensor, device: torch.device) -> Tensor:
    """A tensor like the whole parameter, without memory for its elements: what an owner has in place of the weights."""
    single = torch.empty((1,) * parameter.ndim, dtype=parameter.dtype, device=device)
    return single.expand(parameter.shape).requires_grad_(parameter.requires_grad)


def _of_whole(one: Matrix) -> dict[str, Any]:
    """What the state of a parameter has of the whole matrix, at its owner."""
    keys = _keys(one)
    found = {key: value for key, value in one.state.items() if key in keys}
    if found and "step" in one.state:
        found["step"] = one.state["step"].clone()
    return found


def _keys(one: Matrix) -> set[str]:
    """All keys that the slots of a matrix have in any format."""
    return {key for slot in one.signature.slots for key in formats.state_names(slot.name, "int8")}
