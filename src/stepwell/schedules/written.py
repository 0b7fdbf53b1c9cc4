"""The values that schedules last wrote into an optimizer's groups, to tell values set by hand from values written.

They are stored outside the groups, because the groups are saved in checkpoints. A changed float is detected by its
value,
a changed tensor by its version counter: nothing waits for a device.
"""

from __future__ import annotations

import operator
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from stepwell.schedules.apply import target_of


class _Written:
    def __init__(self, groups: list[dict[str, Any]]) -> None:
        self.groups = groups
        self.values: dict[str, list[Any]] = {}  # by name, one for each group
        self.initial: dict[str, list[Any]] = {}


_WRITTEN: weakref.WeakKeyDictionary[Any, _Written] = weakref.WeakKeyDictionary()


_UNNOTICED: weakref.WeakSet[Any] = weakref.WeakSet()  # optimizers whose rates a tool sets at the moment


@contextmanager
def unnoticed(optimizer: Any) -> Iterator[None]:
    """Context manager for a tool (the finder) that sets rates and restores them: these values do not count as set by
    hand."""
    before = _WRITTEN.get(optimizer)
    by_hand = before is not None and bool(set_by_hand(optimizer, before.values))
    _UNNOTICED.add(optimizer)
    try:
        yield
    finally:
        _UNNOTICED.discard(optimizer)
        if before is not None and not by_hand:  # tensors that were put back have another version
            note(optimizer, list(before.values))


def note(optimizer: Any, names: Iterable[str]) -> None:
    """Record the values in the groups as written by a schedule."""
    if optimizer in _UNNOTICED:
        return
    written = _WRITTEN.get(optimizer)
    groups = optimizer.param_groups
    if written is None or not _same(written.groups, groups):
        written = _WRITTEN[optimizer] = _Written(list(groups))
    for name in names:
        written.values[name] = _values(groups, name)
        written.initial[name] = _marks([group.get(f"initial_{name}") for group in groups])


def forget(optimizer: Any) -> None:
    """Called when the groups were loaded."""
    if optimizer not in _UNNOTICED:
        _WRITTEN.pop(optimizer, None)


def set_by_hand(optimizer: Any, names: Iterable[str]) -> list[dict[str, Any]] | None:
    """For each group, the values set by hand since a schedule wrote, by name; None if the groups were loaded.

    If `initial_lr` was set as well, it is the base.
    """
    groups = optimizer.param_groups
    written = _WRITTEN.get(optimizer)
    if written is None or optimizer in _UNNOTICED or not _same(written.groups, groups[: len(written.groups)]):
        return None
    found: list[dict[str, Any]] = []
    for name in names:
        if name not in written.values:
            continue
        now, initial = _values(groups, name), _marks([group.get(f"initial_{name}") for group in groups])
        if (
            now[: len(written.groups)] == written.values[name]
            and initial[: len(written.groups)] == written.initial[name]
        ):
            continue
        found = found or [{} for _ in groups]
        pairs = zip(written.values[name], written.initial[name], strict=True)
        for place, (value, base) in enumerate(pairs):
            if initial[place] != base and f"initial_{name}" in groups[place]:
                found[place][name] = groups[place][f"initial_{name}"]
            elif now[place] != value:
                found[place][name] = _value(groups[place], name, place)
    return found


def take_the_place_of_initial(optimizer: Any, names: Iterable[str]) -> None:
    """Drop `initial_lr` (and the like) if lr was set by hand since: a new schedule then uses lr as the base."""
    for group, values in zip(optimizer.param_groups, set_by_hand(optimizer, names) or (), strict=False):
        for name in values:
            group[f"initial_{name}"] = values[name].clone() if hasattr(values[name], "clone") else values[name]


def _same(before: list[dict[str, Any]], groups: list[dict[str, Any]]) -> bool:
    return len(before) == len(groups) and all(map(operator.is_, before, groups))


def _values(groups: list[dict[str, Any]], name: str) -> list[Any]:
    if all(name in group for group in groups):
        return _marks([group[name] for group in groups])
    return _marks([_value(group, name, place) for place, group in enumerate(groups)])


def _value(group: Mapping[str, Any], name: str, position: int) -> Any:
    key, place = target_of(name, group, position)
    if place is None or not isinstance(group[key], (tuple, list)) or len(group[key]) <= place:
        return group[key]
    return group[key][place]


def _marks(values: list[Any]) -> list[Any]:
    """A mark that changes when a value is set: the value itself, or a tensor's identity and version counter."""
    if all(type(value) is float for value in values):
        return values
    return [value if type(value) in _PLAIN else (id(value), _written_to(value)) for value in values]


_PLAIN = (float, int, type(None))  # of which two can be compared: an array has no single answer


def _written_to(value: Any) -> int:
    return value._version if isinstance(value, Tensor) and not value.is_inference() else 0
