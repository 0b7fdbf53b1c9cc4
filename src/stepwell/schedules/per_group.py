"""A schedule with factors that differ between the optimizer's groups."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass, replace

from stepwell.arguments import number
from stepwell.errors import UsageError, nearest, shown
from stepwell.schedules.base import Schedule, literal
from stepwell.schedules.combine import Pointwise, Scaled, atom


@dataclass(frozen=True, repr=False)
class PerGroup(Pointwise):
    """Factors that differ between groups; made by `.per_group`. Without a group, the default schedule applies."""

    schedule: Schedule
    factors: tuple[tuple[int | str, Schedule | float], ...]

    def __post_init__(self) -> None:
        if not self.factors:
            raise UsageError("per_group({}) names no group; omit it")
        settled = []
        for key, factor in self.factors:
            if isinstance(key, bool) or not isinstance(key, (int, str)):
                raise UsageError(f"per_group: the key {shown(key)} is neither a group's name nor its position")
            if not isinstance(factor, Schedule):
                factor = number("per_group", f"the factor of {shown(key)}", factor, least=0)
            settled.append((key, factor))
            if not isinstance(factor, Schedule):
                continue
            if factor.absolute != self.schedule.absolute:
                raise UsageError(
                    f"per_group: {factor} of {key!r} and {self.schedule} differ: one gives values, one factors"
                )
        object.__setattr__(self, "factors", tuple(settled))
        self._agree()

    def _at(self, step: int) -> float:
        return self.schedule._value(step)

    def for_group(self, group: int | str, position: int | None = None) -> Schedule:
        for key, factor in self.factors:
            if _names(key, group) or (position is not None and _names(key, position)):
                if isinstance(factor, Schedule):
                    return factor.for_group(group, position)
                return Scaled(self.schedule.for_group(group, position), factor)
        return self.schedule.for_group(group, position)

    def group_keys(self) -> tuple[int | str, ...]:
        return (*(key for key, _ in self.factors), *super().group_keys())

    def _parts(self) -> tuple[Schedule, ...]:
        return (self.schedule, *(factor for _, factor in self.factors if isinstance(factor, Schedule)))

    def _with_parts(self, parts: tuple[Schedule, ...]) -> Schedule:
        rest = iter(parts[1:])
        factors = tuple((key, next(rest) if isinstance(factor, Schedule) else factor) for key, factor in self.factors)
        return replace(self, schedule=parts[0], factors=factors)

    def __repr__(self) -> str:
        shown = ", ".join(f"{key!r}: {literal(factor)}" for key, factor in self.factors)
        return f"{atom(self.schedule)}.per_group({{{shown}}})"


def _names(key: int | str, group: int | str) -> bool:
    if isinstance(key, str) and isinstance(group, str):
        return key == group or fnmatch.fnmatchcase(group, key)
    return type(key) is type(group) and key == group


def check_group_keys(schedule: Schedule, names: Iterable[str | None]) -> None:
    """Raise UsageError if `schedule` has a factor for a group that does not exist."""
    given = list(names)
    known: list[int | str] = [*range(len(given)), *(name for name in given if name is not None)]
    for key in schedule.group_keys():
        if not any(_names(key, group) for group in known):
            if isinstance(key, int):
                raise UsageError(f"per_group: there is no group {key}; the optimizer has {len(given)}, counted from 0")
            texts = [str(group) for group in known if isinstance(group, str)]
            if not texts:
                raise UsageError(f"per_group: no group is called {key!r}; the groups have no names, so use positions")
            raise UsageError(f"per_group: no group is called {key!r}: {nearest(key, texts)}")
