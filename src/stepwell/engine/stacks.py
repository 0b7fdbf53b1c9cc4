"""Runs rules that see whole matrices (Muon, Adafactor, Shampoo, SOAP): stacks of equally shaped tensors.

Such a rule is a function like every other, (g, p, t, *slots, **hyperparameters) -> (direction, *new slots), written
with torch's operations on (n, rows, columns): ten equal layers are one batched product. `t` is a number; tensors of
another step are another stack. The frame around it, formats, clipping and skipping are those of all other rules.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepwell.engine import eager, formats, sharding
from stepwell.engine.frame import frame
from stepwell.engine.plan import Launch, LaunchKind
from stepwell.engine.rule import as_matrix

# Elements in one stack. Batching pays where products are small; a stack is a copy of what it holds, in float32.
LARGEST = 4_000_000


def refusal(kind: LaunchKind, tensor: Tensor) -> str | None:
    """Why a tensor cannot be part of a stack, or None."""
    if sharding.shards_of(tensor) is not None:
        return "it is cut over a mesh of processes, and its rule needs the whole matrix; replicate it"
    return None


def prepare(launch: Launch) -> None:
    """Nothing is kept between steps."""


squares = eager.squares


@torch.no_grad()
def run(launch: Launch, rows: np.ndarray, gradient_factor: Any, found_inf: Any) -> None:
    """Update every tensor of `launch` that has a gradient. Reads the step counts, which waits for a GPU."""
    if found_inf is not None and bool(found_inf):
        return
    counts = launch.steps.tolist()
    by_step: dict[float, list[int]] = defaultdict(list)
    for index in launch.active():
        by_step[counts[index]].append(index)
    most = max(1, LARGEST // launch.tensors[0].numel())
    for step, members in by_step.items():
        for first in range(0, len(members), most):
            _update(launch, members[first : first + most], step + 1, float(gradient_factor))


def _update(launch: Launch, members: list[int], step: float, gradient_factor: float) -> None:
    kind, signature = launch.kind, launch.signature
    group = launch.param_groups[launch.group_list[0]]
    loaded = [eager.load(launch, index) for index in members]
    like = launch.tensors[0].detach()
    g = _stack([one.g for one in loaded], loaded, kind.view)
    p = _stack([one.p for one in loaded], loaded, kind.view)
    slots: list[Any] = []
    for place, slot in enumerate(signature.slots):
        values = [one.slots[place] for one in loaded]
        if values[0] is None:
            slots.append(None)
        else:
            slots.append(_stack(values, loaded, kind.view) if slot.per == "element" else torch.stack(values))
    numbers: dict[str, Any] = {name: signature.value(name, group) for name in signature.hyperparameters}
    numbers |= {"lr": float(group["lr"]), "weight_decay": float(group.get("weight_decay", 0.0)), **dict(kind.flags)}
    if "shape" in inspect.signature(kind.rule).parameters:
        numbers["shape"] = tuple(like.shape)
    sign = -1.0 if group["maximize"] else 1.0
    p, slots = frame(
        kind.rule,
        g,
        p,
        step,
        slots,
        gradient_factor=sign * gradient_factor,
        decay=kind.decay,
        shared=kind.shared,
        **numbers,
    )
    for position, (index, one) in enumerate(zip(members, loaded, strict=True)):
        launch.steps[index] += 1
        new: list[Any] = []
        for place, slot in enumerate(signature.slots):
            value = slots[place]
            if value is not None:
                value = value[position]
                value = _flat(value, one.whole) if slot.per == "element" else value
            new.append(value)
        eager.store(launch, index, one, _flat(p[position], one.whole), new)


def _stack(values: list[Tensor], loaded: list[eager.Loaded], view: str) -> Tensor:
    """Flat values in the order of memory as (n, *shape), or as (n, rows, columns)."""
    shaped = []
    for flat, one in zip(values, loaded, strict=True):
        if one.whole.is_contiguous():
            shaped.append(flat.view(one.whole.shape))
            continue
        tensor = torch.empty_like(one.whole, dtype=flat.dtype)
        formats.flat(tensor).copy_(flat)
        shaped.append(tensor)
    stack = torch.stack(shaped) if len(shaped) > 1 else shaped[0][None]
    return stack.reshape(len(shaped), *as_matrix(loaded[0].whole.shape)) if view == "matrix" else stack


def _flat(values: Tensor, whole: Tensor) -> Tensor:
    """What `_stack` did to one tensor, undone."""
    if whole.is_contiguous():
        return values.reshape(-1)
    tensor = torch.empty_like(whole, dtype=values.dtype)
    tensor.copy_(values.reshape(whole.shape))
    return formats.flat(tensor)
