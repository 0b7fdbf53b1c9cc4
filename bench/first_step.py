"""Seconds of the first step of a process that has imported torch and stepwell, without and with kernels on disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from measure import synchronize


def first_step_seconds(make: Callable[[], Any], step: Callable[[Any], Any], device: str) -> float:
    """The first step of a new optimizer: Numba or Triton imported, kernels compiled or loaded, state allocated."""
    optimizer = make()
    synchronize(device)
    start = time.perf_counter()
    step(optimizer)
    synchronize(device)
    return time.perf_counter() - start
