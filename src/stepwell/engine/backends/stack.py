"""Stacks of equally shaped tensors for matrix rules, made of what is stored, and what is stored made of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from stepwell.engine import formats, memory_order
from stepwell.engine.backends import eager
from stepwell.engine.frame import apply_in_place
from stepwell.engine.kernels import codes, stacked
from stepwell.engine.kernels.installed import has_numba
from stepwell.engine.kind import LaunchKind
from stepwell.engine.launch import Launch
from stepwell.engine.rule import as_matrix


def stack_of(launch: Launch, members: list[int]) -> Plain | Converted:
    """The stack of some tensors of a launch."""
    if not _is_plain(launch, members):
        return Converted(launch, members)
    return (ByAddress if has_addresses(launch) else Plain)(launch, members)


def has_addresses(launch: Launch) -> bool:
    """Whether the addresses of this step's weights and gradients are known, and kernels can stack them."""
    here = launch.tensors[0].device.type == "cpu" and launch.directions is None
    return launch.has_taken and here and has_numba()


def _is_plain(launch: Launch, members: list[int]) -> bool:
    """Whether all weights are stored in the working precision, in the order of their dimensions, and kernels convert
    the slots that are not."""
    kind = launch.kind
    if kind.weights not in ("fp32", "fp64") or launch.slots.low_bits is not None:
        return False
    for name, stored in zip(kind.slot_formats, launch.slots.slots, strict=True):
        if stored is not None and name != kind.weights and not all(codes.can(name, *stored[i]) for i in members):
            return False
    if any(launch.rows_here[i] is not None for i in members):
        return False
    tensors = launch.tensors
    if launch.directions is None and not all(tensors[i].is_contiguous() for i in members):
        return False
    return launch.has_taken or all(_is_like(launch.gradients[i], tensors[i]) for i in members)


def _is_like(gradient: Tensor, tensor: Tensor) -> bool:
    return (
        gradient.layout == torch.strided
        and gradient.dtype == tensor.dtype
        and gradient.shape == tensor.shape
        and gradient.is_contiguous()
    )


class InStack:
    """A stack in which weights are updated."""

    launch: Launch
    p: Tensor | None

    def apply(self, direction: Tensor | None, *, lr: float, weight_decay: float) -> None:
        """p <- p - lr * direction, with the decay of the rule's kind, in the stack."""
        kind = self.launch.kind
        apply_in_place(self.p, direction, lr=lr, weight_decay=weight_decay, decay=kind.decay, shared=kind.shared)

    def staged(self, slots: list[Any]) -> list[Any]:
        """New slots of which none is memory that is written before them."""
        p = self.p
        if p is None:
            return slots
        return [one.clone() if one is not None and _memory(one) == _memory(p) else one for one in slots]


