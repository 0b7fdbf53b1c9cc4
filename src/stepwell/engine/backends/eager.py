"""The reference backend, which defines the results of all others: the rule and its frame on torch tensors, one by
one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepwell.engine import formats, halves, memory_order, randomness
from stepwell.engine.frame import frame, sums
from stepwell.engine.kernels import codes
from stepwell.engine.kind import LaunchKind
from stepwell.engine.launch import Launch
from stepwell.engine.numbers import Number

# Elements whose squares torch adds up in float32. It does so one after the other: over 10 million elements the norm is
# 4e-4 off, which is more than the kernels differ from it.
SUMMED = 2048


def refusal(kind: LaunchKind, tensor: Tensor) -> str | None:
    """None: this backend can update every tensor."""
    return None


def prepare(launch: Launch) -> None:
    """Nothing is kept between steps. Raises Stale if a parameter changed since planning."""
    launch.slots.check_layout()


@torch.no_grad()
def squares(launch: Launch) -> Tensor:
    """The sum of squares of each gradient, float64 (tensors,); 0 without a gradient."""
    result = torch.zeros(len(launch.tensors), dtype=torch.float64, device=launch.tensors[0].device)
    for index in launch.active():
        gradient = launch.gradient_of(index)
        values = (gradient.values() if gradient.is_sparse else gradient).reshape(-1)
        parts = values.contiguous().split(values.numel() // SUMMED * SUMMED or SUMMED)
        for part in parts:
            rows = part.view(-1, SUMMED) if part.numel() >= SUMMED else part[None]
            norms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.promote_types(part.dtype, torch.float32))
            result[index] += norms.double().square().sum()
    return result


@torch.no_grad()
def measure(launch: Launch, rows: np.ndarray, gradient_factor: Any) -> None:
    """The first of two passes: the rule's sums over each tensor."""
    launch.totals.zero_()
    kind = launch.kind
    for index in launch.active():
        loaded = load(launch, index)
        numbers = numbers_of(launch, rows[launch.groups[index]].tolist(), float(gradient_factor))
        step = Number(launch.slots.steps[index]) + 1
        parts = sums(kind.rule, kind.measure, loaded.g, loaded.p, step, loaded.slots, **numbers)
        for column, name in enumerate(kind.sums):
            launch.totals[index, column] = as_tensor(parts[name], loaded.p).double().sum()


@torch.no_grad()
def run(launch: Launch, rows: np.ndarray, gradient_factor: Any, found_inf: Any) -> None:
    """Update every tensor of `launch` that has a gradient."""
    if found_inf is not None and bool(found_inf):
        return
    launch.began = True
    for index in launch.active():
        if index not in launch.finished:
            update(launch, index, rows, float(gradient_factor))


def finish(launch: Launch, rows: np.ndarray, gradient_factor: Any) -> None:
    """Complete an update that an exception interrupted: write the computed values again, then update the other
    tensors."""
    if launch.writing is not None:
        launch.writing()
    run(launch, rows, gradient_factor, None)


@torch.no_grad()
def update(launch: Launch, index: int, rows: np.ndarray, gradient_factor: float) -> None:
    """Update one tensor and count its step. All values are computed before any is written."""
    kind = launch.kind
    loaded = load(launch, index)
    numbers = numbers_of(launch, rows[launch.groups[index]].tolist(), gradient_factor)
    numbers |= zip(kind.sums, map(Number, launch.totals[index].tolist()), strict=True)
    if kind.sizes:
        numbers["elements"] = Number(launch.elements[index])
    step = Number(launch.slots.steps[index]) + 1
    p, slots = frame(kind.rule, loaded.g, loaded.p, step, loaded.slots, cautious=kind.cautious, **numbers)

    def write() -> None:
        launch.slots.steps[index] = step
        store(launch, index, loaded, p, slots)
        launch.finished.add(index)

    launch.write(write)


