"""Which tensors go through which launch.

Tensors whose kernel is the same form one launch, across groups: what differs between their groups (lr, betas, decay)
is a row of numbers that the kernel reads, so 465 groups cost what one costs. A plan is kept from step to step and
rebuilt only when something it depends on has changed: the groups' flags, or a tensor of the state that was replaced.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from operator import is_, itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepwell.engine import formats, sharding
from stepwell.engine.overlaps import refuse_overlaps
from stepwell.engine.rule import Range, Rule, RuleSignature, Slot
from stepwell.errors import UsageError

_SHARED = ("lr", "weight_decay")  # the frame's own numbers


class Stale(Exception):
    """A tensor is no longer what the plan was made for; the optimizer makes a new plan and goes on."""


class Watched(defaultdict[Any, Any]):
    """A dict that raises a flag when its entries are replaced, so that a plan need not look at them at every step."""

    def __init__(self, content: Mapping[Any, Any], changed: list[bool], default: Any = None) -> None:
        super().__init__(default, content)
        self.changed = changed

    def __setitem__(self, key: Any, value: Any) -> None:
        self.changed[0] = True
        super().__setitem__(key, value)

    def __delitem__(self, key: Any) -> None:
        self.changed[0] = True
        super().__delitem__(key)

    def clear(self) -> None:
        self.changed[0] = True
        super().clear()

    def pop(self, *args: Any) -> Any:
        self.changed[0] = True
        return super().pop(*args)

    def update(self, *args: Any, **kwargs: Any) -> None:
        self.changed[0] = True
        super().update(*args, **kwargs)

    def __reduce__(self) -> Any:  # copies and pickles are plain: they belong to no plan yet
        return (dict, (dict(self),))


@dataclass(frozen=True)
class LaunchKind:
    """All that a kernel is specialised on. Numbers are not among it: a schedule compiles nothing."""

    rule: Rule
    decay: str | None
    flags: tuple[tuple[str, Any], ...]
    slots: tuple[str | None, ...]  # the name of each slot of the rule, None where absent
    slot_formats: tuple[str, ...]
    signed: tuple[bool, ...]
    weights: str
    rounding: str
    gradients: str
    number_arguments: tuple[str, ...]  # the rule's own arguments that are numbers
    shared: tuple[str, ...]  # the frame's numbers that the rule takes, too
    row_names: tuple[str, ...]  # what a row of `Rows` holds, in order
    cautious: bool = False
    measure: Rule | None = None  # what the rule wants summed over a tensor, or over all
    sums: tuple[str, ...] = ()  # the names of the sums; none: one pass
    over: str = "tensor"  # what they are sums of, or "run"
    view: str = "element"  # what the rule sees: "element", or stacks of "matrix" or "tensor"
    sizes: tuple[str, ...] = ()  # ("elements",) where the number of elements is asked for

    @cached_property
    def number_slots(self) -> tuple[str, ...]:
        """The slots that are one number per tensor: the columns of `Launch.numbers`."""
        pairs = zip(self.slots, self.slot_formats, strict=True)
        return tuple(name for name, storage in pairs if name is not None and storage == formats.NUMBER)

    @property
    def takes_rows(self) -> bool:
        """Whether a row-sparse gradient updates its rows alone: where no row depends on others."""
        return self.view == "element" and not self.sums


class Launch:
    """The tensors that one kernel updates, and where their state lies."""

    def __init__(self, kind: LaunchKind, signature: RuleSignature, backend: Any) -> None:
        self.kind = kind
        self.signature = signature
        self.backend = backend
        self.names: list[str] = []
        self.owners: list[Tensor] = []  # the parameters
        self.tensors: list[Tensor] = []  # what lies here of them: themselves, unless they are spread over a mesh
        self.shards: list[sharding.Shards | None] = []
        self.group_list: list[int] = []
        self.places: list[int] = []  # of each tensor among all of the optimizer's: what random bits depend on
        self.states: list[Any] = []
        self.memory: dict[str, Any] = {}  # what the backend keeps between steps

    def seal(self, groups: list[dict[str, Any]], together: list[Launch]) -> None:
        """Called once all tensors are in: bind the state that exists already. `together` are all launches."""
        count = len(self.tensors)
        self.param_groups = groups
        self.together = together
        self.groups = np.array(self.group_list, dtype=np.int64)
        self.layouts = [layout_of(tensor) for tensor in self.tensors]
        self.elements = np.array([owner.numel() for owner in self.owners], dtype=np.int64)  # over the mesh
        self.spread = any(map(sharding.is_spread, self.owners))
        self.seeds = np.array([groups[group]["seed"] for group in self.group_list], dtype=np.int64)
        places = np.array(self.places, dtype=np.int64)
        self.salts = self.seeds * formats.SEED_FACTOR + places * formats.PLACE_FACTOR
        # As torch: a float32 count, one per tensor, here all in one tensor on the device of the parameters.
        self.step_counts = torch.zeros(count, dtype=torch.float32, device=self.tensors[0].device)
        self.steps = self.step_counts.numpy() if self.step_counts.device.type == "cpu" else self.step_counts
        self.started = np.zeros(count, dtype=bool)
        # float64 (tensors, slots of one number), None without such slots; a tensor's state has views of its row
        width, device = len(self.kind.number_slots), self.tensors[0].device
        self.numbers = torch.zeros((count, width), dtype=torch.float64, device=device) if width else None
        self.shared_numbers = [
            column
            for column, name in enumerate(self.kind.number_slots)
            if any(slot.name == name and slot.per == "run" for slot in self.signature.slots)
        ]
        # what the first pass found, float64 (tensors, sums); zero where there is no gradient
        self.totals = torch.zeros((count, len(self.kind.sums)), dtype=torch.float64, device=device)
        # per slot, per tensor: the tensors that hold it (see formats.py); None for an absent slot and for a number
        self.slots: list[list[Any] | None] = [
            None if name is None or name in self.kind.number_slots else [None] * count for name in self.kind.slots
        ]
        self.low_bits: list[Any] | None = [None] * count if self.kind.rounding == "split" else None
        self.gradients: list[Any] = [None] * count
        for index, state in enumerate(self.states):
            if state:
                self._bind(index)
        self.all_started = bool(self.started.all())
        self.complete = False  # whether every tensor has a gradient this time

    def collect(self) -> bool:
        """Look at the gradients; give state to a tensor that has its first. False if there is none at all."""
        if self.tensors[0].is_meta:
            raise UsageError(
                f"{self.names[0]!r} is on the meta device, where tensors have no values; make the model real with "
                "model.to_empty(device=...), and initialise or load it, before the first step"
            )
        self.gradients = [owner.grad for owner in self.owners]
        if self.spread:
            self.tensors = [sharding.local(owner) for owner in self.owners]
            self.gradients = [
                None if gradient is None else sharding.local_gradient(gradient, owner)
                for gradient, owner in zip(self.gradients, self.owners, strict=True)
            ]
        if not self.all_started:
            for index, gradient in enumerate(self.gradients):
                if gradient is not None and not self.started[index]:
                    self._bind(index)
            self.all_started = bool(self.started.all())
        missing = sum(map(is_, self.gradients, repeat(None)))
        self.complete = missing == 0
        return missing < len(self.gradients)

    def check_layout(self) -> None:
        """Raise Stale where a parameter is no longer what the plan was made for: moved, cast, of other strides or
        sizes."""
        changed = [i for i, (p, old) in enumerate(zip(self.tensors, self.layouts, strict=True)) if layout_of(p) != old]
        for index in changed:
            self._release(index)
        if changed:
            raise Stale

    def active(self) -> Iterable[int]:
        """The places of the tensors that have a gradient."""
        return (index for index, gradient in enumerate(self.gradients) if gradient is not None)

    def slot_tensors(self, index: int) -> list[Tensor]:
        """The tensors that hold the state of one parameter, in the order of the columns of a table of addresses."""
        tensors = [tensor for stored in self.slots if stored is not None for tensor in stored[index]]
        return tensors if self.low_bits is None else [*tensors, self.low_bits[index]]

    def _bind(self, index: int) -> None:
        """Make the state of one tensor, or take over what is there (loaded, or from an earlier plan)."""
        state, tensor = self.states[index], self.tensors[index]
        if layout_of(tensor) != self.layouts[index]:
            raise Stale
        group = self.param_groups[self.group_list[index]]
        width = formats.working_dtype(self.kind.weights)
        # A buffer without a count comes from torch.optim.SGD, which keeps none: it has been stepped at least once.
        count = float(state["step"]) if "step" in state else float(bool(state))
        self.steps[index] = count
        dict.__setitem__(state, "step", self.step_counts[index])
        for slot, stored, name in zip(self.signature.slots, self.slots, self.kind.slot_formats, strict=True):
            if self.numbers is not None and slot.name in self.kind.number_slots:
                number = self.numbers[index, self.kind.number_slots.index(slot.name)]
                start = state[slot.name] if slot.name in state else self._start_of_number(slot, group)
                number.copy_(torch.as_tensor(start, dtype=torch.float64))
                dict.__setitem__(state, slot.name, number)
            if stored is None:
                continue
            like = tensor
            if slot.per != "element":
                like = torch.empty(slot.shape(tensor.shape, group), dtype=width, device=tensor.device)
            if slot.name in state:
                found = {key: sharding.local(value) for key, value in state.items() if isinstance(value, Tensor)}
                self._check_shape(index, slot.name, found, like)
                stored[index] = formats.convert(found, slot.name, slot.signed, like, name)
            else:
                stored[index] = formats.allocate(name, slot.signed, like, slot.start_value(group))
            dict.pop(state, f"{slot.name}_largest", None)
            for key, value in zip(formats.state_names(slot.name, name), stored[index], strict=True):
                dict.__setitem__(state, key, self._shown(index, value))
        if self.low_bits is not None:
            low = state.get(formats.LOW_BITS)
            low = None if low is None else sharding.local(low)
            if low is None:  # these weights have lost nothing yet: what they are now is their float32 value
                low = torch.zeros_like(tensor, dtype=torch.int16, requires_grad=False)
            else:
                self._check_shape(index, formats.LOW_BITS, {formats.LOW_BITS: low}, tensor)
            if low.stride() != torch.empty_like(tensor).stride() or low.device != tensor.device:
                low = torch.empty_like(tensor, dtype=torch.int16, requires_grad=False).copy_(low)
            self.low_bits[index] = low
            dict.__setitem__(state, formats.LOW_BITS, self._shown(index, low))
        self.started[index] = True

    def _release(self, index: int) -> None:
        """Prepare the state of a tensor for another layout: 4-bit codes lie in the order of memory and do not say in
        which, so they become float32."""
        _, _, shape, stride = self.layouts[index]
        for slot, stored, name in zip(self.signature.slots, self.slots, self.kind.slot_formats, strict=True):
            if name == "int4" and stored is not None and stored[index] is not None:
                values = formats.read(name, slot.signed, stored[index], math.prod(shape), torch.float32)
                unpacked = formats.in_order(values, shape, stride)
                dict.pop(self.states[index], f"{slot.name}_largest", None)
                dict.__setitem__(self.states[index], slot.name, unpacked)

    def _check_shape(self, index: int, entry: str, found: Mapping[str, Tensor], like: Tensor) -> None:
        """Raise UsageError where a tensor of the state is not that of the parameter: the parameter was resized."""
        packed = f"{entry}_largest" in found and found[entry].ndim == 1  # 4-bit codes have no shape
        if found[entry].shape != like.shape and not packed:
            raise UsageError(
                f"{self.names[index]!r} has shape {tuple(self.tensors[index].shape)} now, which its state {entry!r} of "
                f"shape {tuple(found[entry].shape)} does not fit; delete optimizer.state[p] to begin anew with it, or "
                "make a new optimizer"
            )

    def _shown(self, index: int, part: Tensor) -> Tensor:
        """What `optimizer.state` shows of a part of the state: it is spread where the parameter is."""
        owner, tensor = self.owners[index], self.tensors[index]
        return sharding.spread_like(owner, part) if owner is not tensor and part.shape == tensor.shape else part

    def _start_of_number(self, slot: Slot, group: Mapping[str, Any]) -> Any:
        """Of a number that all tensors share: what those have that began before."""
        if slot.per == "run":
            for launch in self.together:
                for state in launch.states:
                    if slot.name in state:
                        return state[slot.name]
        return slot.start_value(group)

    def gradient_of(self, index: int) -> Tensor:
        """The gradient of one tensor; row-sparse ones with their rows in order and once, or dense where the rule needs
        the whole tensor."""
        gradient = self.gradients[index].detach()
        if gradient.shape != self.tensors[index].shape:
            raise UsageError(
                f"{self.names[index]!r} has shape {tuple(self.tensors[index].shape)}, its gradient "
                f"{tuple(gradient.shape)}: it was resized after backward(); call zero_grad() and backward() again"
            )
        if not gradient.is_sparse:
            return gradient
        if not self.kind.takes_rows:
            return gradient.to_dense()
        if gradient.sparse_dim() != 1 or not self.tensors[index].is_contiguous():
            what = f"sparse in {gradient.sparse_dim()} dimensions" if gradient.sparse_dim() != 1 else "row-sparse"
            raise UsageError(
                f"the gradient of {self.names[index]!r} is {what}, its parameter of shape "
                f"{tuple(gradient.shape)}{'' if self.tensors[index].is_contiguous() else ' is not contiguous'}; "
                "row-sparse gradients (one sparse dimension) of contiguous parameters are supported"
            )
        return gradient.coalesce()


class Rows:
    """The numbers of every group, float64 (groups, names): what a schedule changes from step to step."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer
        self.signatures: tuple[RuleSignature, ...] = tuple(optimizer.signatures.values())
        by_element = [signature for signature in self.signatures if signature.view == "element"]
        numbers = dict.fromkeys(("lr", "weight_decay", *(n for s in by_element for n in s.numbers)))
        self.names = (*numbers, "gradient_sign")
        self.groups: list[dict[str, Any]] = optimizer.param_groups
        self.values = np.zeros((len(self.groups), len(self.names)))
        self._read = itemgetter(*optimizer.defaults)  # as tuples: quick to compare with the last step's
        self._raw: list[Any] = [self._read(group) for group in self.groups]
        self._flags = [self._group_flags(group) for group in self.groups]
        for index in range(len(self.groups)):
            self._write(index)

    def refresh(self) -> bool:
        """Take over what has changed; False if a flag has, so that other kernels are needed."""
        raw = [self._read(group) for group in self.groups]
        if raw == self._raw and not self._has_tensors(raw):
            return True
        for index, (new, old) in enumerate(zip(raw, self._raw, strict=True)):
            if new is old or (new == old and not self._has_tensors([new])):
                continue
            if self._group_flags(self.groups[index]) != self._flags[index]:
                return False
            self._write(index)
        self._raw = raw
        return True

    def _write(self, index: int) -> None:
        group = self.groups[index]
        for column, name in enumerate(self.names[:-1]):
            value = self.signatures[0].value(name, group)
            if isinstance(value, str) and isinstance(self.optimizer.all_ranges.get(name), Range):
                raise UsageError(f"{type(self.optimizer).__name__}: {name}={value!r} in group {index} is not a number")
            self.values[index, column] = math.nan if isinstance(value, str) or value is None else value
        self.values[index, -1] = -1.0 if group["maximize"] else 1.0

    @staticmethod
    def _has_tensors(raw: list[Any]) -> bool:
        """A tensor (torch allows one for lr) can change its value and stay the same object."""
        return any(isinstance(value, Tensor) for values in raw for value in values)

    def _group_flags(self, group: dict[str, Any]) -> tuple[Any, ...]:
        """What of a group chooses kernels."""
        return (
            tuple(tuple(sorted(signature.flags(group).items())) for signature in self.signatures),
            tuple(slot.exists(group) for signature in self.signatures for slot in signature.slots),
            tuple(slot.format(group, group["state"]) for signature in self.signatures for slot in signature.slots),
            self.optimizer.decay_of(group),
            group["state"],
            group["weights"],
            group["seed"],
            group["cautious"],
        )


