"""Runs matrix rules (Muon, Adafactor, Shampoo, SOAP) on stacks of tensors of equal shape.

A matrix rule has the signature of every rule, (g, p, t, *slots, **hyperparameters) -> (direction, *new slots), and uses
torch's operations on (n, rows, columns): ten equal layers are one batched product. `t` is a number; tensors with
another step count form another stack. Frame, formats, clipping and skipping are those of all other rules.

The update of a matrix that is divided over processes ends with its direction, which is kept (`Launch.directions`): its
weights are elsewhere (see `stepwell.engine.divided`).

One element that is not finite invalidates a whole matrix: products, norms and eigenvectors mix all elements. A matrix
whose step or new state would not be finite is left unchanged, bit for bit, with one warning.
"""

from __future__ import annotations

import inspect
import warnings
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepwell.engine import formats, memory_order
from stepwell.engine.backends import cpu, eager
from stepwell.engine.frame import apply_in_place, direct_stack
from stepwell.engine.kernels import codes, stacked
from stepwell.engine.kernels.installed import has_numba
from stepwell.engine.kind import LaunchKind
from stepwell.engine.launch import Launch
from stepwell.engine.rule import as_matrix
from stepwell.engine.whole import Asking, Whole, answered

# Elements in one stack. Batching pays where products are small, and on a GPU for every launch; on a CPU a stack should
# stay in a core's cache from one pass of the rule to the next. 24 matrices of 512 x 512, stacks of 2**18, 2**19, 2**20
# and 2**22 elements: Adafactor 14, 13, 13, 31 ms; SOAP 301, 316, 321, 370; Muon, which is products, 298, 279, 272, 275.
LARGEST = {"cpu": 2**19, "cuda": 2**22}


# What is said of a divided matrix: no step, a step, or that it is only counted (SOAP's first gradient).
LEFT_OUT, STEP, COUNTED = 0.0, 1.0, 2.0
Region = tuple[slice, ...]  # a part of a tensor, one slice for each dimension


def refusal(kind: LaunchKind, tensor: Tensor) -> str | None:
    """None: this backend can update every tensor, in stacks."""
    return None


def prepare(launch: Launch) -> None:
    """Raises Stale if a parameter changed since planning. Gathers the addresses where kernels make the stacks."""
    launch.slots.check_layout()
    if _has_addresses(launch):
        cpu.prepare(launch)


def _has_addresses(launch: Launch) -> bool:
    """Whether the addresses of this step's weights and gradients are known, and kernels can stack them."""
    here = launch.tensors[0].device.type == "cpu" and launch.directions is None
    return launch.has_taken and here and has_numba()


def squares(launch: Launch) -> Tensor:
    """The sum of squares of each gradient, float64 (tensors,); 0 without a gradient. By a kernel on the CPU, whose sums
    in float64 do not depend on how a matrix is cut."""
    if any(cpu.refusal(None, tensor) is not None for tensor in launch.tensors):
        return eager.squares(launch)
    cpu.prepare(launch)
    return cpu.squares(launch)


@torch.no_grad()
def run(launch: Launch, rows: np.ndarray, gradient_factor: Any, found_inf: Any) -> None:
    """Update every tensor of `launch` that has a gradient. Reads the step counts, which waits for a GPU."""
    if found_inf is not None and bool(found_inf):
        return
    launch.began = True
    for step, members in stacks_of(launch):
        answered(update(launch, members, step, float(gradient_factor)))


def stacks_of(launch: Launch) -> list[tuple[float, list[int]]]:
    """The stacks of tensors that are still to be updated: the step that they make, and their indices."""
    counts = launch.slots.steps.tolist()
    by_step: dict[float, list[int]] = defaultdict(list)
    for index in launch.active():
        if index not in launch.finished:
            by_step[counts[index]].append(index)
    most = _most(launch)
    return [
        (step + 1, members[first : first + most])
        for step, members in by_step.items()
        for first in range(0, len(members), most)
    ]