def numbers_of(launch: Launch, row_values: list[float], gradient_factor: float) -> dict[str, Any]:
    """The arguments of the frame for one group: numbers by name, and the flags of the kind."""
    kind = launch.kind
    row = dict(zip(kind.row_names, map(Number, row_values), strict=True))
    return {
        "lr": row["lr"],
        "weight_decay": row["weight_decay"],
        "gradient_factor": row["gradient_sign"] * gradient_factor,
        "decay": kind.decay,
        "shared": kind.shared,
        **{name: row[name] for name in kind.number_arguments},
        **dict(kind.flags),
    }


@dataclass
class Loaded:
    """One tensor's gradient, weights and slots in the working precision, flat and in the order of memory."""

    g: Tensor
    p: Tensor
    slots: list[Any]
    whole: Tensor  # the parameter without gaps: itself, or a copy that is written back
    places: Tensor | None  # which elements these are, of a row-sparse gradient


def load(launch: Launch, index: int, by_kernel: bool = False) -> Loaded:
    """Read one tensor of a launch, or the rows that its gradient contains; `by_kernel`: see `load_slots`."""
    kind = launch.kind
    dtype = formats.working_dtype(kind.weights)
    tensor, gradient = launch.tensors[index].detach(), launch.gradient_of(index)
    whole = tensor
    if torch.empty_like(tensor, device="meta").stride() != tensor.stride():  # it has gaps
        whole = torch.empty_like(tensor).copy_(tensor)
    places = None
    if gradient.is_sparse:
        length = gradient.values()[0].numel() if gradient._nnz() else 1
        places = (gradient.indices()[0][:, None] * length + torch.arange(length, device=whole.device)).flatten()
        g = gradient.values().flatten()
    else:
        if gradient.stride() != whole.stride():
            gradient = torch.empty_like(whole, dtype=gradient.dtype).copy_(gradient)
        g = memory_order.flat(gradient)
    weights = memory_order.flat(whole)
    p = weights.to(dtype)
    if launch.slots.low_bits is not None:
        p = halves.join(weights, memory_order.flat(launch.slots.low_bits[index]))
    slots = load_slots(launch, index, whole.numel(), places, by_kernel)
    return Loaded(g.to(dtype), p if places is None else p[places], slots, whole, places)


def load_slots(
    launch: Launch, index: int, elements: int, places: Tensor | None = None, by_kernel: bool = False
) -> list[Any]:
    """The slots of one tensor in the working precision, or those of the elements at `places`; `by_kernel`, where there
    are kernels, with the same result."""
    kind = launch.kind
    dtype = formats.working_dtype(kind.weights)
    slots: list[Any] = []
    for place, (name, signed) in enumerate(zip(kind.slot_formats, kind.signed, strict=True)):
        stored = launch.slots.slots[place]
        if stored is None:
            slots.append(None)
        elif launch.signature.slots[place].per == "element":
            if by_kernel and codes.can(name, *stored[index]):
                values = codes.read(name, signed, stored[index], elements)
            else:
                values = formats.read(name, signed, stored[index], elements, dtype)
            slots.append(values if places is None else values[places])
        else:
            slots.append(stored[index][0].to(dtype))
    if launch.slots.numbers is not None:
        for name, number in zip(kind.number_slots, launch.slots.numbers[index].tolist(), strict=True):
            slots[kind.slots.index(name)] = Number(number)
    return slots


def store(launch: Launch, index: int, loaded: Loaded, p: Tensor, slots: list[Any], by_kernel: bool = False) -> None:
    """Write the values computed from `loaded` back."""
    kind, whole, places = launch.kind, loaded.whole, loaded.places
    store_slots(launch, index, slots, whole.numel(), places, by_kernel)
    weights = memory_order.flat(whole)
    if launch.slots.low_bits is not None:
        low_bits = memory_order.flat(launch.slots.low_bits[index])
        high, low = halves.split(p, weights.dtype)
        _write(weights, places, high)
        _write(low_bits, places, low)
    elif by_kernel and _rounds_by_kernel(launch, index, weights):
        where = int(launch.seeds[index]), launch.places[index], float(launch.slots.steps[index]), len(slots)
        codes.write(
            "bf16", True, (weights,), p, len(slots), codes.key_of("bf16", *where, launch.firsts[index]), where[2]
        )
    elif kind.rounding == "stochastic":
        bits = _random(launch, index, len(slots), whole.numel(), launch.rows_here[index])
        bits = bits if places is None else bits[places]
        _write(weights, places, randomness.round_stochastically(p, bits, weights.dtype))
    else:
        _write(weights, places, p.to(weights.dtype))
    tensor = launch.tensors[index].detach()
    if whole is not tensor and whole.data_ptr() != tensor.data_ptr():
        tensor.copy_(whole)


