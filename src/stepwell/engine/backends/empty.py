"""Tensors without elements: the part of a sharded parameter in a process that has none of its rows, or a parameter of
size 0. There is nothing to compute for an element, but the state must be that of the other processes: the count of
steps, and numbers that belong to the whole tensor (NAdam's `mu_product`, Prodigy's `d`).

Checkpoints over several processes need an entry for every parameter in each of them, as torch.optim has it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepwell.engine.backends import eager
from stepwell.engine.kind import LaunchKind
from stepwell.engine.launch import Launch


def refusal(kind: LaunchKind, tensor: Tensor) -> str | None:
    """None for a tensor without elements."""
    return None if tensor.numel() == 0 else "it has elements"


def prepare(launch: Launch) -> None:
    """Raises Stale if a parameter changed since planning: it may have elements now."""
    launch.slots.check_layout()


def squares(launch: Launch) -> Tensor:
    """A sum over nothing for each tensor, float64 (tensors,)."""
    return torch.zeros(len(launch.tensors), dtype=torch.float64, device=launch.tensors[0].device)


def measure(launch: Launch, rows: np.ndarray, gradient_factor: Any) -> None:
    """The same for the sums of the rule. Those of the other processes are added afterwards."""
    launch.totals.zero_()


@torch.no_grad()
def run(launch: Launch, rows: np.ndarray, gradient_factor: Any, found_inf: Any) -> None:
    """Count the step of every tensor that has a gradient, and update its numbers."""
    if launch.kind.number_slots:
        eager.run(launch, rows, gradient_factor, found_inf)
        return
    launch.began = True
    active = [index for index in launch.active() if index not in launch.finished]
    counts = launch.slots.step_counts
    made = 1.0 if found_inf is None else (found_inf.to(counts.device) == 0).to(counts.dtype).reshape(())
    counts[torch.tensor(active, dtype=torch.int64, device=counts.device)] += made
    launch.finished.update(active)


def finish(launch: Launch, rows: np.ndarray, gradient_factor: Any) -> None:
    """Complete an update that an exception interrupted."""
    if launch.kind.number_slots:
        eager.finish(launch, rows, gradient_factor)
    else:
        run(launch, rows, gradient_factor, None)