class Plain(InStack):
    """A stack that is gathered and scattered by one call each. Weights are updated in the stack, so a single tensor is
    copied as well: an interrupted update must not be partially visible."""

    def __init__(self, launch: Launch, members: list[int]) -> None:
        self.launch, self.members = launch, members
        self.tensors = [launch.tensors[index].detach() for index in members]
        self.states = [None if stored is None else [stored[i] for i in members] for stored in launch.slots.slots]
        shape = self.tensors[0].shape
        self.seen = as_matrix(shape) if launch.kind.view == "matrix" else tuple(shape)
        self.per_element = [slot.per == "element" for slot in launch.signature.slots]
        self.g = self._shaped(self._gradients())
        self.p = self._shaped(self._weights()) if self._needs_weights() else None
        self.slots = [None if held is None else self._read(place, held) for place, held in enumerate(self.states)]

    def _needs_weights(self) -> bool:
        return self.launch.directions is None

    def _gradients(self) -> Tensor:
        return torch.stack([self.launch.gradients[index] for index in self.members])

    def _weights(self) -> Tensor:
        return torch.stack(self.tensors)

    def _slot(self, place: int, tensors: list[Tensor]) -> Tensor:
        return torch.stack(tensors)

    def _read(self, place: int, held: list[tuple[Tensor, ...]]) -> Tensor:
        """The values of one slot."""
        kind, per_element = self.launch.kind, self.per_element[place]
        name, signed = kind.slot_formats[place], kind.signed[place]
        if name == kind.weights:
            values = self._slot(place, [one[0] for one in held])
        else:
            shape = self.tensors[0].shape if per_element else held[0][0].shape
            values = codes.read_stack(name, signed, held, shape.numel()).view(len(held), *shape)
        return self._shaped(values) if per_element else values

    def _shaped(self, stack: Tensor) -> Tensor:
        return stack.reshape(len(self.tensors), *self.seen)

    def store(self, slots: list[Any]) -> None:
        """Write the new values. To do so twice changes nothing more."""
        self._write_weights()
        kind = self.launch.kind
        for place, (held, new) in enumerate(zip(self.states, slots, strict=True)):
            name = kind.slot_formats[place]
            if held is not None and name == kind.weights:
                self._write_slot(place, new.reshape(len(held), *held[0][0].shape), [one[0] for one in held])
            elif held is not None:
                keys = [self._key(name, place, index) for index in self.members]
                values = new.reshape(len(held), -1)
                codes.write_stack(name, kind.signed[place], held, values, place, keys, self._step())

    def _write_weights(self) -> None:
        if self.p is not None:
            whole = self.p.reshape(len(self.tensors), *self.tensors[0].shape)
            torch._foreach_copy_(self.tensors, list(whole.unbind()))

    def _write_slot(self, place: int, stack: Tensor, tensors: list[Tensor]) -> None:
        torch._foreach_copy_(tensors, list(stack.unbind()))

    def _step(self) -> float:
        return float(self.launch.slots.steps[self.members[0]])

    def _key(self, name: str, place: int, index: int) -> int:
        """That of the random bits of a slot of one tensor."""
        launch = self.launch
        seed, first = int(launch.seeds[index]), launch.firsts[index]
        return codes.key_of(name, seed, launch.places[index], self._step(), place, first)


class ByAddress(Plain):
    """The same by kernels, where this step's addresses are known.

    Weights are written where they are by one call, which no exception interrupts, and are copied only for a rule that
    reads them. A single tensor is not copied: rules of this package do not change what they are given. It is where it
    does not begin at a multiple of 64 bytes, as a copy does, because MKL rounds by that.
    """

    def __init__(self, launch: Launch, members: list[int]) -> None:
        self.table = launch.memory.addresses.table[members]
        self.columns = list(_columns(launch.kind))
        self._is_alone = len(members) == 1 and launch.kind.rule.__module__.startswith("stepwell.")
        self._applying: Any = None
        super().__init__(launch, members)

    def _needs_weights(self) -> bool:
        return self.launch.kind.decay == "coupled" or self.launch.signature.reads_weights

    def _gradients(self) -> Tensor:
        gradient = self.launch.owners[self.members[0]].grad
        if self._can_view(1) and gradient is not None and gradient.data_ptr() == self.table[0, 1]:
            return gradient[None]
        return self._gathered(1, self.tensors)  # which have the layout of the gradients

    def _weights(self) -> Tensor:
        return self._gathered(0, self.tensors)

    def _slot(self, place: int, tensors: list[Tensor]) -> Tensor:
        if self._can_view(self.columns[place]) and tensors[0].is_contiguous():
            return tensors[0][None]
        return self._gathered(self.columns[place], tensors) if _are_dense(tensors) else torch.stack(tensors)

    def _can_view(self, column: int) -> bool:
        return self._is_alone and self.table[0, column] % 64 == 0

    def _gathered(self, column: int, like: list[Tensor]) -> Tensor:
        return stacked.gather(self.table[:, column], tuple(like[0].shape), like[0].dtype)

    def apply(self, direction: Tensor | None, *, lr: float, weight_decay: float) -> None:
        """Let `store` do so."""
        kind = self.launch.kind
        if direction is not None:
            kept = 1 - lr * weight_decay if kind.decay == "decoupled" else 1.0
            rate = 1.0 if "lr" in kind.shared else lr
            like = self.tensors[0]
            direction = direction.to(like.dtype).expand(len(self.tensors), *self.seen)
            self._applying = stacked.application(direction.contiguous(), self.table[:, 0], kept, rate)

    def staged(self, slots: list[Any]) -> list[Any]:
        """See `Plain`. A new value may also be the memory of a gradient, or of another slot."""
        given = {_memory(one) for one in (self.g, *self.slots) if one is not None}
        return [
            one if one is None or _memory(one) not in given or _is_same(one, before) else one.clone()
            for one, before in zip(slots, self.slots, strict=True)
        ]

    def _write_weights(self) -> None:
        if self._applying is not None:
            self._applying()

    def _write_slot(self, place: int, stack: Tensor, tensors: list[Tensor]) -> None:
        if len(tensors) == 1 and _is_same(stack, tensors[0][None]):
            return  # it is as it was
        if _are_dense(tensors) and stack.dtype == tensors[0].dtype:
            stacked.scatter(stack.contiguous(), self.table[:, self.columns[place]])
        else:
            super()._write_slot(place, stack, tensors)


