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
import math
import warnings
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepwell.engine.backends import cpu, eager
from stepwell.engine.backends.stack import has_addresses, stack_of
from stepwell.engine.frame import direct_stack
from stepwell.engine.kind import LaunchKind
from stepwell.engine.launch import Launch
from stepwell.engine.rule import as_matrix
from stepwell.engine.whole import Asking, Whole, answered

# Numbers in the stacks of gradients, weights and slots together. Batching pays where products are small, and on a GPU
# for every launch; on a CPU stacks should stay in a core's cache from one pass of the rule to the next. 2**16 to 2**20
# elements of 200 matrices of 64 x 64, and of 24 of 512 x 512, in ms: SOAP (8 numbers for an element) 20, 12, 12, 19, 23
# and 301, 296, 297, 291, 339; Muon (3) 13, 8.3, 7.5, 8.6, 8.5 and 130, 127, 127, 129, 133; Adafactor (2) 5.9, 4.2, 3.4,
# 2.9, 2.8 and 12, 12, 12, 9.0, 8.3.
LARGEST = {"cpu": 5 * 2**18, "cuda": 2**24}


# What is said of a divided matrix: no step, a step, or that it is only counted (SOAP's first gradient).
LEFT_OUT, STEP, COUNTED = 0.0, 1.0, 2.0
Region = tuple[slice, ...]  # a part of a tensor, one slice for each dimension


def refusal(kind: LaunchKind, tensor: Tensor) -> str | None:
    """None: this backend can update every tensor, in stacks."""
    return None


def prepare(launch: Launch) -> None:
    """Raises Stale if a parameter changed since planning. Gathers the addresses where kernels make the stacks."""
    launch.slots.check_layout()
    if has_addresses(launch):
        cpu.prepare(launch)


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
    tensor, group = launch.owners[0], launch.param_groups[int(launch.groups[0])]
    if launch.kind.view == "matrix" and any(side % 4 for side in as_matrix(tensor.shape)):
        return 1
    converted = 0 if launch.kind.weights in ("fp32", "fp64") else 2 * tensor.numel()  # weights and gradients
    together = (
        2 * tensor.numel()
        + converted
        + sum(
            tensor.numel() if slot.per == "element" else math.prod(slot.shape(tensor.shape, group))
            for slot, name in zip(launch.signature.slots, launch.kind.slots, strict=True)
            if name is not None
        )
    )
    return max(1, LARGEST.get(tensor.device.type, 2**24) // together)


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
    stack = stack_of(launch, members)
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
        slots = stack.staged(slots)
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
    sums = torch.stack([tensor.sum() for tensor in made]).tolist()
    return all(map(math.isfinite, sums)) or all(bool(torch.isfinite(tensor).all()) for tensor in made)


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
