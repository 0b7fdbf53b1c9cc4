"""Runs rules on tensor subclasses that wrap other tensors (quantized tensors, pairs of tensors), with torch operations.

Only the class knows how such a tensor stores its elements, so no kernel can access them by address. The rule and its
frame are computed with torch's operations on the whole tensors, which the class implements in `__torch_dispatch__`, and
the new weights are written with `copy_`. A class that lacks one of these operations is refused by name. Nothing is
changed then, because the weights are written first, after everything was computed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepwell.engine import formats
from stepwell.engine.backends.eager import as_tensor, numbers_of
from stepwell.engine.frame import frame, sums
from stepwell.engine.kind import LaunchKind
from stepwell.engine.launch import Launch
from stepwell.errors import UsageError


def refusal(kind: LaunchKind, tensor: Tensor) -> str | None:
    """The reason why a tensor cannot be updated in this way, or None."""
    what = type(tensor).__name__
    if what == "FakeTensor":
        return "it is a FakeTensor, which has no values; make the optimizer from the real parameters"
    if kind.view != "element":
        return f"it is a {what}, whose elements are stored in other tensors, and its rule works on whole matrices"
    held = {name for slot, name in zip(kind.slots, kind.slot_formats, strict=True) if slot is not None}
    if held - {"fp32", "fp64", formats.NUMBER} or kind.rounding != "native":
        only = "only state='fp32' and weights='native' are possible"
        return f"it is a {what}, whose elements are stored in other tensors: {only}"
    return None


def prepare(launch: Launch) -> None:
    """Raises Stale if a parameter changed since planning."""
    launch.slots.check_layout()


@torch.no_grad()
def squares(launch: Launch) -> Tensor:
    """The sum of squares of each gradient, float64 (tensors,); 0 without a gradient."""
    result = torch.zeros(len(launch.tensors), dtype=torch.float64)
    for index in launch.active():
        with _named(launch, index):
            result[index] = float((launch.gradient_of(index).to(torch.float64) ** 2).sum())
    return result


@torch.no_grad()
def measure(launch: Launch, rows: np.ndarray, gradient_factor: Any) -> None:
    """The first of two passes: the rule's sums over each tensor."""
    launch.totals.zero_()
    kind = launch.kind
    for index in launch.active():
        with _named(launch, index):
            g, p, slots = _loaded(launch, index)
            numbers = numbers_of(launch, rows[launch.groups[index]].tolist(), float(gradient_factor))
            parts = sums(kind.rule, kind.measure, g, p, float(launch.slots.steps[index]) + 1, slots, **numbers)
            for column, name in enumerate(kind.sums):
                launch.totals[index, column] = float(as_tensor(parts[name], p).double().sum())


@torch.no_grad()
def run(launch: Launch, rows: np.ndarray, gradient_factor: Any, found_inf: Any) -> None:
    """Update every tensor of `launch` that has a gradient."""
    if found_inf is not None and bool(found_inf):
        return
    kind = launch.kind
    for index in launch.active():
        if index in launch.finished:
            continue
        with _named(launch, index):
            g, p, slots = _loaded(launch, index)
            numbers = numbers_of(launch, rows[launch.groups[index]].tolist(), float(gradient_factor))
            numbers |= zip(kind.sums, launch.totals[index].tolist(), strict=True)
            if kind.sizes:
                numbers["elements"] = float(launch.elements[index])
            step = float(launch.slots.steps[index]) + 1
            p, slots = frame(kind.rule, g, p, step, slots, cautious=kind.cautious, **numbers)
            _write(launch, index, step, p, slots)


def finish(launch: Launch, rows: np.ndarray, gradient_factor: Any) -> None:
    """Complete an update that an exception interrupted."""
    if launch.writing is not None:
        launch.writing()
    run(launch, rows, gradient_factor, None)


def _write(launch: Launch, index: int, step: float, p: Tensor, slots: list[Any]) -> None:
    def write() -> None:
        target = launch.tensors[index].detach()
        target.copy_(p.to(target.dtype))
        launch.began = True
        for stored, slot, new in zip(launch.slots.slots, launch.signature.slots, slots, strict=True):
            if stored is not None:
                stored[index][0].copy_(as_tensor(new, p) if slot.per == "element" else new)
        if launch.slots.numbers is not None:
            numbers = [slots[launch.kind.slots.index(name)] for name in launch.kind.number_slots]
            launch.slots.numbers[index] = torch.tensor(numbers, dtype=torch.float64)
        launch.slots.steps[index] = step
        launch.finished.add(index)

    launch.write(write)


def _loaded(launch: Launch, index: int) -> tuple[Tensor, Tensor, list[Any]]:
    """Gradient, weights and slots in the working precision."""
    dtype = formats.working_dtype(launch.kind.weights)
    slots: list[Any] = [None if stored is None else stored[index][0].to(dtype) for stored in launch.slots.slots]
    if launch.slots.numbers is not None:
        for name, number in zip(launch.kind.number_slots, launch.slots.numbers[index].tolist(), strict=True):
            slots[launch.kind.slots.index(name)] = number
    return launch.gradient_of(index).to(dtype), launch.tensors[index].detach().to(dtype), slots


class _named:  # reads as a word in a with statement
    """Turn an operation that the class lacks into a UsageError that names the parameter."""

    def __init__(self, launch: Launch, index: int) -> None:
        self.name, self.kind = launch.names[index], type(launch.tensors[index]).__name__

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, UsageError):
            said = " ".join(str(error).split())[:120]
            raise UsageError(
                f"{self.name!r} is a {self.kind}, which cannot do an operation that the update needs "
                f"({type(error).__name__}: {said}); train a plain tensor instead"
            ) from error
