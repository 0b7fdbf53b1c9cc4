"""Applies the directions of divided matrices to the parts that are in this process: decay, learning rate, rounding.

The directions come from the owners of the matrices (`stepwell.engine.divided.matrices`), in place of the gradients.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepwell.engine.backends import eager, empty, stacks
from stepwell.engine.frame import apply_in_place
from stepwell.engine.kind import LaunchKind
from stepwell.engine.launch import Launch


def refusal(kind: LaunchKind, tensor: Tensor) -> str | None:
    """None: the plan takes this backend for parts of divided matrices only."""
    return None


def prepare(launch: Launch) -> None:
    """Raises Stale if a parameter changed since planning."""
    launch.slots.check_layout()


def squares(launch: Launch) -> Tensor:
    """The sum of squares of the part of each gradient that is here, float64 (tensors,)."""
    return empty.squares(launch) if launch.tensors[0].numel() == 0 else stacks.squares(launch)


@torch.no_grad()
def run(launch: Launch, rows: np.ndarray, gradient_factor: Any, found_inf: Any) -> None:
    """Update the part of every matrix with a gradient. All processes that have parts of one call this."""
    if found_inf is not None and bool(found_inf):
        return
    launch.began = True
    launch.divided.settle(float(gradient_factor))
    for index in launch.active():
        if index not in launch.finished:
            _update(launch, index)


def finish(launch: Launch, rows: np.ndarray, gradient_factor: Any) -> None:
    """Complete an update that an exception interrupted."""
    if launch.writing is not None:
        launch.writing()
    run(launch, rows, gradient_factor, None)


def _update(launch: Launch, index: int) -> None:
    verdict, group = launch.verdicts[index], launch.param_groups[int(launch.groups[index])]
    if verdict == stacks.LEFT_OUT:
        return
    loaded = eager.load(launch, index)
    p = loaded.p.clone() if loaded.p.data_ptr() == loaded.whole.data_ptr() else loaded.p
    apply_in_place(
        p,
        loaded.g if verdict == stacks.STEP else None,
        lr=float(group["lr"]),
        weight_decay=float(group.get("weight_decay", 0.0)),
        decay=launch.kind.decay,
        shared=launch.kind.shared,
    )
    step = launch.slots.steps[index] + 1

    def write() -> None:
        launch.slots.steps[index] = step
        if verdict == stacks.STEP:
            eager.store(launch, index, loaded, p, [None] * len(launch.kind.slots))
        launch.finished.add(index)

    launch.write(write)