class Plan:
    """The launches of one optimizer."""

    def __init__(self, optimizer: Any) -> None:
        self.launches: list[Launch] = []
        self.groups: list[dict[str, Any]] = optimizer.param_groups
        self.rows = Rows(optimizer)
        self.members = [list(group["params"]) for group in self.groups]
        by_key: dict[Any, Launch] = {}
        place = -1
        everywhere = (sharding.shards_of(tensor) for group in self.groups for tensor in group["params"])
        self.shards: list[sharding.Shards] = sharding.ordered(everywhere)
        self.has_sums = any(signature.sums for signature in self.rows.signatures) or any(
            group["cautious"] for group in self.groups
        )
        for position, group in enumerate(self.groups):
            names = group.get("param_names") or [
                f"parameter {i} of group {position}" for i in range(len(self.members[position]))
            ]
            for name, tensor in zip(names, group["params"], strict=True):
                place += 1
                part = sharding.local(tensor)
                if part.numel() == 0:
                    continue  # nothing to update, and no address to hand to a kernel
                signature = optimizer.signature_for(group, tensor)
                kind = self._kind(optimizer, signature, group, tensor, name)
                backend = optimizer.backend_for(kind, tensor, name)
                stack = None if kind.view == "element" else (tuple(tensor.shape), position)
                key = (kind, tensor.device, backend.__name__, stack)
                if key not in by_key:
                    by_key[key] = Launch(kind, signature, backend)
                    self.launches.append(by_key[key])
                launch = by_key[key]
                launch.names.append(name)
                launch.owners.append(tensor)
                launch.tensors.append(part)
                launch.shards.append(sharding.shards_of(tensor))
                launch.group_list.append(position)
                launch.places.append(place)
                launch.states.append(optimizer.watched_state(tensor))
        refuse_overlaps(pair for launch in self.launches for pair in zip(launch.names, launch.tensors, strict=True))
        for launch in self.launches:
            launch.seal(self.groups, self.launches)

    def fits(self, optimizer: Any) -> bool:
        """Read the numbers of this step; False if the groups no longer choose the kernels this plan was made of."""
        groups = optimizer.param_groups
        return (
            groups is self.groups
            and len(groups) == len(self.members)
            and all(_same(group["params"], members) for group, members in zip(groups, self.members, strict=True))
            and self.rows.refresh()
        )

    def pool(self, launches: list[Launch]) -> None:
        """Make sums over whole tensors of those over shards, and sums over the run of those over tensors.

        `launches` are those of this step that have sums.
        """
        for shards in self.shards if self.has_sums else ():
            self._reduce(launches, shards)
        pooled = [launch for launch in launches if launch.kind.over == "run"]
        if not pooled:
            return
        device = pooled[0].totals.device
        total = torch.stack([launch.totals.sum(dim=0).to(device) for launch in pooled]).sum(dim=0)
        for launch in pooled:
            launch.totals.copy_(total.expand_as(launch.totals))

    def _reduce(self, launches: list[Launch], shards: sharding.Shards) -> None:
        """One reduction of the sums of all tensors that are cut like this, a row for each."""
        owners = [p for group in self.groups for p in group["params"] if sharding.shards_of(p) == shards]
        row = {id(owner): k for k, owner in enumerate(owners)}
        width = max(len(signature.sums) for signature in self.rows.signatures) or 1  # caution has one
        values = torch.zeros((len(owners), width), dtype=torch.float64, device=shards[0].device_type)
        mine = [(launch, i) for launch in launches for i, one in enumerate(launch.shards) if one == shards]
        for launch, i in mine:
            values[row[id(launch.owners[i])], : len(launch.kind.sums)] = launch.totals[i]
        sharding.reduce(values, shards)
        for launch, i in mine:
            launch.totals[i] = values[row[id(launch.owners[i])], : len(launch.kind.sums)]

    def squared_norm(self, launches: list[Launch]) -> list[Tensor]:
        """Sums of squares that add up to that of all gradients; over the mesh where tensors are cut."""
        parts: list[Tensor] = []
        cut = {shards: torch.zeros((), dtype=torch.float64, device=shards[0].device_type) for shards in self.shards}
        for launch in launches:
            squares = launch.backend.squares(launch)
            if not launch.spread:
                parts.append(squares.sum())
                continue
            for square, shards in zip(squares, launch.shards, strict=True):
                if shards is None:
                    parts.append(square)
                else:
                    cut[shards] += square
        for shards, value in cut.items():
            sharding.reduce(value, shards)
        return [*parts, *cut.values()]

    def share_numbers(self, launches: list[Launch]) -> None:
        """Give every tensor the numbers that all share, also those without a gradient this time."""
        source = next((launch for launch in launches if launch.shared_numbers), None)
        if source is None or source.numbers is None:
            return
        index = next(iter(source.active()))
        values = source.numbers[index, source.shared_numbers].clone()
        for launch in self.launches:
            if launch.numbers is not None:
                launch.numbers[:, launch.shared_numbers] = values.to(launch.numbers.device)

    def _kind(
        self, optimizer: Any, signature: RuleSignature, group: dict[str, Any], tensor: Tensor, name: str
    ) -> LaunchKind:
        weights = formats.format_of(tensor, f"the parameter {name!r}")
        present = tuple(slot.name if slot.exists(group) else None for slot in signature.slots)
        state, _ = formats.state_format(group["state"], weights, tensor.numel())
        flags, decay = optimizer.choose(group, tensor, signature.flags(group), optimizer.decay_of(group))
        cautious = bool(group["cautious"])
        sums = ("kept",) if cautious else signature.sums
        return LaunchKind(
            rule=signature.rule,
            decay=decay,
            flags=tuple(sorted(flags.items())),
            slots=present,
            slot_formats=tuple(slot.format(group, state) for slot in signature.slots),
            signed=tuple(slot.signed for slot in signature.slots),
            weights=weights,
            rounding=formats.weight_rounding(group["weights"], weights),
            gradients=weights,
            number_arguments=tuple(n for n in signature.hyperparameters if n not in flags and n not in _SHARED),
            shared=tuple(n for n in signature.hyperparameters if n in _SHARED),
            row_names=self.rows.names,
            cautious=cautious,
            measure=signature.measure,
            sums=sums,
            over=signature.over,
            view=signature.view,
            sizes=("elements",) if cautious or "elements" in signature.named else (),
        )


def _same(tensors: list[Tensor], others: list[Tensor]) -> bool:
    """Whether two lists hold the same tensors: some put another parameter into a group in place."""
    return len(tensors) == len(others) and all(map(is_, tensors, others))


def layout_of(tensor: Tensor) -> tuple[torch.dtype, torch.device, torch.Size, tuple[int, ...]]:
    """What decides where the elements of a tensor and of its state lie, but for the address."""
    return tensor.dtype, tensor.device, tensor.shape, tensor.stride()


def norm_of(kind: LaunchKind) -> LaunchKind:
    """What adds up the squares of gradients as `kind` has them; its table has two columns, its rows one number."""
    return LaunchKind(
        rule=_square,
        decay=None,
        flags=(),
        slots=(),
        slot_formats=(),
        signed=(),
        weights=kind.weights,
        rounding="native",
        gradients=kind.gradients,
        number_arguments=(),
        shared=(),
        row_names=("gradient_sign",),
        measure=_square,
        sums=("squared",),
    )


def _square(g: Any, p: Any, t: Any) -> dict[str, Any]:
    return {"squared": g * g}
