"""How everything here is timed: in one process, alternating, medians; the machine's limit in the same run."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def alternate(
    actions: dict[str, Callable[[], Any]], device: str = "cpu", rounds: int = 9, inner: int = 1
) -> dict[str, float]:
    """Seconds of each action, the median over `rounds`; in each round every action runs `inner` times in turn.

    The order is turned from round to round, so that none always runs after the same other.
    """
    for action in actions.values():  # warm: compiled, state allocated, pages mapped
        action()
        action()
    times: dict[str, list[float]] = {name: [] for name in actions}
    names = list(actions)
    for turn in range(rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            synchronize(device)
            start = time.perf_counter()
            for _ in range(inner):
                actions[name]()
            synchronize(device)
            times[name].append((time.perf_counter() - start) / inner)
    return {name: statistics.median(values) for name, values in times.items()}


def scaling(elements: int, device: str) -> Callable[[], Any]:
    """The limit: a tensor of float32 scaled in place, 8 bytes per element moved."""
    tensor = torch.ones(elements, device=device)
    return lambda: tensor.mul_(1.0)


def machine(device: str) -> dict[str, Any]:
    """What a figure must carry with it."""
    name = torch.cuda.get_device_name() if device == "cuda" else _processor()
    return {
        "device": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": [round(x, 2) for x in os.getloadavg()],
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
