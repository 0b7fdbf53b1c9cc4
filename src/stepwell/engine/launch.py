"""The tensors that one kernel updates together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from operator import is_
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from stepwell.engine import randomness, sharding, sparse
from stepwell.engine.blocks import lines_of
from stepwell.engine.foreign_memory import Foreign
from stepwell.engine.gradient_pointers import GradientPointers
from stepwell.engine.host import Host
from stepwell.engine.kind import LaunchKind
from stepwell.engine.pointers import OUT_OF_STORAGE, Pointers, has_memory
from stepwell.engine.rule import RuleSignature
from stepwell.engine.slots import Slots
from stepwell.engine.watch import Stale
from stepwell.errors import UsageError


@dataclass(frozen=True)
class Member:
    """One parameter of a launch.

    Attributes:
        name: the name in messages.
        owner: the parameter.
        tensor: the local part of the parameter: itself, unless it is a DTensor, or a copy on the CPU (`host`).
        group: the number of its group.
        place: the number of the parameter among all parameters of the optimizer; random bits depend on it.
        state: the parameter's entry in `optimizer.state`.
    """

    name: str
    owner: Tensor
    tensor: Tensor
    group: int
    place: int
    state: Any


class Memory(Protocol):
    """The data of a launch that a backend keeps between steps."""

    def release(self) -> None:
        """Release everything that belongs to the last step."""


class Launch:
    """The tensors that one kernel updates, with their state.

    Args:
        kind, signature: the properties of the kernel, and its rule.
        backend: the module that runs the launch.
        owner: the class of the optimizer, for messages.
        said: warnings that the optimizer has already given.
        members: the parameters, at least one.
        groups: all groups of the optimizer.
        all_states: the states of all parameters of the optimizer.
    """

    def __init__(
        self,
        kind: LaunchKind,
        signature: RuleSignature,
        backend: Any,
        owner: str,
        said: set[str],
        members: Sequence[Member],
        groups: list[dict[str, Any]],
        all_states: Sequence[Any],
    ) -> None:
        self.kind, self.signature, self.backend, self.owner, self.said = kind, signature, backend, owner, said
        self.param_groups = groups
        self.names = [one.name for one in members]
        self.owners = [one.owner for one in members]
        self.tensors = [one.tensor for one in members]
        self.states = [one.state for one in members]
        self.groups = np.array([one.group for one in members], dtype=np.int64)
        self.elements = np.array([owner.numel() for owner in self.owners], dtype=np.int64)  # over the mesh
        self.spread = any(map(sharding.is_spread, self.owners))
        is_apart = any(sharding.local(one.owner) is not one.tensor for one in members)
        self.host = Host(self.owners, self.tensors) if is_apart else None  # of parameters whose state is on the CPU
        self._can_take = not (is_apart or self.spread) and all(map(has_memory, self.tensors))
        seeds = np.array([groups[one.group]["seed"] for one in members], dtype=np.int64)
        places = np.array([one.place for one in members], dtype=np.int64)
        self.seeds, self.places = seeds, places.tolist()
        # Elements that are rounded one by one draw their bits by their place in the whole, in whatever way it is cut.
        self.rows_here = list(map(self._rows_here, self.owners, self.tensors))
        self.firsts = [
            sharding.first_element(owner, exact=rows is not None)
            for owner, rows in zip(self.owners, self.rows_here, strict=True)
        ]
        self.salts = randomness.salts(seeds, places, np.array(self.firsts, dtype=np.int64))
        self.slots = Slots(
            kind, signature, owner, self.names, self.owners, self.tensors,
            [groups[one.group] for one in members], self.states, all_states,
        )  # fmt: skip
        # what the first pass found, float64 (tensors, sums); zero where there is no gradient
        count, device = len(members), self.tensors[0].device
        self.totals = torch.zeros((count, len(kind.sums)), dtype=torch.float64, device=device)
        self._gradients: list[Any] | None = [None] * count
        self._present = np.zeros(count, dtype=bool)  # those taken by `gradient_pointers`
        self.complete = False  # whether every tensor has a gradient this time
        self.has_taken = False  # whether `gradient_pointers` has the addresses of this step's gradients
        self.counts_versions = not any(owner.is_inference() for owner in self.owners)
        self.memory: Any = None  # a `Memory`, once the backend has prepared
        self.pointers: Pointers | None = None
        self.moves = 0  # how often something was found elsewhere than in the step before
        # Of the update that is being made, for one that is interrupted:
        self.began = False  # whether something may have been written
        self.finished: set[int] = set()  # tensors that are written, where they are written one by one
        self.writing: Callable[[], None] | None = None  # writes what was computed last; it may be done twice
        # Of parts of divided matrices: what the processes do together, and what the owners said of each matrix
        self.divided: Any = None
        self.verdicts: dict[int, float] = {}
        # Of whole matrices whose weights are divided over processes: what the rule finds of each, None for no step
        self.directions: dict[int, Tensor | None] | None = None

    def _rows_here(self, owner: Tensor, tensor: Tensor) -> tuple[int, int] | None:
        """`sharding.rows_here`, where random bits are drawn by rows."""
        rows = sharding.rows_here(owner)
        if rows is None or not self.kind.draws_by_row(rows[0], lines_of(tensor.shape).length):
            return None
        return rows

    # Before an update

    def begin(self) -> None:
        """Create the state of the tensors that have none and are trained."""
        if self.slots.start([owner if owner.requires_grad else None for owner in self.owners]):
            self.pointers = None

    def collect(self) -> bool:
        """Read the gradients and all addresses of this launch, and create the state of tensors with their first
        gradient. False if no tensor has a gradient."""
        if self.tensors[0].is_meta:
            raise UsageError(
                f"{self.names[0]!r} is on the meta device, where tensors have no values; make the model real "
                "with model.to_empty(device=...), initialize or load it, and then make a new optimizer: to_empty "
                "replaces the parameters of this optimizer"
            )
        self.drop()  # what an interrupted step has left
        if not self._take():
            self.gradients = self._local_gradients()
            missing = sum(map(is_, self.gradients, repeat(None)))
            self.complete = missing == 0
            if missing == len(self.gradients):
                return False
            if self.slots.start(self.gradients):
                self.pointers = None
                self._take()
        self._look()
        return True

    def _take(self) -> bool:
        """Look up the gradients without objects of Python for them. False where that cannot be done, where there are
        none, and where a tensor has its first one."""
        if not self._can_take:
            return False
        present = self.gradient_pointers.take()
        if present is None:
            return False
        if not present.any() or (not self.slots.all_started and (present & ~self.slots.started).any()):
            self.gradient_pointers.release()
            return False
        self._gradients, self._present = None, present
        self.complete, self.has_taken = bool(present.all()), True
        return True

    def _local_gradients(self) -> list[Any]:
        """The gradients as objects of Python: of DTensors, their local parts."""
        gradients: list[Any] = [owner.grad for owner in self.owners]
        if self.host is not None:
            gradients = self.host.fetch(gradients)
        if self.spread:
            local = [sharding.local(owner) for owner in self.owners]
            if not all(map(is_, local, self.tensors)):
                self.tensors[:], self.pointers = local, None
            gradients = [
                None if gradient is None else sharding.local_gradient(gradient, owner)
                for gradient, owner in zip(gradients, self.owners, strict=True)
            ]
        return gradients

    @cached_property
    def gradient_pointers(self) -> GradientPointers:
        """The addresses of the gradients, for kernels."""
        return GradientPointers(self.owners, self.tensors)

    @property
    def gradients(self) -> list[Any]:
        """The gradients of this step, None where a tensor has none."""
        if self._gradients is None:
            self._gradients = [owner.grad for owner in self.owners]
        return self._gradients

    @gradients.setter
    def gradients(self, gradients: list[Any]) -> None:
        self._gradients = gradients

    def _look(self) -> None:
        """Read the current addresses of everything that is accessed by address.

        Raises Stale if a tensor changed since planning, and UsageError for a tensor without memory.
        """
        if self.pointers is None:  # some tensor has state only now, and the others may have changed since planning
            self.slots.check_layout()
            self.pointers = self._held()
        pointers = self.pointers
        if not pointers.read():
            lost = np.flatnonzero(pointers.found == OUT_OF_STORAGE)
            if len(lost):
                raise UsageError(
                    f"{self.labels[lost[0]]} has no memory for its elements: its storage was freed or made smaller "
                    "(untyped_storage().resize_()); give the storage its size and its values back before the step"
                )
            self.slots.check_layout()
            raise Stale  # a slot is another: the next plan takes it over, or refuses it
        if pointers.has_moved():
            self.foreign = Foreign(zip(self.labels, pointers.tensors, strict=True))
            self.moves += 1
        self.foreign.check()
        for cells in (self.slots.counts, self.slots.cells):
            if cells is not None:
                cells.fetch()

    def _held(self) -> Pointers:
        """The parameters and slots whose addresses are read: `self.columns` of the table of addresses."""
        tensors: list[Tensor] = []
        self.labels: list[str] = []
        columns: list[tuple[int, int]] = []
        for index in (index for index, tensor in enumerate(self.tensors) if has_memory(tensor) and tensor.numel()):
            own = [(repr(self.names[index]), self.tensors[index])]
            more = list(self.slots.labelled(index)) if self.slots.started[index] else []
            for column, (label, tensor) in enumerate([*own, *more]):
                self.labels.append(label)
                tensors.append(tensor)
                columns.append((index, column + (column > 0)))  # the second column is the gradient's
        self.columns = tuple(np.array(columns, dtype=np.int64).reshape(-1, 2).T)
        return Pointers(tensors, tensors)

    def labelled(self) -> Iterable[tuple[str, Tensor]]:
        """All tensors that this launch writes, with labels for messages."""
        for index, tensor in enumerate(self.tensors):
            yield repr(self.names[index]), tensor
            if self.slots.started[index]:
                yield from self.slots.labelled(index)

    # During an update

    def active(self) -> Iterable[int]:
        """The indices of the tensors that have a gradient."""
        if self.has_taken:
            return [int(index) for index in np.flatnonzero(self._present)]
        return (index for index, gradient in enumerate(self.gradients) if gradient is not None)

    def gradient_of(self, index: int) -> Tensor:
        """The gradient of one tensor (see `sparse.usable`)."""
        return sparse.usable(self.gradients[index], self.tensors[index], self.names[index], self.kind.takes_rows)

    def write(self, act: Callable[[], None]) -> None:
        """Write the computed values, so that an interrupted update can be completed."""
        self.writing = act
        act()
        self.writing = None

    # After an update

    def finish(self, rows: np.ndarray, gradient_factor: Any, found_inf: Any) -> None:
        """Complete the update that an exception interrupted."""
        if self.began:
            self.backend.finish(self, rows, gradient_factor)
        else:
            self.backend.run(self, rows, gradient_factor, found_inf)

    def drop(self) -> None:
        """Let go of the gradients."""
        self.gradients = [None] * len(self.tensors)
        if self.has_taken:
            self.gradient_pointers.release()
            self.has_taken = False

    def done(self) -> None:
        """After an update: release the gradients, and write numbers back to their entries."""
        if self.host is not None and self.began:
            self.host.deliver(list(self.active()))
        self.drop()
        self.began, self.writing = False, None
        self.finished.clear()
        if self.memory is not None:
            self.memory.release()
        self.slots.bring_back()
