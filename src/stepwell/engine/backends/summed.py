"""Updates parts of matrices whose rule knows the whole by its sums, together with the other processes
(`stepwell.engine.divided.sums`)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from stepwell.engine.backends import parts
from stepwell.engine.kind import LaunchKind
from stepwell.engine.launch import Launch


def refusal(kind: LaunchKind, tensor: torch.Tensor) -> str | None:
    """None: the plan takes this backend for parts of divided matrices only."""
    return None


prepare, squares = parts.prepare, parts.squares


@torch.no_grad()
def run(launch: Launch, rows: np.ndarray, gradient_factor: Any, found_inf: Any) -> None:
    """Update this launch and all others whose sums go through the same reduction, if they are not updated yet."""
    if found_inf is not None and bool(found_inf):
        return
    launch.began = True
    launch.divided.settle(float(gradient_factor))


def finish(launch: Launch, rows: np.ndarray, gradient_factor: Any) -> None:
    """Complete an update that an exception interrupted."""
    run(launch, rows, gradient_factor, None)
