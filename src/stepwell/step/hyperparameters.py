"""Hyperparameters under a Step: those set by hand, those a checkpoint brings, and those that shall not follow it."""

from __future__ import annotations

import gc
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stepwell import engine
from stepwell.arguments import is_finite_number, mapping, plain_flag, plain_number
from stepwell.engine.rule import check_hyperparameters
from stepwell.engine.update import innermost
from stepwell.errors import UsageError, nearest, shown
from stepwell.schedules.apply import apply, initial_values
from stepwell.schedules.written import forget, note, set_by_hand

if TYPE_CHECKING:
    from stepwell.step.step import Step

_APART = ("params", "param_names", "name")
_JUMP = 1.1  # of a scheduled hyperparameter at a resume: said from here on


# Set by hand


def taken_by_hand(step: Step) -> bool:
    """Take what was set in the groups by hand as the base of the schedules; whether there was something.

    Raises UsageError where it can have no effect; the groups are then as the schedule wrote them.
    """
    optimizer, groups = step.optimizer, step.optimizer.param_groups
    if not step._initial:
        return False
    found = set_by_hand(optimizer, step.schedules)
    if found is None:  # loaded, or never written
        if len(step._initial) == len(groups):
            step._initial = initial_values(step.schedules, groups)
            return True
        return False
    if not found:
        return False
    if any("lr" in values for values in found):
        _refuse_scheduler(step)
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
            one = step.schedules[name]
            if one.absolute:
                _write_back(step)
                raise UsageError(
                    f"Step: {name} was set to {_shown(value)} by hand, but the schedule {one} gives values itself; "
                    "make a Step with another schedule"
                )
            if groups[place].get(f"initial_{name}") is not value:  # else it says itself that it is the base
                _say_base(step, name, value, place)
            kept = value.clone() if isinstance(value, Tensor) else value
            step._initial[place] = {**step._initial[place], name: kept}
            groups[place][f"initial_{name}"] = kept
    note(optimizer, step.schedules)
    return True


def _say_base(step: Step, name: str, value: Any, place: int) -> None:
    if place and step._said_base == (step._number, name):  # once for all groups
        return
    step._said_base = (step._number, name)
    if step._number == 0 or isinstance(value, Tensor):  # at the beginning nobody means anything else
        return
    own = next(iter(step.schedules[name].of_groups(step.optimizer.param_groups[place : place + 1])), None)
    factor = 1.0 if own is None else float(own(step._number))
    if name == "lr" and step.plateau is not None:
        factor *= step.plateau.factor
    if math.isclose(factor, 1.0, rel_tol=1e-6) or not is_finite_number(value):
        return
    warnings.warn(
        f"Step: {name} was set to {value:g} by hand: that is the new base of the schedule, which makes it "
        f"{value * factor:g} at update {step._number} (set {name} to {value:g} / {factor:g} for {value:g} there)",
        UserWarning,
        stacklevel=5,
    )


def _refuse_scheduler(step: Step) -> None:
    """A scheduler of torch that drives lr beside the Step's schedule would make a new base of it at every update."""
    optimizer = step.optimizer
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
            _write_back(step)
            raise UsageError(
                f"Step: {type(one).__name__}.step() has set lr beside the schedule of the Step, "
                f"{step.schedules['lr']}; leave scheduler.step() out, or make the Step without a schedule"
            )


def _write_back(step: Step) -> None:
    groups = step.optimizer.param_groups
    for group, values in zip(groups, step._initial, strict=False):
        group.update({f"initial_{name}": value for name, value in values.items()})
    factor = 1.0 if step.plateau is None else step.plateau.factor
    apply(step.schedules, groups, step._initial, step._number, lr_factor=factor)
    note(step.optimizer, step.schedules)


# Loaded


@contextmanager
def say_of_loaded(step: Step, overrides: Mapping[str, Any]) -> Iterator[None]:
    """A checkpoint is loaded inside: apply the overrides afterwards, and say what else it replaced."""
    optimizer, before = step.optimizer, _bases(step)
    step._overrides = overrides
    try:
        yield
    finally:
        step._overrides = {}
    if step.optimizer is not optimizer or step._switched is not None:  # the numbers of a switch are its own
        return
    replaced = []
    for name in dict.fromkeys(name for values in before for name in values):
        if name in overrides:
            continue
        pairs = zip(before, _bases(step), strict=False)
        differ = [(mine[name], now[name]) for mine, now in pairs if name in mine and name in now]
        differ = [(mine, now) for mine, now in differ if not _equal(mine, now)]
        if differ:
            replaced.append(f"{name} {_shown(differ[0][1])} (here it was {_shown(differ[0][0])})")
    if replaced:
        names = ", ".join(f"'{text.split()[0]}': ..." for text in replaced)
        warnings.warn(
            f"Step: the checkpoint has brought {', '.join(replaced)}; to keep others: "
            f"step.load(path, overrides={{{names}}})",
            UserWarning,
            stacklevel=4,
        )


def _bases(step: Step) -> list[dict[str, Any]]:
    """The hyperparameters of each group, those that a schedule drives by their base."""
    driven = {name for one in step.schedules for name in _also_drives(one)}
    bases = [
        {name: value for name, value in group.items() if name not in (*_APART, *driven) and not _initial_name(name)}
        for group in step.optimizer.param_groups
    ]
    for values, initial in zip(bases, step._initial, strict=False):
        values.update({name: value for name, value in initial.items() if not step.schedules[name].absolute})
    return [{name: value.clone() if isinstance(value, Tensor) else value for name, value in b.items()} for b in bases]


