"""Hyperparameters in a checkpoint: overrides, and warnings about changed values."""

from __future__ import annotations

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
from stepwell.schedules.written import forget

if TYPE_CHECKING:
    from stepwell.step.bound_schedules import Bound

_APART = ("params", "param_names", "name")
_JUMP = 1.1  # of a scheduled hyperparameter at a resume: said from here on


@contextmanager
def say_of_loaded(bound: Bound, overrides: Mapping[str, Any]) -> Iterator[None]:
    """Context manager around loading a checkpoint: apply the overrides afterwards, and warn of other values it
    replaced."""
    optimizer, before = bound.trained.optimizer, _bases(bound)
    bound.overrides = overrides
    try:
        yield
    finally:
        bound.overrides = {}
    trained = bound.trained
    if trained.optimizer is not optimizer or trained.switched is not None:  # the numbers of a switch are its own
        return
    replaced = []
    for name in dict.fromkeys(name for values in before for name in values):
        if name in overrides:
            continue
        pairs = zip(before, _bases(bound), strict=False)
        differ = [(mine[name], now[name]) for mine, now in pairs if name in mine and name in now]
        differ = [(mine, now) for mine, now in differ if not _equal(mine, now)]
        if differ:
            replaced.append(f"{name} {as_text(differ[0][1])} (before: {as_text(differ[0][0])})")
    if replaced:
        names = ", ".join(f"'{text.split()[0]}': ..." for text in replaced)
        warnings.warn(
            f"Step: the checkpoint set {', '.join(replaced)}; to use other values: "
            f"step.load(path, overrides={{{names}}})",
            UserWarning,
            stacklevel=4,
        )


def _bases(bound: Bound) -> list[dict[str, Any]]:
    """The hyperparameters of each group; scheduled hyperparameters by their base."""
    driven = {name for one in bound.schedules for name in _also_drives(one)}
    bases = [
        {name: value for name, value in group.items() if name not in (*_APART, *driven) and not _initial_name(name)}
        for group in bound.trained.optimizer.param_groups
    ]
    for values, initial in zip(bases, bound.initial, strict=False):
        values.update({name: value for name, value in initial.items() if not bound.schedules[name].absolute})
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


def as_text(value: Any) -> str:
    """The text of a hyperparameter in a message."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    return f"{value:g}" if isinstance(value, float) else str(value)


@contextmanager
def say_of_factors(bound: Bound) -> Iterator[None]:
    """Context manager around the write of the schedule after a load: warn if a factor differs from that of the
    checkpoint."""
    groups = bound.trained.optimizer.param_groups
    before = [_factors(group, values) for group, values in zip(groups, bound.initial, strict=False)]
    _override(bound, bound.overrides)
    yield
    after = [_factors(group, values) for group, values in zip(groups, bound.initial, strict=False)]
    for name, one in bound.schedules.items():
        for was, now in zip(before, after, strict=True):
            if one.absolute or name not in was or name not in now or was[name] == now[name]:
                continue
            low, high = sorted((was[name], now[name]))
            if low > 0 and high < low * _JUMP:
                continue
            times = f" ({now[name] / was[name]:.3g} times)" if was[name] > 0 else ""
            warnings.warn(
                f"Step: the schedule here, {one}, multiplies {name} by {now[name]:.3g} at update "
                f"{bound.progress.number}, the saved run by {was[name]:.3g}: {name} jumps{times}; did the saved run "
                "have another schedule?",
                UserWarning,
                stacklevel=7,
            )
            break


def _factors(group: Mapping[str, Any], initial: Mapping[str, Any]) -> dict[str, float]:
    """The current factor of each scheduled number of a group."""
    found = {}
    for name, base in initial.items():
        if name in group and not isinstance(base, (tuple, list)) and float(base) != 0:
            found[name] = float(group[name]) / float(base)
    return found


# Overrides


def checked_overrides(bound: Bound, overrides: Any) -> dict[str, Any]:
    """`overrides`, or UsageError."""
    if overrides is None:
        return {}
    if not isinstance(overrides, Mapping):
        raise UsageError(
            f"Step: overrides is a {type(overrides).__name__}; it must be a dict of hyperparameters, as {{'lr': 1e-4}}"
        )
    overrides = mapping("Step", "overrides", overrides, "a dict of hyperparameters, as {'lr': 1e-4}")
    groups, inner = bound.trained.optimizer.param_groups, innermost(bound.trained.optimizer)
    found: dict[str, Any] = {}
    for name, value in overrides.items():
        if not isinstance(name, str):
            raise UsageError(f"Step: overrides={{{shown(name)}: ...}}; the name of a hyperparameter must be a str")
        known = [key for key, v in groups[0].items() if key not in _APART and not _initial_name(key) and _is_numeric(v)]
        if name not in known and name not in bound.schedules:
            raise UsageError(
                f"Step: overrides={{{shown(name)}: ...}}; the optimizer has no such number: {nearest(str(name), known)}"
            )
        if name in bound.schedules and bound.schedules[name].absolute:
            raise UsageError(
                f"Step: overrides={{{shown(name)}: {shown(value)}}} has no effect: the schedule "
                f"{bound.schedules[name]} gives values and not factors; omit the override"
            )
        like = groups[0].get(name, 0.0)
        plain = _alike(value, like)
        if plain is None:
            raise UsageError(
                f"Step: overrides={{{shown(name)}: {shown(value)}}}; it must be like {as_text(like)}, "
                "finite and at least 0"
            )
        if isinstance(inner, engine.Optimizer) and name in groups[0]:
            check_hyperparameters(type(inner).__name__, {name: plain}, inner.all_ranges)
        found[name] = plain
    return found


def _alike(value: Any, like: Any) -> Any:
    """The value as a flag, number or numbers, if it is of the same kind as the value in the groups; else None."""
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


def _override(bound: Bound, overrides: Mapping[str, Any]) -> None:
    """Write the overrides into the groups; for scheduled hyperparameters, as their base."""
    for place, group in enumerate(bound.trained.optimizer.param_groups):
        for name, value in overrides.items():
            if name in bound.schedules:
                group[f"initial_{name}"] = value
                bound.initial[place] = {**bound.initial[place], name: value}
            if name not in group:
                continue
            if isinstance(group[name], Tensor):
                group[name].fill_(value)
            else:
                group[name] = value
    forget(bound.trained.optimizer)
