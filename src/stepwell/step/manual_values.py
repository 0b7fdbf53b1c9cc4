"""Hyperparameters set by hand between two updates: each value becomes the new base of its schedule."""

from __future__ import annotations

import gc
import math
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stepwell.arguments import is_finite_number, plain_number
from stepwell.errors import UsageError, shown
from stepwell.schedules.apply import initial_values
from stepwell.schedules.written import note, set_by_hand
from stepwell.step.overrides import as_text

if TYPE_CHECKING:
    from stepwell.step.bound_schedules import Bound


def taken_by_hand(bound: Bound) -> bool:
    """Use values set by hand in the groups as the base of the schedules. Returns whether there were any.

    Raises UsageError for a value that can have no effect; the groups are then as the schedule wrote them.
    """
    if not bound.initial:
        return False
    optimizer = bound.trained.optimizer
    groups = optimizer.param_groups
    found = set_by_hand(optimizer, bound.schedules)
    if found is None:  # loaded, or never written
        if len(bound.initial) == len(groups):
            bound.initial = initial_values(bound.schedules, groups)
            return True
        return False
    if not found:
        return False
    if any("lr" in values for values in found):
        _refuse_scheduler(bound)
    for place, values in enumerate(found):
        for name, value in values.items():
            plain = plain_number(value)
            if plain is None or not is_finite_number(plain) or plain < 0:
                raise UsageError(
                    f"Step: {name} was set to {shown(value)} by hand in group {place}; it must be a finite number "
                    "of at least 0"
                )
    for place, values in enumerate(found):
        for name, value in values.items():
            one = bound.schedules[name]
            if one.absolute:
                bound.write_back()
                raise UsageError(
                    f"Step: {name} was set to {as_text(value)} by hand, but the schedule {one} gives values and not "
                    "factors; "
                    "make a Step with another schedule"
                )
            if groups[place].get(f"initial_{name}") is not value:  # else it says itself that it is the base
                _say_base(bound, name, value, place)
            kept = value.clone() if isinstance(value, Tensor) else value
            bound.initial[place] = {**bound.initial[place], name: kept}
            groups[place][f"initial_{name}"] = kept
    note(optimizer, bound.schedules)
    return True


def _say_base(bound: Bound, name: str, value: Any, place: int) -> None:
    number = bound.progress.number
    if place and bound.said_base == (number, name):  # once for all groups
        return
    bound.said_base = (number, name)
    if number == 0 or isinstance(value, Tensor):  # at the beginning nobody means anything else
        return
    own = next(iter(bound.schedules[name].of_groups(bound.trained.optimizer.param_groups[place : place + 1])), None)
    factor = 1.0 if own is None else float(own(number))
    if name == "lr":
        factor *= bound.lr_factor
    if math.isclose(factor, 1.0, rel_tol=1e-6) or not is_finite_number(value):
        return
    warnings.warn(
        f"Step: {name} was set to {value:g} by hand: this value is the new base of the schedule, which gives "
        f"{value * factor:g} at update {number} (set {name} to {value:g} / {factor:g} for {value:g} there)",
        UserWarning,
        stacklevel=6,
    )


def _refuse_scheduler(bound: Bound) -> None:
    """Refuse a torch scheduler that drives lr together with the Step's schedule: it would set a new base at every
    update."""
    optimizer = bound.trained.optimizer
    if not hasattr(optimizer.step, "_wrapped_by_lr_sched"):
        return
    now = [float(group["lr"]) for group in optimizer.param_groups]
    for one in gc.get_objects():
        # not isinstance, which asks some objects for their __class__ and so makes them do things
        if not issubclass(type(one), torch.optim.lr_scheduler.LRScheduler):
            continue
        if getattr(one, "optimizer", None) is not optimizer:
            continue
        if [float(rate) for rate in getattr(one, "_last_lr", ())] == now:
            bound.write_back()
            raise UsageError(
                f"Step: {type(one).__name__}.step() has set lr, but lr is driven by the Step's schedule "
                f"{bound.schedules['lr']}; remove scheduler.step(), or make the Step without a schedule"
            )
