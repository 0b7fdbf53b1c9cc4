"""Which tensors go through which launch.

Tensors whose kernel is the same form one launch, across groups: what differs between their groups (lr, betas, decay)
is a row of numbers that the kernel reads, so 465 groups cost what one costs. A plan is kept from step to step and
rebuilt only when something it depends on has changed: the groups' flags, or a tensor of the state that was replaced.
"""

from __future__ import annotations

import math
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from operator import is_, itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from stepwell.engine import formats, sharding, stored
from stepwell.engine.cells import zeros
from stepwell.engine.foreign import Foreign
from stepwell.engine.overlaps import refuse_overlaps
from stepwell.engine.pointers import OUT_OF_STORAGE, Pointers, has_memory, is_wrapper, layout_of, lies_in_its_storage
from stepwell.engine.rule import Range, Rule, RuleSignature, Slot, read
from stepwell.errors import UsageError

_SHARED = ("lr", "weight_decay")  # the frame's own numbers
# How a refusal speaks of entries of the state that somebody put there.
_BY_HAND: dict[str, Any] = {
    "where": "in optimizer.state",
    "mend": "delete optimizer.state[p], which begins it anew, or put a float32 tensor of the parameter's shape there",
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


class Stale(Exception):
    """A tensor is no longer what the plan was made for; the optimizer makes a new plan and goes on."""


class Kept:
    """The plan that an optimizer keeps from step to step, or None."""

    plan: Plan | None = None


class Watched(defaultdict[Any, Any]):
    """A dict that drops the plan when its entries are replaced, so that a plan need not look at them at every step,
    and does not keep what was replaced in memory.

    It refers to what holds the plan weakly: a plan holds dicts like this, and memory in a circle is not freed at once.
    """

    def __init__(self, content: Mapping[Any, Any], kept: Kept, default: Any = None) -> None:
        super().__init__(default, content)
        self._kept = weakref.ref(kept)

    def is_of(self, kept: Kept) -> bool:
        """Whether this is the plan that changes here drop."""
        return self._kept() is kept

    def _drop(self) -> None:
        kept = self._kept()
        if kept is not None:
            kept.plan = None

    def __setitem__(self, key: Any, value: Any) -> None:
        self._drop()
        super().__setitem__(key, value)

    def __delitem__(self, key: Any) -> None:
        self._drop()
        super().__delitem__(key)

    def clear(self) -> None:
        self._drop()
        super().clear()

    def pop(self, *args: Any) -> Any:
        self._drop()
        return super().pop(*args)

    def popitem(self) -> Any:
        self._drop()
        return super().popitem()

    def setdefault(self, *args: Any) -> Any:
        self._drop()
        return super().setdefault(*args)

    def update(self, *args: Any, **kwargs: Any) -> None:
        self._drop()
        super().update(*args, **kwargs)

    def __ior__(self, other: Any) -> Any:  # type: ignore[misc]  # `|` makes a plain dict, which is right
        self._drop()
        return super().__ior__(other)

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

    def __init__(self, kind: LaunchKind, signature: RuleSignature, backend: Any, owner: str, said: set[str]) -> None:
        self.kind = kind
        self.said = said  # what the optimizer has warned of already
        self.owner = owner  # the class of the optimizer
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

    def seal(self, groups: list[dict[str, Any]], states: list[Any]) -> None:
        """Called once all tensors are in: bind the state that exists already. `states` are those of all launches."""
        count = len(self.tensors)
        self.param_groups = groups
        self.all_states = states
        self.groups = np.array(self.group_list, dtype=np.int64)
        self.layouts = [layout_of(tensor) for tensor in self.tensors]
        self.elements = np.array([owner.numel() for owner in self.owners], dtype=np.int64)  # over the mesh
        self.spread = any(map(sharding.is_spread, self.owners))
        self.seeds = np.array([groups[group]["seed"] for group in self.group_list], dtype=np.int64)
        places = np.array(self.places, dtype=np.int64)
        self.salts = self.seeds * formats.SEED_FACTOR + places * formats.PLACE_FACTOR
        # As torch: a float32 count, one per tensor, here all in one tensor on the device of the parameters.
        self.counts = zeros((count,), torch.float32, self.tensors[0].device)
        self.started = np.zeros(count, dtype=bool)
        # float64 (tensors, slots of one number), None without such slots; a tensor's state has views of its row
        width, device = len(self.kind.number_slots), self.tensors[0].device
        self.cells = zeros((count, width), torch.float64, device) if width else None
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
        self.pointers: Pointers | None = None
        # Of the update that is being made, for one that is interrupted:
        self.began = False  # whether something may have been written
        self.finished: set[int] = set()  # tensors that are written, where they are written one by one
        self.writing: Callable[[], None] | None = None  # writes what was computed last; it may be done twice
        self.moves = 0  # how often something was found elsewhere than in the step before
        for index, state in enumerate(self.states):
            if state:
                self._bind(index)
        self.all_started = bool(self.started.all())
        self.complete = False  # whether every tensor has a gradient this time
        self.counts_versions = not any(owner.is_inference() for owner in self.owners)

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

    def collect(self) -> bool:
        """Look at the gradients, and at all that this launch reads and writes; give state to a tensor that has its
        first gradient. False if there is none at all."""
        if self.tensors[0].is_meta:
            raise UsageError(
                f"{self.names[0]!r} is on the meta device, where tensors have no values; make the model real "
                "with model.to_empty(device=...), initialise or load it, and then make a new optimizer: to_empty "
                "replaces the parameters that this one has"
            )
        self.gradients = [owner.grad for owner in self.owners]
        if self.spread:
            local = [sharding.local(owner) for owner in self.owners]
            if not all(map(is_, local, self.tensors)):
                self.tensors, self.pointers = local, None
            self.gradients = [
                None if gradient is None else sharding.local_gradient(gradient, owner)
                for gradient, owner in zip(self.gradients, self.owners, strict=True)
            ]
        missing = sum(map(is_, self.gradients, repeat(None)))
        self.complete = missing == 0
        if missing == len(self.gradients):
            return False
        if not self.all_started:
            for index, gradient in enumerate(self.gradients):
                if gradient is not None and not self.started[index]:
                    self._bind(index)
                    self.pointers = None
            self.all_started = bool(self.started.all())
        self._look()
        return True

    def write(self, act: Callable[[], None]) -> None:
        """Write what was computed, so that an interrupted update can be finished."""
        self.writing = act
        act()
        self.writing = None

    def finish(self, rows: np.ndarray, gradient_factor: Any, found_inf: Any) -> None:
        """Complete the update that an exception interrupted."""
        if self.began:
            self.backend.finish(self, rows, gradient_factor)
        else:
            self.backend.run(self, rows, gradient_factor, found_inf)

    def done(self) -> None:
        """After an update: let go of the gradients, and write numbers that lie elsewhere to where they lie."""
        self.gradients = [None] * len(self.tensors)
        self.began, self.writing = False, None
        self.finished.clear()
        if "addresses" in self.memory:
            self.memory["addresses"].release()
        self.counts.bring_back()
        if self.cells is not None:
            self.cells.bring_back()

    def _look(self) -> None:
        """Ask all that is read and written by address where it lies now.

        Raises Stale where something is no longer what the plan was made for, and UsageError where there is no memory.
        """
        pointers = self.pointers = self.pointers or self._held()
        if not pointers.read():
            lost = np.flatnonzero(pointers.found == OUT_OF_STORAGE)
            if len(lost):
                raise UsageError(
                    f"{self.labels[lost[0]]} has no memory for its elements: its storage was freed or made smaller "
                    "(untyped_storage().resize_()); give the storage its size and its values back before the step"
                )
            self.check_layout()
            raise Stale  # a slot is another: the next plan takes it over, or refuses it
        if pointers.has_moved():
            self.foreign = Foreign(zip(self.labels, pointers.tensors, strict=True))
            self.moves += 1
        self.foreign.check()
        for cells in (self.counts, self.cells):
            if cells is not None:
                cells.fetch()

    def _held(self) -> Pointers:
        """The parameters and slots, held to be asked where they lie: `self.columns` of the table of addresses."""
        tensors: list[Tensor] = []
        self.labels: list[str] = []
        columns: list[tuple[int, int]] = []
        for index in (index for index, tensor in enumerate(self.tensors) if has_memory(tensor)):
            own = [(repr(self.names[index]), self.tensors[index])]
            more = list(self._labelled_slots(index)) if self.started[index] else []
            for column, (label, tensor) in enumerate([*own, *more]):
                self.labels.append(label)
                tensors.append(tensor)
                columns.append((index, column + (column > 0)))  # the second column is the gradient's
        self.columns = tuple(np.array(columns, dtype=np.int64).reshape(-1, 2).T)
        return Pointers(tensors, tensors)

    def _labelled_slots(self, index: int) -> Iterable[tuple[str, Tensor]]:
        """The tensors that hold the state of one parameter, with words to call them by."""
        for slot, places, name in zip(self.signature.slots, self.slots, self.kind.slot_formats, strict=True):
            if places is not None:
                for entry, tensor in zip(formats.state_names(slot.name, name), places[index], strict=True):
                    yield f"the state {entry!r} of {self.names[index]!r}", tensor
        if self.low_bits is not None:
            yield f"the state {formats.LOW_BITS!r} of {self.names[index]!r}", self.low_bits[index]

    def labelled(self) -> Iterable[tuple[str, Tensor]]:
        """All tensors that this launch writes, with words to call them by."""
        for index, tensor in enumerate(self.tensors):
            yield repr(self.names[index]), tensor
            if self.started[index]:
                yield from self._labelled_slots(index)

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

    @torch.no_grad()
    @torch.inference_mode(False)  # an inference tensor could not be updated outside of it
    def _bind(self, index: int) -> None:
        """Make the state of one tensor, or take over what is there (loaded, put there, or from an earlier plan)."""
        state, tensor = self.states[index], self.tensors[index]
        if layout_of(tensor) != self.layouts[index]:
            raise Stale
        group = self.param_groups[self.group_list[index]]
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
                like = torch.empty(slot.shape(tensor.shape, group), dtype=width, device=tensor.device)
            if slot.name in state:
                places[index] = self._taken(state, slot, like, name, named, tensor)
            else:
                places[index] = formats.allocate(name, slot.signed, like, slot.start_value(group))
            dict.pop(state, f"{slot.name}_largest", None)
            entries = formats.state_names(slot.name, name)
            for key, value in zip(entries, places[index], strict=True):
                dict.__setitem__(state, key, self._shown(index, value))
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
            if low.stride() != torch.empty_like(tensor).stride() or low.device != tensor.device:
                low = torch.empty_like(tensor, dtype=torch.int16, requires_grad=False).copy_(low)
            self.low_bits[index] = low
            dict.__setitem__(state, formats.LOW_BITS, self._shown(index, low))
        self.started[index] = True

    def _taken(self, state: Any, slot: Slot, like: Tensor, name: str, named: str, tensor: Tensor) -> tuple[Tensor, ...]:
        """What the state holds of one slot, in the format `name`: the very tensors, where a kernel can use them.

        A tensor of numbers that somebody put in the place of codes is encoded; anything else that does not fit is
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
                f"{self.owner}: {slot.name!r} of {named} {_BY_HAND['where']} holds codes and block scales that were "
                "put there for a parameter that was not stepped in this shape yet, and nothing says that each scale "
                "stands by its own codes; codes cannot be pruned or grown by rows: "
                f"{_BY_HAND['mend']}, or load the state with load_state_dict"
            )
        if elements not in (None, _LOADED, like.numel()):
            raise UsageError(
                f"{self.owner}: {beside!r} of {named} {_BY_HAND['where']} are block scales of {elements:,} elements, "
                f"here there are {like.numel():,}; codes cannot be pruned or grown by rows: {_BY_HAND['mend']}"
            )
        found[beside] = found[beside].to(torch.float32).contiguous()
        if format_found == "int4":
            found[slot.name] = found[slot.name].contiguous()
        return formats.convert(found, slot.name, slot.signed, like, name)

    def _release(self, index: int) -> None:
        """Prepare the state of a tensor for another layout: 4-bit codes lie in the order of memory and do not say in
        which, so they become float32."""
        _, _, shape, stride = self.layouts[index]
        for slot, places, name in zip(self.signature.slots, self.slots, self.kind.slot_formats, strict=True):
            if name == "int4" and places is not None and places[index] is not None:
                values = formats.read(name, slot.signed, places[index], math.prod(shape), torch.float32)
                unpacked = formats.in_order(values, shape, stride)
                dict.pop(self.states[index], f"{slot.name}_largest", None)
                dict.__setitem__(self.states[index], slot.name, unpacked)

    def _shown(self, index: int, part: Tensor) -> Tensor:
        """What `optimizer.state` shows of a part of the state: it is spread where the parameter is."""
        owner, tensor = self.owners[index], self.tensors[index]
        return sharding.spread_like(owner, part) if owner is not tensor and part.shape == tensor.shape else part

    def _start_of_number(self, slot: Slot, group: Mapping[str, Any]) -> Any:
        """Of a number that all tensors share: what those have that began before."""
        if slot.per == "run":
            for state in self.all_states:
                if slot.name in state:
                    return state[slot.name]
        return slot.start_value(group)

    def gradient_of(self, index: int) -> Tensor:
        """The gradient of one tensor; row-sparse ones with their rows in order and once, or dense where the rule needs
        the whole tensor."""
        gradient, name, shape = self.gradients[index].detach(), self.names[index], tuple(self.tensors[index].shape)
        if gradient.shape != shape:
            raise UsageError(
                f"{name!r} has shape {shape}, its gradient {tuple(gradient.shape)}: it was resized after backward(); "
                "call zero_grad() and backward() again"
            )
        if not gradient.is_sparse:
            if gradient.layout != torch.strided:
                raise UsageError(
                    f"the gradient of {name!r} has the layout {gradient.layout}; dense gradients and row-sparse ones "
                    "(torch.sparse_coo) are supported; set p.grad = p.grad.to_dense()"
                )
            if has_memory(gradient) and not lies_in_its_storage(gradient):
                raise UsageError(
                    f"the gradient of {name!r} has no memory for its elements: its storage was freed or made smaller; "
                    "call zero_grad() and backward() again"
                )
            return gradient
        self._check_rows(gradient, name)
        if not self.kind.takes_rows:
            return gradient.to_dense()
        if not self.tensors[index].is_contiguous():
            raise UsageError(
                f"the gradient of {name!r} is row-sparse, its parameter of shape {shape} is not contiguous; "
                "sparse gradients of contiguous parameters are supported"
            )
        return by_rows(gradient)

    @staticmethod
    def _check_rows(gradient: Tensor, name: str) -> None:
        """Raise UsageError where a sparse gradient names elements that its parameter does not have."""
        places, values = gradient._indices(), gradient._values()
        if not (lies_in_its_storage(places) and lies_in_its_storage(values)) or len(values) != places.shape[1]:
            raise UsageError(f"the sparse gradient of {name!r} is damaged: its rows and values do not fit each other")
        if places.numel() == 0:
            return
        limits = torch.tensor(gradient.shape[: gradient.sparse_dim()], device=places.device)[:, None]
        if bool(((places < 0) | (places >= limits)).any()):  # waits, as coalesce() does
            low, high = int(places.min()), int(places.max())
            raise UsageError(
                f"the sparse gradient of {name!r} has indices from {low} to {high}, outside of its shape "
                f"{tuple(gradient.shape)}; check what computed them"
            )


class Rows:
    """The numbers of every group, float64 (groups, names): what a schedule changes from step to step."""

    def __init__(self, optimizer: Any) -> None:
        # A weak one: the optimizer holds this, and what is in a circle stays in memory until the next collection.
        self.optimizer: Callable[[], Any] = weakref.ref(optimizer)
        self.signatures: tuple[RuleSignature, ...] = tuple(optimizer.signatures.values())
        by_element = [signature for signature in self.signatures if signature.view == "element"]
        numbers = dict.fromkeys(("lr", "weight_decay", *(n for s in by_element for n in s.numbers)))
        self.names = (*numbers, "gradient_sign")
        self.groups: list[dict[str, Any]] = optimizer.param_groups
        self.values = np.zeros((len(self.groups), len(self.names)))
        self._named = tuple(name for name in optimizer.defaults if name not in optimizer.construction)
        self._ranges = [optimizer.all_ranges.get(name) for name in self._named]
        self._read = itemgetter(*self._named)  # as tuples: quick to compare with the last step's
        for index, group in enumerate(self.groups):
            absent = [name for name in self._named if name not in group]
            if absent:
                raise UsageError(f"{type(optimizer).__name__}: group {index} has no {absent[0]!r}; put it back")
            optimizer.check_changed(index, self._named)
        self._raw: list[Any] = [self._read(group) for group in self.groups]
        self._flags = [self._group_flags(group) for group in self.groups]
        for index in range(len(self.groups)):
            self._write(index)

    def refresh(self) -> bool:
        """Take over what has changed; False if a flag has, so that other kernels are needed."""
        try:
            raw = [self._read(group) for group in self.groups]
        except KeyError:  # the next plan says which
            return False
        try:
            if raw == self._raw and not self._has_tensors(raw):
                return True
        except Exception:  # an array has no single truth, and a stranger's object may raise anything: it is refused
            pass
        for index, (new, old) in enumerate(zip(raw, self._raw, strict=True)):
            if new is old:
                continue
            changed = self._changed(new, old)
            if not changed and new == old and not self._has_tensors([new]):
                continue
            if changed:
                self.optimizer().check_changed(index, changed)
                raw[index] = self._read(self.groups[index])
            if self._group_flags(self.groups[index]) != self._flags[index]:
                return False
            self._write(index)
        self._raw = raw
        return True

    def _changed(self, new: tuple[Any, ...], old: tuple[Any, ...]) -> list[str]:
        """The names whose value must be looked at: another object than before, and not simply a number in range."""
        return [
            name
            for name, allowed, value, before in zip(self._named, self._ranges, new, old, strict=True)
            if value is not before
            and not (type(value) is float and type(allowed) is Range and allowed.count is None and value in allowed)
        ]

    def _write(self, index: int) -> None:
        group, optimizer = self.groups[index], self.optimizer()
        for column, name in enumerate(self.names[:-1]):
            value = self.signatures[0].value(name, group)
            if isinstance(value, Tensor):  # which may have been changed in place
                place = f" in group {index}"
                value = read(type(optimizer).__name__, name, value.item(), optimizer.all_ranges[name], place)
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
            self.optimizer().decay_of(group),
            group["state"],
            group["weights"],
            group["seed"],
            group["cautious"],
        )


class Plan:
    """The launches of one optimizer."""

    @torch.inference_mode(False)  # what is made here must outlive an inference mode that is on now
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
                signature = optimizer.signature_for(group, tensor)
                reason = None if signature.view == "element" else sharding.no_matrix(tensor)
                if reason is not None:  # in every process, also where the part is empty
                    raise UsageError(f"{type(optimizer).__name__}: cannot update {name!r}: {reason}")
                if part.numel() == 0:
                    continue  # nothing to update, and no address to hand to a kernel
                kind = self._kind(optimizer, signature, group, tensor, name)
                backend = optimizer.backend_for(kind, part, name)
                stack = None if kind.view == "element" else (tuple(tensor.shape), position)
                key = (kind, tensor.device, backend.__name__, stack)
                if key not in by_key:
                    by_key[key] = Launch(kind, signature, backend, type(optimizer).__name__, optimizer.said)
                    self.launches.append(by_key[key])
                launch = by_key[key]
                launch.names.append(name)
                launch.owners.append(tensor)
                launch.tensors.append(part)
                launch.shards.append(sharding.shards_of(tensor))
                launch.group_list.append(position)
                launch.places.append(place)
                launch.states.append(optimizer.watched_state(tensor))
        refuse_overlaps(
            (repr(name), tensor)
            for launch in self.launches
            for name, tensor in zip(launch.names, launch.tensors, strict=True)
        )
        states = [state for launch in self.launches for state in launch.states]
        for launch in self.launches:
            launch.seal(self.groups, states)
        self.moves = -1

    def refuse_overlaps(self) -> None:
        """Raise UsageError where parameters or slots share memory, once after they have moved."""
        moves = sum(launch.moves for launch in self.launches)
        if moves != self.moves:
            refuse_overlaps(pair for launch in self.launches for pair in launch.labelled())
            self.moves = moves

    def run(self, ready: list[Launch], gradient_factor: Any, found_inf: Any) -> None:
        """Update all of it, or nothing: where an exception (Ctrl-C) comes between two writes, the rest is written
        before the exception goes on."""
        count, done = len(ready), 0
        try:
            while done < count:
                ready[done].backend.run(ready[done], self.rows.values, gradient_factor, found_inf)
                done += 1
            self.share_numbers(ready)
            self.raise_versions(ready)
        except BaseException:
            if done or (ready and ready[0].began):
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
        """After an update: let go of the gradients, and bring numbers that lie elsewhere to where they lie."""
        for launch in ready:
            launch.done()

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
            if launch.numbers is None or launch.cells is None:
                continue
            if launch not in launches:
                launch.cells.fetch()
            launch.numbers[:, launch.shared_numbers] = values.to(launch.numbers.device)
            if launch not in launches:
                launch.cells.bring_back()

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


def by_rows(gradient: Tensor) -> Tensor:
    """A sparse gradient, coalesced, with one sparse dimension: of one that is sparse in several, each place of these
    is a row, as in a view of the parameter where they are one dimension."""
    gradient, depth = gradient.coalesce(), gradient.sparse_dim()
    if depth == 1:
        return gradient
    lengths = gradient.shape[:depth]
    rows = torch.zeros(gradient._nnz(), dtype=torch.int64, device=gradient.device)
    for length, places in zip(lengths, gradient.indices(), strict=True):
        rows = rows * length + places
    shape = (math.prod(lengths), *gradient.shape[depth:])
    return torch.sparse_coo_tensor(rows[None], gradient.values(), shape, is_coalesced=True, check_invariants=False)


def _same(tensors: list[Tensor], others: list[Tensor]) -> bool:
    """Whether two lists hold the same tensors: some put another parameter into a group in place."""
    return len(tensors) == len(others) and all(map(is_, tensors, others))


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