def _also_drives(name: str) -> tuple[str, ...]:
    return (name, "betas") if name == "momentum" or name.startswith("beta") else (name,)


def _initial_name(name: str) -> bool:
    return name.startswith("initial_")


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return one is other or bool(torch.as_tensor(one).cpu().eq(torch.as_tensor(other).cpu()).all())
    if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)):
        return len(one) == len(other) and all(map(_equal, one, other))
    if one in (None, False) and other in (None, False):
        return True
    return bool(one == other)


def _shown(value: Any) -> str:
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    return f"{value:g}" if isinstance(value, float) else str(value)


@contextmanager
def say_of_factors(step: Step) -> Iterator[None]:
    """The schedule writes what the next update uses inside; what stands in the groups is the checkpoint's."""
    groups = step.optimizer.param_groups
    before = [_factors(group, values) for group, values in zip(groups, step._initial, strict=False)]
    override(step, step._overrides)
    yield
    after = [_factors(group, values) for group, values in zip(groups, step._initial, strict=False)]
    for name, one in step.schedules.items():
        for was, now in zip(before, after, strict=True):
            if one.absolute or name not in was or name not in now or was[name] == now[name]:
                continue
            low, high = sorted((was[name], now[name]))
            if low > 0 and high < low * _JUMP:
                continue
            times = f" ({now[name] / was[name]:.3g} times)" if was[name] > 0 else ""
            warnings.warn(
                f"Step: the schedule here, {one}, multiplies {name} by {now[name]:.3g} at update {step._number}, the "
                f"run that was saved by {was[name]:.3g}: {name} jumps{times}; was it saved under another schedule?",
                UserWarning,
                stacklevel=6,
            )
            break


def _factors(group: Mapping[str, Any], initial: Mapping[str, Any]) -> dict[str, float]:
    """What each scheduled number of a group is multiplied with at the moment."""
    found = {}
    for name, base in initial.items():
        if name in group and not isinstance(base, (tuple, list)) and float(base) != 0:
            found[name] = float(group[name]) / float(base)
    return found


# Overrides


def checked_overrides(step: Step, overrides: Any) -> dict[str, Any]:
    """`overrides`, or UsageError."""
    if overrides is None:
        return {}
    if not isinstance(overrides, Mapping):
        raise UsageError(
            f"Step: overrides is a {type(overrides).__name__}; give hyperparameters by name: {{'lr': 1e-4}}"
        )
    overrides = mapping("Step", "overrides", overrides, "a dict of hyperparameters, as {'lr': 1e-4}")
    groups, inner = step.optimizer.param_groups, innermost(step.optimizer)
    found: dict[str, Any] = {}
    for name, value in overrides.items():
        if not isinstance(name, str):
            raise UsageError(f"Step: overrides={{{shown(name)}: ...}}: a hyperparameter has a text for its name")
        known = [key for key, v in groups[0].items() if key not in _APART and not _initial_name(key) and _is_numeric(v)]
        if name not in known and name not in step.schedules:
            raise UsageError(
                f"Step: overrides={{{shown(name)}: ...}}: the optimizer has no such number: {nearest(str(name), known)}"
            )
        if name in step.schedules and step.schedules[name].absolute:
            raise UsageError(
                f"Step: overrides={{{shown(name)}: {shown(value)}}} has no effect: the schedule {step.schedules[name]} "
                "gives values itself; leave it out"
            )
        like = groups[0].get(name, 0.0)
        plain = _alike(value, like)
        if plain is None:
            raise UsageError(
                f"Step: overrides={{{shown(name)}: {shown(value)}}}; it must be like {_shown(like)}, "
                "finite and at least 0"
            )
        if isinstance(inner, engine.Optimizer) and name in groups[0]:
            check_hyperparameters(type(inner).__name__, {name: plain}, inner.all_ranges)
        found[name] = plain
    return found


def _alike(value: Any, like: Any) -> Any:
    """The flag, number, or numbers that a value is, where that is like what stands in the groups; else None."""
    if isinstance(like, bool):
        flag = plain_flag(value)
        return flag if isinstance(flag, bool) else None
    if isinstance(like, (tuple, list)):
        if not isinstance(value, (tuple, list)) or len(value) != len(like):
            return None
        items = tuple(_alike(item, 0.0) for item in value)
        return None if None in items else items
    number = plain_number(value)
    return number if number is not None and is_finite_number(number) and number >= 0 else None


def _is_numeric(value: Any) -> bool:
    return isinstance(value, (int, float, bool, Tensor)) or (
        isinstance(value, (tuple, list)) and all(isinstance(item, (int, float)) for item in value)
    )


def override(step: Step, overrides: Mapping[str, Any]) -> None:
    """Put the overrides into the groups, as bases where a schedule drives them."""
    for place, group in enumerate(step.optimizer.param_groups):
        for name, value in overrides.items():
            if name in step.schedules:
                group[f"initial_{name}"] = value
                step._initial[place] = {**step._initial[place], name: value}
            if name not in group:
                continue
            if isinstance(group[name], Tensor):
                group[name].fill_(value)
            else:
                group[name] = value
    forget(step.optimizer)
