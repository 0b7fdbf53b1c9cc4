"""The backend that defines what the others must compute: the rule and its frame on torch tensors, one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from stepwell.engine import formats
from stepwell.engine.frame import frame, sums
from stepwell.engine.plan import Launch, LaunchKind


def refusal(kind: LaunchKind, tensor: torch.Tensor) -> str | None:
    """Nothing is refused: every tensor that torch can compute with."""
    return None


def prepare(launch: Launch) -> None:
    """Nothing is kept between steps."""


@torch.no_grad()
def run(launch: Launch, rows: np.ndarray, gradient_factor: Any, found_inf: Any) -> None:
    """Update every tensor of `launch` that has a gradient."""
    if found_inf is not None and bool(found_inf):
        return
    for index in launch.active():
        launch.steps[index] += 1
        _update(launch, index, rows[launch.groups[index]].tolist(), float(gradient_factor))


def _update(launch: Launch, index: int, row_values: list[float], gradient_factor: float) -> None:
    """One tensor, flat and in the order of memory, as every backend sees it."""
    kind = launch.kind
    row = dict(zip(kind.row_names, row_values, strict=True))
    dtype = formats.working_dtype(kind.weights)
    tensor, gradient = launch.tensors[index].detach(), launch.gradients[index].detach()
    whole = torch.empty_like(tensor)
    if whole.stride() != tensor.stride():  # it has gaps: a copy without them, written back below
        whole.copy_(tensor)
    else:
        whole = tensor
    if gradient.is_sparse:
        gradient = gradient.to_dense()
    if gradient.stride() != whole.stride():
        gradient = torch.empty_like(whole).copy_(gradient)
    weights, elements = formats.flat(whole), whole.numel()
    step = float(launch.steps[index])
    p = weights.to(dtype)
    if launch.low_bits is not None:
        p = formats.join(weights, formats.flat(launch.low_bits[index]))
    stored = [None if slot is None else slot[index] for slot in launch.slots]
    slots: list[Any] = [
        None if tensors is None else formats.read(name, signed, tensors, elements, dtype)
        for name, signed, tensors in zip(kind.slot_formats, kind.signed, stored, strict=True)
    ]
    if launch.numbers is not None:
        places = [kind.slots.index(name) for name in kind.number_slots]
        for place, number in zip(places, launch.numbers[index].tolist(), strict=True):
            slots[place] = number
    g = formats.flat(gradient).to(dtype)
    numbers: dict[str, Any] = {
        "lr": row["lr"],
        "weight_decay": row["weight_decay"],
        "gradient_factor": row["gradient_sign"] * gradient_factor,
        "decay": kind.decay,
        "shared": kind.shared,
        **{name: row[name] for name in kind.number_arguments},
        **dict(kind.flags),
    }
    if kind.sums:
        parts = sums(kind.rule, kind.measure, g, p, step, slots, **numbers)
        numbers |= {name: float(_as_tensor(parts[name], p).double().sum()) for name in kind.sums}
    if kind.sizes:
        numbers["elements"] = float(elements)
    p, slots = frame(kind.rule, g, p, step, slots, cautious=kind.cautious, **numbers)
    if launch.numbers is not None:
        launch.numbers[index] = torch.tensor([slots[place] for place in places], dtype=torch.float64)
    key = formats.key_of(int(launch.seeds[index]), launch.places[index], step)

    def random(consumer: int) -> torch.Tensor:
        bits = formats.random_bits(formats.stream(key, consumer // 2), elements, whole.device)
        return (bits >> 16) if consumer % 2 else (bits & 0xFFFF)

    for consumer, (name, signed, tensors, new) in enumerate(
        zip(kind.slot_formats, kind.signed, stored, slots, strict=True)
    ):
        if tensors is not None:
            values = _as_tensor(new, p)
            formats.write(name, signed, tensors, values, random(consumer) if name == "bf16" else None)
    if launch.low_bits is not None:
        high, low = formats.split(p, weights.dtype)
        weights.copy_(high)
        formats.flat(launch.low_bits[index]).copy_(low)
    elif kind.rounding == "stochastic":
        weights.copy_(formats.round_stochastically(p, random(len(slots)), weights.dtype))
    else:
        weights.copy_(p)
    if whole is not tensor:
        tensor.copy_(whole)


def _as_tensor(value: Any, like: torch.Tensor) -> torch.Tensor:
    """What a rule computed, which is a number where it depends on no element, for every element."""
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).expand_as(like)
