"""What schedules wrote into an optimizer's groups last, so that a value set by hand is told from one that was written.

Kept beside the optimizer and not in its groups, which travel in checkpoints. A float is told by its value, a tensor by
its version: nothing waits for a device.
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
    """While a tool (the finder) sets rates itself, and puts back what was there: nothing of that is set by hand."""
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
    """Remember what stands in the groups as written by a schedule."""
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
    """What stands in the groups was loaded."""
    if optimizer not in _UNNOTICED:
        _WRITTEN.pop(optimizer, None)


def set_by_hand(optimizer: Any, names: Iterable[str]) -> list[dict[str, Any]] | None:
    """For each group the values that were set since a schedule wrote there, by name; None where groups were loaded.

    Where `initial_lr` was set, too, that is the value: it says itself that it is the base.
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
    """Drop `initial_lr` (and the like) where lr was set by hand since: for a new schedule lr is the base then."""
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
    """What changes when a value is set: itself, or of a tensor which one it is and how often it was written."""
    if all(type(value) is float for value in values):
        return values
    return [value if type(value) in _PLAIN else (id(value), _written_to(value)) for value in values]


_PLAIN = (float, int, type(None))  # of which two can be compared: an array has no single answer


def _written_to(value: Any) -> int:
    return value._version if isinstance(value, Tensor) and not value.is_inference() else 0
