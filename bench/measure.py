"""How everything here is timed: in one process, alternating, medians; the machine's limit in the same run."""

from __future__ import annotations

import gc
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch


def synchronize(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


@dataclass
class Times:
    """Seconds of several actions, by round."""

    rounds: dict[str, dict[int, float]] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)  # the first call of each: compilation, state, pages

    def seconds(self, name: str) -> float:
        """The median of an action."""
        return statistics.median(self.rounds[name].values())

    def ratio(self, name: str, other: str) -> float:
        """The median, over the rounds that both were in, of one action's time over the other's in the same round.

        On a shared machine the speed of memory changes by a factor of two within a minute; less within a round.
        """
        mine, theirs = self.rounds[name], self.rounds[other]
        return statistics.median(mine[turn] / theirs[turn] for turn in mine.keys() & theirs.keys())


SLOW, SELDOM = 0.3, 3  # an action that takes longer than so many seconds is in every third round only


def alternate(actions: dict[str, Callable[[], Any]], device: str = "cpu", rounds: int = 9, inner: int = 1) -> Times:
    """Time each action in each of `rounds` rounds, `inner` calls at a time, after two calls that do not count.

    The order is turned from round to round, so that none always runs after the same other.
    """
    times = Times({name: {} for name in actions})
    slow = set()
    for name, action in actions.items():
        times.first[name] = seconds_of(action, 1, device)
        if inner * seconds_of(action, 1, device) > SLOW:
            slow.add(name)
    names = list(actions)
    collects = gc.isenabled()
    gc.disable()
    try:
        for turn in range(rounds):
            shift = turn % len(names)
            for name in names[shift:] + names[:shift]:
                if name not in slow or turn % SELDOM == 0:
                    times.rounds[name][turn] = seconds_of(actions[name], inner, device) / inner
    finally:
        if collects:
            gc.enable()
    return times


def seconds_of(action: Callable[[], Any], calls: int, device: str) -> float:
    """The time of so many calls, until the device has done them."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        action()
    synchronize(device)
    return time.perf_counter() - start


def scaling(elements: int, device: str) -> Callable[[], Any]:
    """The limit: a tensor of float32 scaled in place, 8 bytes per element moved."""
    tensor = torch.ones(elements, device=device)
    return lambda: tensor.mul_(1.0)


def copying(elements: int, device: str) -> Callable[[], Any]:
    """The limit on a GPU: a tensor of float32 copied, 8 bytes per element moved."""
    source = torch.ones(elements, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


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