def _memory(tensor: Tensor) -> int:
    """Where the storage of a tensor is: which tensors share it."""
    return tensor.untyped_storage().data_ptr()


def _is_same(one: Tensor, other: Tensor | None) -> bool:
    """Whether two tensors are the same elements in the same order."""
    if other is None:
        return False
    return one.data_ptr() == other.data_ptr() and one.shape == other.shape and one.stride() == other.stride()


def _columns(kind: LaunchKind) -> Iterator[int]:
    """The column of the table of addresses in which each slot begins."""
    column = 2
    for name, storage in zip(kind.slots, kind.slot_formats, strict=True):
        yield column
        if name is not None and storage != formats.NUMBER:
            column += len(formats.state_names(name, storage))


def _are_dense(tensors: list[Tensor]) -> bool:
    """Whether tensors have the same elements in the order of their dimensions."""
    first = tensors[0]
    return all(t.is_contiguous() and t.dtype == first.dtype and t.shape == first.shape for t in tensors)


class Converted(InStack):
    """A stack of tensors in any layout and format, one by one."""

    def __init__(self, launch: Launch, members: list[int]) -> None:
        self.launch, self.members, view = launch, members, launch.kind.view
        self.loaded = [_loaded(launch, index) for index in members]
        self.g = _stack([one.g for one in self.loaded], self.loaded, view)
        here = launch.directions is None
        self.p = _stack([one.p for one in self.loaded], self.loaded, view) if here else None
        self.slots: list[Any] = []
        for place, slot in enumerate(launch.signature.slots):
            values = [one.slots[place] for one in self.loaded]
            if values[0] is None:
                self.slots.append(None)
            else:
                whole = slot.per == "element"
                self.slots.append(_stack(values, self.loaded, view) if whole else torch.stack(values))

    def store(self, slots: list[Any]) -> None:
        """Write the new values back."""
        for position, (index, one) in enumerate(zip(self.members, self.loaded, strict=True)):
            new: list[Any] = []
            for slot, values in zip(self.launch.signature.slots, slots, strict=True):
                value = None if values is None else values[position]
                new.append(_flat(value, one.whole) if value is not None and slot.per == "element" else value)
            if self.p is None:
                eager.store_slots(self.launch, index, new, one.whole.numel(), by_kernel=True)
            else:
                eager.store(self.launch, index, one, _flat(self.p[position], one.whole), new, by_kernel=True)


def _loaded(launch: Launch, index: int) -> eager.Loaded:
    """One tensor of a launch; without weights where these are elsewhere."""
    if launch.directions is None:
        return eager.load(launch, index, by_kernel=True)
    whole = launch.gradients[index]
    slots = eager.load_slots(launch, index, whole.numel(), by_kernel=True)
    g = memory_order.flat(whole).to(formats.working_dtype(launch.kind.weights))
    return eager.Loaded(g, g, slots, whole, None)


def _stack(values: list[Tensor], loaded: list[eager.Loaded], view: str) -> Tensor:
    """Flat values in the order of memory as (n, *shape), or as (n, rows, columns)."""
    shaped = []
    for flat, one in zip(values, loaded, strict=True):
        if one.whole.is_contiguous():
            shaped.append(flat.view(one.whole.shape))
            continue
        tensor = torch.empty_like(one.whole, dtype=flat.dtype)
        memory_order.flat(tensor).copy_(flat)
        shaped.append(tensor)
    stack = torch.stack(shaped) if len(shaped) > 1 else shaped[0][None]
    return stack.reshape(len(shaped), *as_matrix(loaded[0].whole.shape)) if view == "matrix" else stack


def _flat(values: Tensor, whole: Tensor) -> Tensor:
    """The inverse of `_stack` for one tensor."""
    if whole.is_contiguous():
        return values.reshape(-1)
    tensor = torch.empty_like(whole, dtype=values.dtype)
    tensor.copy_(values.reshape(whole.shape))
    return memory_order.flat(tensor)
