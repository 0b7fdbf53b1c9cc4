"""The plan: the assignment of tensors to launches.

Tensors with the same kernel form one launch, across groups: the kernel reads the numbers that differ between groups
(lr, betas, decay) from a row per group, so 465 groups cost as much as one group. A plan is kept from step to step. It
is rebuilt
only if something that it depends on has changed: the groups' flags, or a replaced tensor of the state.
"""

from __future__ import annotations

from operator import is_
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepwell.engine import host, sharding
from stepwell.engine.backends import parts, summed
from stepwell.engine.divided.agreement import check
from stepwell.engine.divided.matrices import Matrices, Matrix
from stepwell.engine.divided.sums import Sums
from stepwell.engine.kind import kind_of, of_part
from stepwell.engine.launch import Launch, Member
from stepwell.engine.overlaps import refuse_overlaps
from stepwell.engine.rows import Rows
from stepwell.errors import UsageError

_DIVIDED = (parts, summed)  # the backends of matrices that are divided over processes


class Plan:
    """The launches of one optimizer."""

    @torch.inference_mode(False)  # what is made here must outlive an inference mode that is on now
    def __init__(self, optimizer: Any) -> None:
        self.groups: list[dict[str, Any]] = optimizer.param_groups
        self.rows = Rows(optimizer)
        self.members = [list(group["params"]) for group in self.groups]
        everywhere = [tensor for group in self.groups for tensor in group["params"]]
        self.cuts = sharding.Cuts(everywhere)
        self.names: list[str] = []  # of all parameters, for messages
        launches = self._sorted(optimizer)
        members = [member for _, of_one in launches for member in of_one]
        refuse_overlaps((repr(member.name), member.tensor) for member in members)
        states = [member.state for member in members]
        owner = type(optimizer).__name__
        self.launches = [
            Launch(kind, signature, backend, owner, optimizer.said, of_one, self.groups, states)
            for (kind, signature, backend), of_one in launches
        ]
        self.has_sums = any(launch.kind.sums and launch.spread for launch in self.launches)
        self.launches.sort(key=lambda launch: launch.backend in _DIVIDED)  # others run while gradients travel
        self.owned = self._owned(optimizer)
        self.divided: list[Matrices | Sums] = [*self.owned, *self._summed()]
        self.agreed = False  # whether the processes know that they have the same gradients in this update
        self.moves = -1

    def _sorted(self, optimizer: Any) -> list[tuple[Any, list[Member]]]:
        """The parameters by launch: (kind, signature, backend) and the members of each."""
        found: dict[Any, tuple[Any, list[Member]]] = {}
        place = -1
        for position, group in enumerate(self.groups):
            names = group.get("param_names") or [
                f"parameter {i} of group {position}" for i in range(len(self.members[position]))
            ]
            self.names += names
            for name, tensor in zip(names, group["params"], strict=True):
                place += 1
                part = sharding.local(tensor)
                if optimizer.state_device is not None and host.is_apart(part):
                    part = host.copy_of(part)
                signature = optimizer.signature_for(group, tensor)
                reason = optimizer.owners.refusal(signature, tensor)
                if reason is not None:  # in every process, also where the part is empty
                    raise UsageError(f"{type(optimizer).__name__}: cannot update {name!r}: {reason}")
                has_owner = optimizer.owners.divides(signature, tensor)
                is_divided = has_owner or (signature.view != "element" and sharding.is_cut(tensor))
                apart = (position, part.numel() == 0, *sharding.groups_of(tensor))
                if part.numel() == 0 and signature.view != "element" and not is_divided:
                    continue  # a rule of matrices has no count of steps to keep for a matrix without elements
                kind = kind_of(optimizer, signature, group, tensor, name, self.rows.names)
                backend: ModuleType
                stack: Any = None
                if has_owner:
                    kind, backend, stack = of_part(kind), parts, apart
                elif is_divided:
                    backend, stack = summed, (tuple(tensor.shape), tensor.placements, *apart)
                else:
                    backend = optimizer.backend_for(kind, part, name)
                    stack = None if kind.view == "element" else (tuple(tensor.shape), position)
                key = (kind, part.device, tensor.device, backend.__name__, stack)
                _, members = found.setdefault(key, ((kind, signature, backend), []))
                members.append(Member(name, tensor, part, position, place, optimizer.watched_state(tensor)))
        return list(found.values())

    def _summed(self) -> list[Sums]:
        """The launches whose sums are added up over processes, by process groups."""
        found: dict[Any, list[Launch]] = {}
        for launch in self.launches:
            if launch.backend is summed:
                found.setdefault(tuple(sharding.groups_of(launch.owners[0])), []).append(launch)
        return [Sums(sorted(launches, key=lambda launch: launch.places[0])) for launches in found.values()]

    def _owned(self, optimizer: Any) -> list[Matrices]:
        """The matrices that have owners, by process group, with the launches of those owned here."""
        of_parts = [launch for launch in self.launches if launch.backend is parts]
        members = [(launch, i) for launch in of_parts for i in range(len(launch.owners))]
        members.sort(key=lambda member: member[0].places[member[1]])
        settings = [self.groups[int(launch.groups[i])] for launch, i in members]
        works = [
            (launch.owners[i], optimizer.work(group, launch.owners[i].shape))
            for (launch, i), group in zip(members, settings, strict=True)
        ]
        optimizer.owners.assign(works)
        found: dict[Any, list[Matrix]] = {}
        for (launch, i), group in zip(members, settings, strict=True):
            tensor = launch.owners[i]
            signature = optimizer.signature_for(group, tensor)
            kind = kind_of(optimizer, signature, group, tensor, launch.names[i], self.rows.names)
            one = Matrix(
                launch.names[i], launch.places[i], int(launch.groups[i]), tensor, launch.states[i], kind, signature,
                optimizer.owners.owner_of(tensor), optimizer.owners.division_of(tensor), launch, i,
            )  # fmt: skip
            found.setdefault(one.division.key, []).append(one)
        return [Matrices(matrices, optimizer) for matrices in found.values()]

    def collected(self) -> list[Launch]:
        """The launches that have a gradient, with the gradients and addresses of this step, ready to run."""
        try:
            ready = [launch for launch in self.launches if launch.collect()]
            self.refuse_overlaps()
            for launch in ready:
                launch.backend.prepare(launch)
        except BaseException:
            for launch in self.launches:
                launch.drop()
            raise
        return ready

    def begin(self) -> None:
        """Create the state of all parameters that have none."""
        for launch in self.launches:
            launch.begin()
        for divided in self.divided:
            divided.begin()

    def refuse_overlaps(self) -> None:
        """Raise UsageError if parameters or slots share memory; checked once after an address has changed."""
        moves = sum(launch.moves for launch in self.launches)
        if moves != self.moves:
            refuse_overlaps(pair for launch in self.launches for pair in launch.labelled())
            self.moves = moves

    def run(self, ready: list[Launch], gradient_factor: Any, found_inf: Any) -> None:
        """Update all tensors or none: if an exception (Ctrl-C) occurs between two writes, the update is completed
        before the exception propagates."""
        count, done = len(ready), 0
        skips = bool(self.divided) and found_inf is not None and bool(found_inf)
        for divided in self.divided:
            divided.start(skips, self.agreed)
        try:
            while done < count:
                ready[done].backend.run(ready[done], self.rows.values, gradient_factor, found_inf)
                done += 1
            self.share_numbers(ready)
            self.raise_versions(ready)
        except BaseException:
            if done or self.divided or (ready and ready[0].began):  # other processes complete theirs
                for launch in ready[done:]:
                    launch.finish(self.rows.values, gradient_factor, found_inf)
                self.share_numbers(ready)
                self.raise_versions(ready)
            raise

    def raise_versions(self, ready: list[Launch]) -> None:
        """Count one change of each parameter that was updated, as torch's in-place operations do: a backward pass
        through weights that a step has changed since must raise, and kernels write past torch."""
        changed: list[Tensor] = []
        for launch in ready:
            if launch.complete and launch.counts_versions:
                changed += launch.owners
            else:
                changed += [launch.owners[i] for i in launch.active() if not launch.owners[i].is_inference()]
        if changed:
            torch.autograd.graph.increment_version(changed)

    def done(self, ready: list[Launch]) -> None:
        """After an update: release the gradients, and write numbers back to their entries."""
        for launch in ready:
            launch.done()
        for divided in self.divided:
            divided.done()
        self.agreed = False

    def fits(self, optimizer: Any) -> bool:
        """Read the numbers of this step; False if the groups now need other kernels than those of this plan."""
        groups = optimizer.param_groups
        return (
            groups is self.groups
            and len(groups) == len(self.members)
            and all(_same(group["params"], members) for group, members in zip(groups, self.members, strict=True))
            and self.rows.refresh()
        )

    def pool(self, launches: list[Launch]) -> None:
        """Reduce sums over shards to sums over whole tensors, and sums over tensors to sums over the run.

        `launches` are those of this step that have sums.
        """
        if self.cuts and self.has_sums:
            self._reduce(launches)
        pooled = [launch for launch in launches if launch.kind.over == "run"]
        if not pooled:
            return
        # In the order of the parameters, which is that of every process, however they are divided into launches here.
        device = pooled[0].totals.device
        order = np.argsort(np.concatenate([launch.places for launch in pooled]))
        rows = torch.cat([launch.totals.to(device) for launch in pooled])
        total = rows[torch.from_numpy(order).to(device)].sum(dim=0)
        for launch in pooled:
            launch.totals.copy_(total.expand_as(launch.totals))

    def _reduce(self, launches: list[Launch]) -> None:
        """One reduction of the sums of all tensors that are cut, a row for each."""
        width = max(len(signature.sums) for signature in self.rows.signatures) or 1  # caution has one
        values = self.cuts.zeros(width)
        mine = [
            (launch, i, self.cuts.row[place])
            for launch in launches
            for i, place in enumerate(launch.places)
            if place in self.cuts.row
        ]
        for launch, i, row in mine:
            values[row, : len(launch.kind.sums)] = launch.totals[i]
        self.cuts.reduce(values)
        for launch, i, row in mine:
            launch.totals[i] = values[row, : len(launch.kind.sums)]

    def squared_norm(self, launches: list[Launch]) -> list[Tensor]:
        """Sums of squares that add up to that of all gradients; reduced over the mesh for sharded tensors, together
        with the number of processes that have a gradient.

        Raises UsageError in all processes if some have a gradient for their part of a tensor and others none; on a GPU
        only where matrices are divided, because the question waits for the device.
        """
        parts: list[Tensor] = []
        values = self.cuts.zeros(2) if self.cuts else None
        for launch in launches:
            squares = launch.backend.squares(launch)
            if values is None or not launch.spread:
                parts.append(squares.sum())
                continue
            for square, place, gradient in zip(squares, launch.places, launch.gradients, strict=True):
                if place in self.cuts.row:
                    values[self.cuts.row[place], 0] = square
                    values[self.cuts.row[place], 1] = gradient is not None
                else:
                    parts.append(square)
        if values is not None:
            self.cuts.reduce(values)
            if self.divided or values.device.type == "cpu":
                check(values[:, 1].tolist(), self.cuts.sizes, [self.names[place] for place in self.cuts.row])
                self.agreed = True
            parts.append(values[:, 0].sum())
        return parts

    def share_numbers(self, launches: list[Launch]) -> None:
        """Copy the shared numbers to every tensor, including tensors without a gradient in this step."""
        source = next((launch for launch in launches if launch.slots.shared_numbers), None)
        if source is None or source.slots.numbers is None:
            return
        index = next(iter(source.active()))
        values = source.slots.numbers[index, source.slots.shared_numbers].clone()
        for launch in self.launches:
            if launch.slots.numbers is None or launch.slots.cells is None:
                continue
            if launch not in launches:
                launch.slots.cells.fetch()
            launch.slots.numbers[:, launch.slots.shared_numbers] = values.to(launch.slots.numbers.device)
            if launch not in launches:
                launch.slots.cells.bring_back()


def _same(tensors: list[Tensor], others: list[Tensor]) -> bool:
    """Whether two lists hold the same tensors: some put another parameter into a group in place."""
    return len(tensors) == len(others) and all(map(is_, tensors, others))
