"""From factors to hyperparameters: the values that an update finds in the optimizer's groups."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from stepwell.arguments import plain_number
from stepwell.errors import UsageError, nearest, shown
from stepwell.schedules.base import Schedule
from stepwell.schedules.combine import Scaled
from stepwell.schedules.per_group import check_group_keys

# One schedule drives lr; a dict drives what it names.
Schedules = Schedule | Mapping[str, Schedule]

_NO_HYPERPARAMETERS = ("params", "param_names", "name")
_BELOW_ONE = ("momentum", "beta", "betas", "beta1", "beta2", "beta3")


def by_name(schedule: Schedules) -> dict[str, Schedule]:
    """The schedule of each hyperparameter. Raises UsageError if a value is not a schedule."""
    if isinstance(schedule, Schedule):
        return {"lr": schedule}
    if not isinstance(schedule, Mapping) or not schedule:
        raise UsageError(
            f"schedule={shown(schedule)}; it must be a schedule for lr, as warmup(500).then(cosine(9500)), or a dict "
            "of "
            "schedules, as {'lr': ..., 'weight_decay': ...}"
        )
    for name, one in schedule.items():
        if not isinstance(name, str):
            raise UsageError(f"schedule has the key {shown(name)}; it must be the name of a hyperparameter, as 'lr'")
        if not isinstance(one, Schedule):
            raise UsageError(f"schedule[{shown(name)}]={shown(one)}; it must be a schedule, as cosine(9500)")
    return dict(schedule)


def resolve(schedule: Schedules, total_steps: int | None = None) -> dict[str, Schedule]:
    """The schedule of each hyperparameter with every length in steps.

    Args:
        schedule: a schedule for lr, or a dict of schedules by hyperparameter.
        total_steps: the updates of the run, if known: fractions are resolved, and each schedule must fit it.

    Raises UsageError if a length needs `total_steps`, or if two schedules end at different steps.
    """
    named = by_name(schedule)
    if total_steps is not None:
        named = {name: one.over(total_steps) for name, one in named.items()}
    ends = {name: one.horizon for name, one in named.items() if one.horizon is not None}
    if len(set(ends.values())) > 1:
        (a, m), (b, n) = sorted(ends.items(), key=lambda item: item[1])[:: len(ends) - 1]
        raise UsageError(
            f"the schedule of {a} has {m} steps and that of {b} has {n}: both must have the length of the run; "
            "make the lengths equal, or end the shorter with .hold()"
        )
    return named


def initial_values(schedule: Schedules, groups: list[dict[str, Any]], *, stacklevel: int = 2) -> list[dict[str, Any]]:
    """The values that the factors multiply: for each group, the scheduled hyperparameters before any factor.

    The values are stored in the group as `initial_lr`, `initial_weight_decay`, ... (as torch does), so that the
    optimizer's checkpoint contains them; a group that has them already keeps them. Warns of a schedule that only
    multiplies 0; `stack_level` is that of `warnings.warn` in the caller.
    """
    named = by_name(schedule)
    for one in named.values():
        check_group_keys(one, [group.get("name") for group in groups])
    found = [_initial(named, group, position) for position, group in enumerate(groups)]
    for group, values in zip(groups, found, strict=True):
        group.update({f"initial_{name}": value for name, value in values.items()})
    for name, one in named.items():
        if found and not one.absolute and all(_is_zero(values[name]) for values in found):
            warnings.warn(
                f"the schedule of {name} has no effect: it multiplies {name}, which is 0 in every group; "
                f"set {name} in the optimizer, or give values with .between(low, high)",
                UserWarning,
                stacklevel=stacklevel + 1,
            )
    return found


def _initial(named: Mapping[str, Schedule], group: dict[str, Any], position: int) -> dict[str, Any]:
    driven: dict[tuple[str, int | None], str] = {}
    values = {}
    for name in named:
        key, place = target = target_of(name, group, position)
        for other_key, other_place in driven:
            if other_key == key and (place is None or other_place is None or place == other_place):
                raise UsageError(
                    f"the schedules of {driven[other_key, other_place]} and {name} both drive {key!r}; give one"
                )
        driven[target] = name
        current = group[key] if place is None else group[key][place]
        start = group.get(f"initial_{name}", current)
        for item in start if isinstance(start, (tuple, list)) else (start,):
            if plain_number(item.squeeze() if hasattr(item, "squeeze") else item) is None:
                raise UsageError(
                    f"group {position} of the optimizer has {name}={shown(start)}, which is not a number; set a "
                    "number for the schedule to multiply"
                )
        values[name] = _copied(start)
    return values


def target_of(name: str, group: Mapping[str, Any], position: int) -> tuple[str, int | None]:
    """The position of a scheduled hyperparameter in a group: its key, and its index within a tuple."""
    if name in group and name not in _NO_HYPERPARAMETERS:
        return name, None
    betas = group.get("betas")
    if betas is not None:
        if name == "momentum":  # as torch's one cycle: beta1 is Adam's momentum
            return "betas", 0
        if name.startswith("beta") and name[4:].isdigit() and 1 <= int(name[4:]) <= len(betas):
            return "betas", int(name[4:]) - 1
    known = [key for key, value in group.items() if _is_number(value) and not key.startswith("initial_")]
    known += ["momentum", "betas", *(f"beta{i + 1}" for i in range(len(betas)))] if betas is not None else []
    raise UsageError(f"group {position} of the optimizer has no {shown(name)} to schedule: {nearest(name, known)}")


def _is_number(value: Any) -> bool:
    return (isinstance(value, (int, float)) or hasattr(value, "fill_")) and not isinstance(value, bool)


def _is_zero(value: Any) -> bool:
    return all(float(item) == 0 for item in value) if isinstance(value, (tuple, list)) else float(value) == 0


def _copied(value: Any) -> Any:
    return value.clone() if hasattr(value, "clone") else value


@contextmanager
def put_back_if_refused(groups: list[dict[str, Any]]) -> Iterator[None]:
    """Context manager: restore the groups if an exception leaves the block. An `initial_lr` left in a group would
    become the base of the next schedule, even if lr had changed meanwhile."""
    before = [dict(group) for group in groups]
    tensors = [(value, value.clone()) for group in groups for value in group.values() if hasattr(value, "fill_")]
    try:
        yield
    except BaseException:
        for group, values in zip(groups, before, strict=True):
            group.clear()
            group.update(values)
        for tensor, value in tensors:
            tensor.copy_(value)
        raise


def apply(
    schedule: Schedules,
    groups: list[dict[str, Any]],
    initial: list[dict[str, Any]],
    step: int,
    *,
    lr_factor: float = 1.0,
) -> None:
    """Write the hyperparameters of update number `step` into `groups`. Nothing is written if a value is out of range.

    Args:
        schedule: a schedule for lr, or a dict of schedules by hyperparameter: any number in the groups (`lr`,
            `weight_decay`, `momentum`, `eps`, ...), `betas` (all of them) or `beta1`, `beta2`. `momentum` is the first
            of `betas` if a group has no momentum.
        groups: `optimizer.param_groups`.
        initial: the result of `initial_values(schedule, groups)`.
        step: number of the update, counting from 0.
        lr_factor: an additional factor of lr (a Plateau's factor).

    Raises UsageError past the horizon, and for a momentum or beta outside [0, 1) or a rate below 0.
    """
    changes: list[tuple[dict[str, Any], str, int | None, Any]] = []
    for name, one in by_name(schedule).items():
        limit = 1.0 if name in _BELOW_ONE else math.inf
        asked: dict[int, tuple[float, bool]] = {}  # what each schedule gave, for all groups that follow it
        places: dict[int, tuple[str, int | None]] = {}  # where the hyperparameter lies in groups with so many betas
        before: Schedule | None = None
        value: Any
        for position, (group, values, own) in enumerate(zip(groups, initial, one.of_groups(groups), strict=True)):
            if own is not before:
                base, by = (own.schedule, own.by) if isinstance(own, Scaled) else (own, 1.0)
                if id(base) not in asked:
                    asked[id(base)] = base(step), base.absolute
                value, absolute = asked[id(base)]
                factor = value * by * lr_factor if name == "lr" else value * by
                before = own
            start = values[name]
            if type(start) is float and type(group.get(name)) is float:  # as nearly always; an optimizer may have
                value = factor if absolute else start * factor  # hundreds of groups, at every update
                if not 0 <= value < limit:
                    raise _out_of_range(name, value, step, own)
                changes.append((group, name, None, value))
                continue
            items = start if isinstance(start, (tuple, list)) else (start,)
            scaled = [factor if absolute else float(item) * factor for item in items]
            for item in scaled:
                if not 0 <= item < limit:
                    raise _out_of_range(name, item, step, own)
            value = type(start)(scaled) if items is start else scaled[0]
            betas = -1 if name in group else len(group.get("betas") or ())
            if betas not in places:
                places[betas] = target_of(name, group, position)
            changes.append((group, *places[betas], value))
    for group, key, place, value in changes:
        current = group[key]
        if type(current) is float:
            group[key] = value
        elif place is not None:
            group[key] = (*current[:place], value, *current[place + 1 :])
        elif hasattr(current, "fill_"):  # torch allows a tensor for lr; compiled steps hold on to it
            current.fill_(value)
        else:
            group[key] = value


def _out_of_range(name: str, value: float, step: int, schedule: Schedule) -> UsageError:
    made = f"{schedule} makes {name} {value:g} at step {step}"
    if name in _BELOW_ONE:
        return UsageError(
            f"{made}; it must be in [0, 1). "
            "A factor multiplies the initial value; .between(low, high) gives values instead"
        )
    return UsageError(f"{made}; it must be at least 0 and finite")
