"""The state of the tensors of one launch: created, or taken from existing entries, and visible in `optimizer.state`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from stepwell.engine import formats, memory_order, sharding, stored
from stepwell.engine.cells import zeros
from stepwell.engine.kind import LaunchKind
from stepwell.engine.pointers import is_wrapper, layout_of
from stepwell.engine.rule import RuleSignature, Slot
from stepwell.engine.watch import Stale
from stepwell.errors import UsageError

# How a refusal speaks of entries of the state that somebody put there.
_BY_HAND: dict[str, Any] = {
    "where": "in optimizer.state",
    "mend": "delete optimizer.state[p], which resets it, or assign a float32 tensor of the parameter's shape",
}
# Of how many elements block scales are: rows taken out of the codes would leave each scale with other elements, and of
# codes and scales that were both cut nobody can see whether they belong together. So codes are taken over that were
# made here or loaded, and such as somebody put there for a parameter that was stepped in the shape it has.
_ELEMENTS: Any = WeakIdKeyDictionary()
_LOADED = 0  # of as many as the shapes of codes and scales say
_STEPPED: Any = WeakIdKeyDictionary()  # the shape in which a tensor was stepped


def trust(states: Mapping[Any, Any]) -> None:
    """Note that the codes in these states, of a checkpoint or a copy, belong to their scales."""
    for parameter, state in states.items():
        if isinstance(parameter, Tensor) and isinstance(state, Mapping):
            for key, scales in state.items():
                if isinstance(key, str) and key.endswith("_largest") and isinstance(scales, Tensor):
                    _ELEMENTS[sharding.local(scales)] = _LOADED


class Slots:
    """The state of the tensors of one launch.

    Args:
        kind, signature: of the launch.
        owner: the class of the optimizer, for messages.
        names, owners, tensors: of the parameters; `tensors` are what lies here of them.
        groups: of each parameter, its group.
        states: of each parameter, its entry in `optimizer.state`.
        all_states: those of all launches, for numbers that all tensors share.

    Attributes:
        slots: for each slot of the rule, for each tensor, the tensors that hold it (see formats.py); None for a slot
            that is absent, and for one that is a number.
        low_bits: for each tensor, its int16 low bits; None where weights are not split.
        counts: the counts of updates, float32 (tensors,), as torch has them, on the device of the parameters.
        cells: slots of one number, float64 (tensors, slots); None without such slots.
        started: whether a tensor has state.
    """

    def __init__(
        self,
        kind: LaunchKind,
        signature: RuleSignature,
        owner: str,
        names: Sequence[str],
        owners: Sequence[Tensor],
        tensors: list[Tensor],
        groups: Sequence[dict[str, Any]],
        states: Sequence[Any],
        all_states: Sequence[Any],
    ) -> None:
        self.kind, self.signature, self.owner, self.names, self.owners = kind, signature, owner, names, owners
        self.tensors, self.groups, self.states, self.all_states = tensors, groups, states, all_states
        count, width, device = len(tensors), len(kind.number_slots), tensors[0].device
        self.layouts = [layout_of(tensor) for tensor in tensors]
        self.counts = zeros((count,), torch.float32, device)
        self.cells = zeros((count, width), torch.float64, device) if width else None
        self.shared_numbers = [
            column
            for column, name in enumerate(kind.number_slots)
            if any(slot.name == name and slot.per == "run" for slot in signature.slots)
        ]
        self.slots: list[list[Any] | None] = [
            None if name is None or name in kind.number_slots else [None] * count for name in kind.slots
        ]
        self.low_bits: list[Any] | None = [None] * count if kind.rounding == "split" else None
        self.started = np.zeros(count, dtype=bool)
        for index, state in enumerate(states):
            if state:
                self.bind(index)
        self.all_started = bool(self.started.all())

    @property
    def step_counts(self) -> Tensor:
        """float32 (tensors,), on their device."""
        return self.counts.values

    @property
    def steps(self) -> Any:
        """The same, as NumPy's array where it is in the CPU's memory."""
        return self.counts.array

    @property
    def numbers(self) -> Tensor | None:
        """The slots that are one number per tensor, float64 (tensors, slots); None without such slots."""
        return None if self.cells is None else self.cells.values

    def start(self, gradients: Sequence[Any]) -> bool:
        """Create the state of tensors with their first gradient. Returns whether there were any."""
        if self.all_started:
            return False
        first = [i for i, gradient in enumerate(gradients) if gradient is not None and not self.started[i]]
        for index in first:
            self.bind(index)
        self.all_started = bool(self.started.all())
        return bool(first)

    def bring_back(self) -> None:
        """Write numbers back to their entries."""
        self.counts.bring_back()
        if self.cells is not None:
            self.cells.bring_back()

    def check_layout(self) -> None:
        """Raise Stale if a parameter's device, dtype, shape or strides changed since planning."""
        changed = [i for i, (p, old) in enumerate(zip(self.tensors, self.layouts, strict=True)) if layout_of(p) != old]
        for index in changed:
            self._release(index)
        if changed:
            raise Stale

    def labelled(self, index: int) -> Iterable[tuple[str, Tensor]]:
        """The tensors of the state of one parameter, with labels for messages."""
        for slot, places, name in zip(self.signature.slots, self.slots, self.kind.slot_formats, strict=True):
            if places is not None:
                for entry, tensor in zip(formats.state_names(slot.name, name), places[index], strict=True):
                    yield f"the state {entry!r} of {self.names[index]!r}", tensor
        if self.low_bits is not None:
            yield f"the state {formats.LOW_BITS!r} of {self.names[index]!r}", self.low_bits[index]

    @torch.no_grad()
    @torch.inference_mode(False)  # an inference tensor could not be updated outside of it
    def bind(self, index: int) -> None:
        """Create the state of one tensor, or use existing entries (loaded, assigned by the user, or from an earlier
        plan)."""
        state, tensor = self.states[index], self.tensors[index]
        if layout_of(tensor) != self.layouts[index]:
            raise Stale
        group = self.groups[index]
        width = formats.working_dtype(self.kind.weights)
        # A buffer without a count comes from torch.optim.SGD, which keeps none: it has been stepped at least once.
        named = f"{self.names[index]!r}"
        count = stored.count(self.owner, named, state.get("step", float(bool(state))), **_BY_HAND)
        self.counts.bind(index, state, "step", f"the state 'step' of {named}", count)
        for slot, places, name in zip(self.signature.slots, self.slots, self.kind.slot_formats, strict=True):
            if self.cells is not None and slot.name in self.kind.number_slots:
                place = index * len(self.kind.number_slots) + self.kind.number_slots.index(slot.name)
                start = state[slot.name] if slot.name in state else self._start_of_number(slot, group)
                if not (isinstance(start, Tensor) and start.numel() == 1 and start.is_floating_point()):
                    start = stored.number(self.owner, named, slot, start, **_BY_HAND)
                # A number that the rule itself has made infinite stays so: its tensor is at rest.
                start = float(start)
                self.cells.bind(place, state, slot.name, f"the state {slot.name!r} of {named}", start)
            if places is None:
                continue
            like = tensor
            if slot.per != "element":
                # rows and columns of the whole, in every process: two vectors for a matrix
                like = torch.empty(slot.shape(self.owners[index].shape, group), dtype=width, device=tensor.device)
            if slot.name in state:
                places[index] = self._taken(state, slot, like, name, named, tensor)
            else:
                places[index] = formats.allocate(name, slot.signed, like, slot.start_value(group))
            dict.pop(state, f"{slot.name}_largest", None)
            entries = formats.state_names(slot.name, name)
            for key, value in zip(entries, places[index], strict=True):
                dict.__setitem__(state, key, self._shown(index, value) if slot.per == "element" else value)
            if len(entries) > 1:
                _ELEMENTS[places[index][1]] = like.numel()
                _STEPPED[tensor] = tensor.shape
        if self.low_bits is not None:
            low = state.get(formats.LOW_BITS)
            low = sharding.local(low) if isinstance(low, Tensor) else low
            if low is None:  # these weights have lost nothing yet: what they are now is their float32 value
                low = torch.zeros_like(tensor, dtype=torch.int16, requires_grad=False)
            else:
                stored.check_low_bits(self.owner, named, low, tensor, **_BY_HAND)
            if low.stride() != torch.empty_like(tensor, device="meta").stride() or low.device != tensor.device:
                low = torch.empty_like(tensor, dtype=torch.int16, requires_grad=False).copy_(low)
            self.low_bits[index] = low
            dict.__setitem__(state, formats.LOW_BITS, self._shown(index, low))
        self.started[index] = True

    def _taken(self, state: Any, slot: Slot, like: Tensor, name: str, named: str, tensor: Tensor) -> tuple[Tensor, ...]:
        """The state of one slot, in the format `name`: the same tensors if a kernel can use them.

        A tensor of numbers that a user assigned in place of codes is encoded; anything else that does not fit is
        refused.
        """
        if is_wrapper(like):  # the same class did what it could with it before
            return (state[slot.name],)
        beside = f"{slot.name}_largest"
        found = {
            key: sharding.local(state[key]) if isinstance(state[key], Tensor) else state[key]
            for key in (slot.name, beside)
            if key in state
        }
        format_found = stored.check(self.owner, named, slot, found, like, values=False, edited=True, **_BY_HAND)
        if format_found not in ("int8", "int4"):
            return formats.convert({slot.name: found[slot.name]}, slot.name, slot.signed, like, name)
        elements = _ELEMENTS.get(found[beside])
        if elements is None and _STEPPED.get(tensor) != tensor.shape:
            raise UsageError(
                f"{self.owner}: {slot.name!r} of {named} {_BY_HAND['where']} contains codes and block scales that were "
                "assigned for a parameter that has not been updated in this shape yet, and it is not known whether "
                "each scale "
                "belongs to its codes; codes cannot be pruned or grown by rows: "
                f"{_BY_HAND['mend']}, or load the state with load_state_dict"
            )
        if elements not in (None, _LOADED, like.numel()):
            raise UsageError(
                f"{self.owner}: {beside!r} of {named} {_BY_HAND['where']} are block scales of {elements:,} elements, "
                f"the parameter has {like.numel():,}; codes cannot be pruned or grown by rows: {_BY_HAND['mend']}"
            )
        found[beside] = found[beside].to(torch.float32).contiguous()
        if format_found == "int4":
            found[slot.name] = found[slot.name].contiguous()
        return formats.convert(found, slot.name, slot.signed, like, name)

    def _release(self, index: int) -> None:
        """Prepare the state of a tensor for another layout: 4-bit codes are in memory order, without a record of the
        order, so they become float32."""
        _, _, shape, stride = self.layouts[index]
        for slot, places, name in zip(self.signature.slots, self.slots, self.kind.slot_formats, strict=True):
            if name == "int4" and places is not None and places[index] is not None:
                values = formats.read(name, slot.signed, places[index], math.prod(shape), torch.float32)
                unpacked = memory_order.in_order(values, shape, stride)
                dict.pop(self.states[index], f"{slot.name}_largest", None)
                dict.__setitem__(self.states[index], slot.name, unpacked)

    def _shown(self, index: int, part: Tensor) -> Tensor:
        """What `optimizer.state` shows of a part of the state: it is spread where the parameter is."""
        owner, tensor = self.owners[index], self.tensors[index]
        return sharding.spread_like(owner, part) if sharding.is_spread(owner) and part.shape == tensor.shape else part

    def _start_of_number(self, slot: Slot, group: Mapping[str, Any]) -> Any:
        """Of a number that all tensors share: what those have that began before."""
        if slot.per == "run":
            for state in self.all_states:
                if slot.name in state:
                    return state[slot.name]
        return slot.start_value(group)
