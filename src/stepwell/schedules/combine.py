"""Combinations of schedules: the classes behind the composing methods of a schedule."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from stepwell.errors import UsageError
from stepwell.schedules.base import Schedule, literal
from stepwell.schedules.fields import settle
from stepwell.schedules.lengths import Length, length_of, steps_of


@dataclass(frozen=True, repr=False)
class Sequence(Schedule):
    """One schedule after another; made by `.then`."""

    parts: tuple[Schedule, ...]

    def __post_init__(self) -> None:
        for part in self.parts[:-1]:
            if part._length() == math.inf:
                raise UsageError(f"{part} never ends, so no schedule can follow it; end it with {part}.until(1000)")
        if len({part.absolute for part in self.parts}) > 1:
            kinds = ", ".join(f"{part} gives {'values' if part.absolute else 'factors'}" for part in self.parts)
            raise UsageError(
                f"a schedule gives either factors or values: {kinds}; use .between(low, high) on all or none"
            )
        if sum(part._length() is None for part in self.parts) > 1:
            open_parts = " and ".join(str(part) for part in self.parts if part._length() is None)
            raise UsageError(f"only one part may have no length, not {open_parts}; give a length to the others")

    @property
    def _holds(self) -> bool:  # type: ignore[override]
        return self.parts[-1]._holds

    @cached_property
    def _starts(self) -> list[int]:
        starts = [0]
        for part in self.parts[:-1]:
            starts.append(starts[-1] + int(part._length()))  # type: ignore[arg-type]
        return starts

    def _length(self) -> Length:
        lengths = [part._length() for part in self.parts]
        if any(length is None for length in lengths):
            return None
        if all(isinstance(length, int) or length == math.inf for length in lengths):
            return sum(length for length in lengths if length is not None)
        return None  # fractions among them: it is what the run makes of it

    def _at(self, step: int) -> float:
        which = bisect_right(self._starts, step) - 1
        if which == len(self.parts) - 1 or len(self.parts) == 1:
            return self.parts[-1]._value(step - self._starts[-1])
        return self.parts[which]._value(step - self._starts[which])

    def _resolve(self, total: int, rest: int, before: float = 0.0) -> Schedule:
        self._check_warmup(total)
        resolved: list[Schedule | None] = []
        for part in self.parts:
            length = part._length()
            resolved.append(None if length is None else part._resolve(total, rest, before))
            if isinstance(length, float) and length != math.inf:
                before += length
        lengths = [part._length() for part in resolved if part is not None]
        taken = sum(length for length in lengths if isinstance(length, int))
        if None in resolved and rest - taken < 1:
            raise UsageError(
                f"the other parts of {self} take {taken} steps and the run has {rest}: no step is left for "
                f"{self.parts[resolved.index(None)]}; shorten them, or give them as fractions of the run"
            )
        return Sequence(
            tuple(
                part._resolve(total, rest - taken, before) if done is None else done
                for part, done in zip(self.parts, resolved, strict=True)
            )
        )

    def _parts(self) -> tuple[Schedule, ...]:
        return self.parts

    def _with_parts(self, parts: tuple[Schedule, ...]) -> Schedule:
        return Sequence(parts)

    def _warmup(self) -> int:
        return self.parts[0]._warmup()

    def _last_begins(self) -> int:
        return self._starts[-1] + self.parts[-1]._last_begins()

    def _joins(self) -> tuple[int, ...]:
        inner = (start + join for start, part in zip(self._starts, self.parts, strict=True) for join in part._joins())
        return (*self._starts[1:], *inner)

    def __repr__(self) -> str:
        first, *others = self.parts
        return atom(first) + "".join(f".then({part})" for part in others)


def sequence(first: Schedule, following: Schedule) -> Schedule:
    """One schedule after another; nested sequences are flattened."""
    mine = first.parts if isinstance(first, Sequence) else (first,)
    theirs = following.parts if isinstance(following, Sequence) else (following,)
    return Sequence((*mine, *theirs))


@dataclass(frozen=True, repr=False)
class Held(Schedule):
    """A schedule that holds its final value indefinitely; made by `.hold`."""

    schedule: Schedule
    _holds: ClassVar[bool] = True

    def _length(self) -> Length:
        return self.schedule._length()

    def _at(self, step: int) -> float:
        return self.schedule._value(step)

    def _resolve(self, total: int, rest: int, before: float = 0.0) -> Schedule:
        return self.schedule._resolve(total, rest, before).hold()

    def _parts(self) -> tuple[Schedule, ...]:
        return (self.schedule,)

    def _with_parts(self, parts: tuple[Schedule, ...]) -> Schedule:
        return parts[0].hold()

    def __repr__(self) -> str:
        return f"{atom(self.schedule)}.hold()"


@dataclass(frozen=True, repr=False)
class Until(Schedule):
    """The beginning of a schedule; made by `.until`."""

    schedule: Schedule
    steps: int | float

    def __post_init__(self) -> None:
        steps = length_of("until", self.steps)
        if steps is None:
            raise UsageError("until(None); it must be a number of steps or a fraction of the run")
        object.__setattr__(self, "steps", steps)
        if isinstance(steps, int) and self.schedule.resolved:
            horizon = self.schedule.horizon
            if horizon is not None and horizon < steps:
                raise UsageError(
                    f"{self.schedule} has {horizon} steps, so it cannot continue until step {steps}; use at most "
                    f"{horizon}"
                )

    def _length(self) -> Length:
        return self.steps

    def _at(self, step: int) -> float:
        return self.schedule._value(step)

    def _resolve(self, total: int, rest: int, before: float = 0.0) -> Schedule:
        steps = steps_of(self, self.steps, total, rest, before)
        return Until(self.schedule._resolve(total, steps, before), steps)

    def _parts(self) -> tuple[Schedule, ...]:
        return (self.schedule,)

    def _with_parts(self, parts: tuple[Schedule, ...]) -> Schedule:
        return Until(parts[0], self.steps)

    def __repr__(self) -> str:
        return f"{atom(self.schedule)}.until({literal(self.steps)})"


class Pointwise(Schedule):
    """A schedule whose value at a step is computed from the values of its parts at that step."""

    @property
    def _holds(self) -> bool:  # type: ignore[override]
        return all(part._holds or part._length() == math.inf for part in self._parts())

    def _length(self) -> Length:
        ending = [part._length() for part in self._parts() if not part._holds and part._length() != math.inf]
        if not ending:
            lengths = [part._length() for part in self._parts()]
            waiting = [length for length in lengths if not isinstance(length, int) and length != math.inf]
            return waiting[0] if waiting else max(length for length in lengths if length is not None)
        whole_steps = sorted({length for length in ending if isinstance(length, int)})
        return whole_steps[-1] if whole_steps else ending[0]

    def _agree(self) -> None:
        """Check that all parts that end, end at the same step."""
        ends = {part: part._length() for part in self._parts() if not part._holds and part._length() != math.inf}
        known = sorted((length, repr(part)) for part, length in ends.items() if isinstance(length, int))
        if known and known[0][0] != known[-1][0]:
            (short, first), (long, last) = known[0], known[-1]
            raise UsageError(
                f"{first} has {short} steps and {last} has {long}: they must end at the same step; "
                f"end the shorter with .hold() to keep its last value"
            )

    def _resolve(self, total: int, rest: int, before: float = 0.0) -> Schedule:
        own = self._length()
        rest = own if isinstance(own, int) else rest
        return self._with_parts(tuple(part._resolve(total, rest, before) for part in self._parts()))


@dataclass(frozen=True, repr=False)
class Product(Pointwise):
    """The product of schedules, step by step; made by `*`."""

    parts: tuple[Schedule, ...]

    def __post_init__(self) -> None:
        if sum(part.absolute for part in self.parts) > 1:
            raise UsageError(f"{self}: both give values instead of factors; a product may have only one such part")
        self._agree()

    def _at(self, step: int) -> float:
        return math.prod(part._value(step) for part in self.parts)

    def _parts(self) -> tuple[Schedule, ...]:
        return self.parts

    def _with_parts(self, parts: tuple[Schedule, ...]) -> Schedule:
        return Product(parts)

    def __repr__(self) -> str:
        first, *others = self.parts
        return " * ".join([repr(first), *(f"({p})" if isinstance(p, (Product, Scaled)) else repr(p) for p in others)])


@dataclass(frozen=True, repr=False)
class Scaled(Pointwise):
    """A schedule times a number; made by `*`."""

    schedule: Schedule
    by: float

    def __post_init__(self) -> None:
        settle(self, "by", owner="*", name="factor", least=0)

    def _at(self, step: int) -> float:
        return self.schedule._value(step) * self.by

    def _parts(self) -> tuple[Schedule, ...]:
        return (self.schedule,)

    def _with_parts(self, parts: tuple[Schedule, ...]) -> Schedule:
        return Scaled(parts[0], self.by)

    def __repr__(self) -> str:
        return f"{self.schedule} * {literal(self.by)}"


@dataclass(frozen=True, repr=False)
class Between(Pointwise):
    """Values instead of factors; made by `.between`."""

    schedule: Schedule
    low: float
    high: float

    def __post_init__(self) -> None:
        settle(self, "low", owner="between")
        settle(self, "high", owner="between")
        if self.schedule.absolute:
            raise UsageError(f"{self.schedule} gives values already; between() takes factors")

    @property
    def absolute(self) -> bool:
        return True

    def _at(self, step: int) -> float:
        factor = self.schedule._value(step)
        return self.low * (1 - factor) + self.high * factor  # exact at both ends

    def _parts(self) -> tuple[Schedule, ...]:
        return (self.schedule,)

    def _with_parts(self, parts: tuple[Schedule, ...]) -> Schedule:
        return Between(parts[0], self.low, self.high)

    def __repr__(self) -> str:
        return f"{atom(self.schedule)}.between({literal(self.low)}, {literal(self.high)})"


def atom(schedule: Schedule) -> str:
    """The expression, in parentheses if a method call would bind more tightly."""
    return f"({schedule})" if isinstance(schedule, (Product, Scaled)) else repr(schedule)