def _most(launch: Launch) -> int:
    """The number of tensors in one stack.

    How many are together must not change a bit, since processes divide them. But MKL rounds by where a matrix begins in
    memory, and by whether several or one are multiplied with a column. So only matrices are stacked of which every one,
    and its products, begin at a multiple of 64 bytes, as a tensor alone does.
    """
    tensor = launch.owners[0]
    if launch.kind.view == "matrix" and any(side % 4 for side in as_matrix(tensor.shape)):
        return 1
    return max(1, LARGEST.get(tensor.device.type, 2**22) // tensor.numel())


def finish(launch: Launch, rows: np.ndarray, gradient_factor: Any) -> None:
    """Complete an update that an exception interrupted: write the computed values again, then update the other
    stacks."""
    if launch.writing is not None:
        launch.writing()
    run(launch, rows, gradient_factor, None)


def update(
    launch: Launch, members: list[int], step: float, gradient_factor: float, region: Region | None = None
) -> Asking[None]:
    """Update a stack of tensors. Of a rule that asks for sums, `region` is the part of each matrix that is here."""
    kind, signature = launch.kind, launch.signature
    group = launch.param_groups[int(launch.groups[0])]
    stack = (_Plain if _is_plain(launch, members) else _Converted)(launch, members)
    numbers: dict[str, Any] = {name: signature.value(name, group) for name in signature.hyperparameters}
    numbers |= {"lr": float(group["lr"]), "weight_decay": float(group.get("weight_decay", 0.0)), **dict(kind.flags)}
    if "shape" in inspect.signature(kind.rule).parameters:
        numbers["shape"] = tuple(launch.tensors[0].shape)
    if signature.asks_for_sums:
        numbers["whole"] = Whole(tuple(launch.owners[0].shape), region)
    if kind.view == "matrix":
        numbers["is_sound"] = _is_sound
    sign = -1.0 if group["maximize"] else 1.0
    try:
        found = yield from direct_stack(
            kind.rule,
            stack.g,
            stack.p,
            step,
            stack.slots,
            gradient_factor=sign * gradient_factor,
            decay=kind.decay,
            shared=kind.shared,
            **numbers,
        )
    except torch.linalg.LinAlgError:  # raised for the whole stack
        found = None
    if found is None and len(members) > 1:
        for index in members:
            yield from update(launch, [index], step, gradient_factor, region)
    elif found is None:
        _say_left_out(launch, members[0])
    else:
        direction, slots = found
        if launch.directions is None:
            stack.apply(direction, lr=numbers["lr"], weight_decay=numbers["weight_decay"])

        def write() -> None:
            for position, index in enumerate(members):
                launch.slots.steps[index] = step
                if launch.directions is not None:
                    whole = None if direction is None else direction[position].reshape(launch.tensors[index].shape)
                    launch.directions[index] = whole
            stack.store(slots)
            launch.finished.update(members)

        launch.write(write)


def _is_sound(direction: Tensor, slots: list[Any]) -> bool:
    """Whether a step and the new state are finite; waits for a GPU."""
    made = [tensor for tensor in (direction, *slots) if tensor is not None]
    # Sums are one pass and no memory; one that is not finite may also be of numbers close to the largest.
    sums = torch.stack([tensor.sum() for tensor in made])
    return bool(torch.isfinite(sums).all()) or all(bool(torch.isfinite(tensor).all()) for tensor in made)


def _say_left_out(launch: Launch, index: int) -> None:
    if "left out" not in launch.said:
        launch.said.add("left out")
        warnings.warn(
            f"the gradient of {launch.names[index]!r} is not finite, or too large for its second moments in "
            f"{'fp64' if launch.kind.weights == 'fp64' else 'fp32'}: its step is skipped, its weights and state are "
            "unchanged. This warning is given once; clip_norm keeps gradients in range",
            UserWarning,
            stacklevel=2,
        )


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


class _Plain:
    """A stack that is gathered and scattered by one call each. A rule overwrites the stack, so a single tensor is
    copied as well: an interrupted update must not be partially visible.

    Where addresses are known, kernels do so, and weights are written where they are by one call of a kernel, which no
    exception interrupts.
    """

    def __init__(self, launch: Launch, members: list[int]) -> None:
        self.launch, self.members = launch, members
        self.table = launch.memory.addresses.table[members] if _has_addresses(launch) else None
        self.columns = list(_columns(launch.kind))
        self.applying: Any = None
        self.tensors = [launch.tensors[index].detach() for index in members]
        self.states = [None if stored is None else [stored[i] for i in members] for stored in launch.slots.slots]
        shape = self.tensors[0].shape
        self.seen = as_matrix(shape) if launch.kind.view == "matrix" else tuple(shape)
        self.per_element = [slot.per == "element" for slot in launch.signature.slots]
        self.g = self._gradients()
        needs_weights = self.table is None or launch.kind.decay == "coupled" or launch.signature.reads_weights
        self.p = self._stacked(self.tensors, True, 0) if launch.directions is None and needs_weights else None
        self.slots = [None if held is None else self._read(place, held) for place, held in enumerate(self.states)]

    def _read(self, place: int, held: list[tuple[Tensor, ...]]) -> Tensor:
        """The values of one slot."""
        kind, per_element = self.launch.kind, self.per_element[place]
        name, signed = kind.slot_formats[place], kind.signed[place]
        if name == kind.weights:
            return self._stacked([one[0] for one in held], per_element, self.columns[place])
        shape = self.tensors[0].shape if per_element else held[0][0].shape
        values = codes.read_stack(name, signed, held, shape.numel()).view(len(held), *shape)
        return values.reshape(len(held), *self.seen) if per_element else values

    def _gradients(self) -> Tensor:
        if self.table is None:
            return self._stacked([self.launch.gradients[index] for index in self.members], True, 1)
        return self._stacked(self.tensors, True, 1)  # which have the layout of the gradients

    def _stacked(self, tensors: list[Tensor], per_element: bool, column: int) -> Tensor:
        """A stack of tensors, whose addresses are in a column of the table, or of tensors like those."""
        if self.table is not None and _are_dense(tensors):
            stack = stacked.gather(self.table[:, column], tuple(tensors[0].shape), tensors[0].dtype)
        else:
            stack = torch.stack(tensors)
        return stack.reshape(len(tensors), *self.seen) if per_element else stack

    def apply(self, direction: Tensor | None, *, lr: float, weight_decay: float) -> None:
        """Let `store` write p <- p - lr * direction, with the decay of the rule's kind."""
        kind = self.launch.kind
        if self.table is None:
            apply_in_place(self.p, direction, lr=lr, weight_decay=weight_decay, decay=kind.decay, shared=kind.shared)
        elif direction is not None:
            kept = 1 - lr * weight_decay if kind.decay == "decoupled" else 1.0
            rate = 1.0 if "lr" in kind.shared else lr
            self.applying = stacked.application(direction.contiguous(), self.table[:, 0], kept, rate)

    def store(self, slots: list[Any]) -> None:
        """Write the new values. To do so twice changes nothing more."""
        if self.applying is not None:
            self.applying()
        elif self.p is not None and self.table is None:
            whole = self.p.reshape(len(self.tensors), *self.tensors[0].shape)
            torch._foreach_copy_(self.tensors, list(whole.unbind()))
        kind = self.launch.kind
        for place, (held, new) in enumerate(zip(self.states, slots, strict=True)):
            name = kind.slot_formats[place]
            if held is not None and name == kind.weights:
                self._write(new.reshape(len(held), *held[0][0].shape), [one[0] for one in held], self.columns[place])
            elif held is not None:
                keys = [self._key(name, place, index) for index in self.members]
                values = new.reshape(len(held), -1)
                codes.write_stack(name, kind.signed[place], held, values, place, keys, self._step())

    def _write(self, stack: Tensor, tensors: list[Tensor], column: int) -> None:
        if self.table is not None and _are_dense(tensors) and stack.dtype == tensors[0].dtype:
            stacked.scatter(stack.contiguous(), self.table[:, column])
        else:
            torch._foreach_copy_(tensors, list(stack.unbind()))

    def _step(self) -> float:
        return float(self.launch.slots.steps[self.members[0]])

    def _key(self, name: str, place: int, index: int) -> int:
        """That of the random bits of a slot of one tensor."""
        launch = self.launch
        seed, first = int(launch.seeds[index]), launch.firsts[index]
        return codes.key_of(name, seed, launch.places[index], self._step(), place, first)


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


class _Converted:
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

    def apply(self, direction: Tensor | None, *, lr: float, weight_decay: float) -> None:
        """See `_Plain`."""
        kind = self.launch.kind
        apply_in_place(self.p, direction, lr=lr, weight_decay=weight_decay, decay=kind.decay, shared=kind.shared)

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
    stack = torch.stack(shaped)  # of one, too: a rule may overwrite it
    return stack.reshape(len(shaped), *as_matrix(loaded[0].whole.shape)) if view == "matrix" else stack


def _flat(values: Tensor, whole: Tensor) -> Tensor:
    """The inverse of `_stack` for one tensor."""
    if whole.is_contiguous():
        return values.reshape(-1)
    tensor = torch.empty_like(whole, dtype=values.dtype)
    tensor.copy_(values.reshape(whole.shape))
    return memory_order.flat(tensor)