def _rounds_by_kernel(launch: Launch, index: int, weights: Tensor) -> bool:
    """Whether a kernel rounds the weights stochastically, as below."""
    is_usual = launch.kind.rounding == "stochastic" and launch.kind.weights == "bf16"
    return is_usual and launch.rows_here[index] is None and codes.can("bf16", weights)


def _random(launch: Launch, index: int, consumer: int, count: int, rows: tuple[int, int] | None = None) -> Tensor:
    """16 random bits for each number that a slot, or the weights after all slots, rounds in this step. `rows`, of
    elements of the parameter: see `sharding.rows_here`."""
    step = float(launch.slots.steps[index])
    key = randomness.key_of(int(launch.seeds[index]), launch.places[index], step, launch.firsts[index])
    device = launch.tensors[index].device
    bits = randomness.random_bits(randomness.stream(key, consumer // 2), count, device, rows=rows)
    return (bits >> 16) if consumer % 2 else (bits & 0xFFFF)


def store_slots(
    launch: Launch, index: int, slots: list[Any], elements: int, places: Tensor | None = None, by_kernel: bool = False
) -> None:
    """Write the new slots of one tensor, or those of the elements at `places`; see `load_slots`."""
    kind, device = launch.kind, launch.tensors[index].device
    dtype = formats.working_dtype(kind.weights)
    seed, place, step = int(launch.seeds[index]), launch.places[index], float(launch.slots.steps[index])
    first = launch.firsts[index]
    for consumer, (name, signed, new) in enumerate(zip(kind.slot_formats, kind.signed, slots, strict=True)):
        stored = launch.slots.slots[consumer]
        if stored is None:
            continue
        tensors, rows = stored[index], launch.rows_here[index]
        if by_kernel and places is None and rows is None and codes.can(name, *tensors):
            key = codes.key_of(name, seed, place, step, consumer, first)
            codes.write(name, signed, tensors, new.flatten(), consumer, key, step)
            continue
        if launch.signature.slots[consumer].per != "element":
            values = new.flatten()
            rounded = _random(launch, index, consumer, values.numel()) if name == "bf16" else None
            formats.write(name, signed, tensors, values, rounded)
            continue
        values = torch.as_tensor(new, dtype=dtype, device=device).expand(elements if places is None else len(places))
        rounded = None
        if name in ("int8", "int4"):
            rounded = randomness.code_bits(seed, place, step, consumer, elements, device, first, rows)
        elif name == "bf16":
            rounded = _random(launch, index, consumer, elements, rows)
        if places is None:
            formats.write(name, signed, tensors, values, rounded)
            continue
        values = formats.read(name, signed, tensors, elements, dtype).index_copy(0, places, values)
        if name in ("int8", "int4"):  # blocks without a touched element keep their codes
            formats.write_blocks(name, signed, tensors, values, rounded, places)
        else:  # numbers that were stored once are stored again as they are
            formats.write(name, signed, tensors, values, rounded)
    if launch.slots.numbers is not None:
        numbers = [slots[kind.slots.index(name)] for name in kind.number_slots]
        launch.slots.numbers[index] = torch.tensor(numbers, dtype=torch.float64)


def _write(target: Tensor, places: Tensor | None, values: Tensor) -> None:
    if places is None:
        target.copy_(values)
    else:
        target.index_copy_(0, places, values)


def as_tensor(value: Any, like: Tensor) -> Tensor:
    """The result of a rule for every element; a rule may return a number if the result is the same for all elements."""
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).expand_as(like)
