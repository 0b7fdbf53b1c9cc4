"""Peak memory of a step beyond parameters, gradients and state. On a CPU the process must be fresh (see `fresh.py`)."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from typing import Any

import torch

from stepwell.engine.bytes import held_by_anyone

MIB = 2**20


def peak_extra_bytes(make: Callable[[], Any], step: Callable[[Any], Any], device: str) -> tuple[int, int]:
    """(the most bytes held beyond what lies there afterwards, bytes of state), over the first two steps.

    `make` makes the optimizer of parameters that exist already, with gradients; `step` takes a step of it. What was
    compiled or started before does not count, so take a step of another one first.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    else:
        forget_peak()
        before = resident()
    optimizer = make()
    step(optimizer)
    step(optimizer)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else peak_resident()
    state = state_bytes(optimizer)
    return max(0, peak - before - state), state


def resident() -> int:
    """Bytes of this process in memory now."""
    return _status("VmRSS")


def peak_resident() -> int:
    """The most there were since `forget_peak`, or since the start where the system cannot forget."""
    return _status("VmHWM")


def forget_peak() -> None:
    """Let the peak start from what there is now."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:  # a sandbox, or another system: then the peak of the whole life of the process counts
        pass


def state_bytes(optimizer: Any) -> int:
    """Bytes of an optimizer's tensors of state, whoever wrote it; step counts and tables of codes are among them."""
    own = getattr(optimizer, "own", {})  # what a wrapper of ours keeps beside the state of the optimizer inside
    return held_by_anyone({**{("own", i): kept for i, kept in enumerate(own.values())}, **optimizer.state})


def _status(field: str) -> int:
    try:
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
    except (OSError, StopIteration):  # no such file: the peak of the whole life of the process
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
