"""The schedulers of torch that drive an optimizer: nobody hands them over, so they are looked for."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

from torch.optim.lr_scheduler import LRScheduler

from stepwell.doctor.record import ScheduleFacts


def find(optimizers: Sequence[Any]) -> list[tuple[Any, int]]:
    """(scheduler, number of its optimizer). Looks through all objects: some 20 ms, so only a few times in a run."""
    numbers = {id(optimizer): number for number, optimizer in enumerate(optimizers)}
    if not any("initial_lr" in group for optimizer in optimizers for group in optimizer.param_groups):
        return []
    found = []
    for one in gc.get_objects():
        try:
            if issubclass(type(one), LRScheduler) and id(getattr(one, "optimizer", None)) in numbers:
                found.append((one, numbers[id(one.optimizer)]))
        except ReferenceError:
            continue  # a weak proxy whose object is gone
    inner = {id(part) for one, _ in found for part in getattr(one, "_schedulers", ())}
    return [(one, number) for one, number in found if id(one) not in inner]


def facts(scheduler: Any, optimizer: int) -> ScheduleFacts:
    return ScheduleFacts(type(scheduler).__name__, optimizer, calls(scheduler), _horizon(scheduler))


def calls(scheduler: Any) -> int:
    """How often step() was called since it was made, which is itself a first call."""
    count, epoch = getattr(scheduler, "_step_count", 1), getattr(scheduler, "last_epoch", 0)
    return max(int(count) - 1, int(epoch), 0)  # warm restarts that are given an epoch do not count


def _horizon(scheduler: Any) -> int | None:
    for name in ("total_steps", "T_max", "T_0", "total_iters", "step_size"):
        value = getattr(scheduler, name, None)
        if isinstance(value, int) and value > 0:
            return value
    milestones = getattr(scheduler, "milestones", None)
    return max(milestones) if milestones else None
