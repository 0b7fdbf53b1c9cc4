"""What every schedule is: a pure function from the number of an update to a factor, and how schedules compose.

How steps count, everywhere in this package:

- `factor(k)` is what update number k uses, counting from 0: the first update uses `factor(0)`.
- A schedule of n steps serves updates 0 to n-1. `factor(n)` is its end value, which is what stands in the groups
  after the last update; beyond n the schedule refuses, unless it holds its last value or never ends.
- In `a.then(b)` with a of n steps, update n uses `b.factor(0)`: the end value of `a` is left to `b`'s beginning.
- No update is wasted on a factor of zero: `warmup(500)` begins at 1/500, and `linear(n, to=0)` ends at 1/n.
"""

from __future__ import annotations

import fnmatch
import math
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, ClassVar

from stepwell.arguments import MOST, choice, flag, mapping, number, plain_number, refusal, whole
from stepwell.errors import UsageError, nearest, printable, shown

_LISTED = 10_000_000  # values that are made at once; more are a mistake

# How long a schedule is: steps (int), a fraction of the run (float in (0, 1]), what the other parts leave (None),
# or without end (math.inf).
Length = int | float | None


class Schedule:
    """A pure function from the number of an update to a factor.

    Schedules have no state: `schedule(700)` is the same whether updates 0 to 699 were asked for or not, so a run
    resumes from its step number alone. They are made by the functions of `stepwell.schedules` and composed:

    >>> from stepwell.schedules import cosine, warmup
    >>> s = warmup(500).then(cosine(9500, to=0.1))
    >>> s(0), s(499), s(500), s.horizon
    (0.002, 1.0, 1.0, 10000)
    """

    __array_ufunc__ = None  # an array or a number of NumPy times a schedule is this class's business

    # What a subclass owns: its length, its maths, and whether it keeps its end value for ever after.
    _holds: ClassVar[bool] = False

    def _length(self) -> Length:
        """Its own length, as it was given."""
        raise NotImplementedError

    def _at(self, step: int) -> float:
        """The factor at a step from 0 to the length; called on resolved schedules only."""
        raise NotImplementedError

    def _resolve(self, total: int, rest: int, before: float = 0.0) -> Schedule:
        """This schedule in steps: fractions are of `total`, and a part without length takes `rest`.

        `before` is the sum of the fractions that come earlier: fractions are rounded where they end, not one by one,
        so that parts that add up to the whole fill the run.
        """
        return self

    def _parts(self) -> tuple[Schedule, ...]:
        return ()

    def _with_parts(self, parts: tuple[Schedule, ...]) -> Schedule:
        return self

    @property
    def absolute(self) -> bool:
        """Whether it gives the hyperparameter itself (a momentum of 0.85) instead of a factor of its initial value."""
        return any(part.absolute for part in self._parts())

    # Asking

    def __call__(self, step: int, group: int | str | None = None) -> float:
        """The factor that update number `step` uses, counting from 0.

        Args:
            step: at least 0 and at most the horizon.
            group: name or position of the group, for schedules with factors per group.

        Raises UsageError below 0, past the horizon, or when a length still waits for the run's (see `over`).
        """
        schedule = self if group is None else self.for_group(group)
        step = _step(step, schedule)
        horizon = schedule.horizon
        if horizon is not None and step > horizon:
            raise UsageError(
                f"step {step} is past the horizon of {schedule}, which has {horizon} steps; "
                f"make it longer, or end it with .hold() to keep its last value"
            )
        return schedule._value(step)

    def _value(self, step: int) -> float:
        try:
            value = self._at(step if step < self._end else int(self._end))
        except OverflowError:
            value = math.inf
        if not abs(value) <= sys.float_info.max:
            raise UsageError(f"{self} gives {shown(value)} at step {step}; a factor must be a finite number")
        return value

    @cached_property
    def _end(self) -> float:
        """The step at which it is complete, inf if never; what is asked at every step."""
        length = self._length()
        assert length is not None, self
        return length

    @property
    def resolved(self) -> bool:
        """Whether every length is in steps. If not, `over(total_steps)` makes it so."""
        length = self._length()
        own = isinstance(length, int) or length == math.inf
        return own and all(part.resolved for part in self._parts())

    @cached_property
    def horizon(self) -> int | None:
        """The number of updates it serves; None if it never ends."""
        if not self.resolved:
            raise UsageError(
                f"{self} has a part whose length depends on the run; say how long that is with .over(total_steps)"
            )
        length = self._length()
        return None if self._holds or length == math.inf else int(length)  # type: ignore[arg-type]

    def over(self, total_steps: int) -> Schedule:
        """The schedule for a run of `total_steps` updates, with every length in steps.

        Fractions are of the whole run; a part without length takes what the others leave.

        >>> warmup(0.05).then(cosine(to=0.1)).over(10_000)
        warmup(500).then(cosine(9500, to=0.1))

        Raises UsageError if it does not fit the run (see `check`).
        """
        total = whole("", "total_steps", total_steps, least=1)
        schedule = self._resolve(total, total)
        schedule.check(total)
        return schedule

    def check(self, total_steps: int) -> None:
        """Raise UsageError, naming both numbers, if this schedule does not fit a run of `total_steps` updates."""
        total = whole("", "total_steps", total_steps, least=1)
        if not self.resolved:
            self.over(total)
            return
        self._check_warmup(total)
        horizon = self.horizon
        if horizon is not None and horizon > total:
            raise UsageError(
                f"{self} is {horizon} steps long and the run has {total}: it would stop before the schedule ends; "
                f"leave the length of one part out, as in cosine(to=0.1), and it takes what the run has"
            )
        if horizon is not None and horizon < total:
            raise UsageError(
                f"{self} is {horizon} steps long and the run has {total}: {total - horizon} updates would have "
                f"no rate; make it longer, or end it with .hold()"
            )
        begins = self._last_begins()
        if begins >= total and begins > 0:
            raise UsageError(
                f"the last part of {self} begins at step {begins} and the run has {total}: it is never reached; "
                f"shorten the parts before it"
            )

    def _warmup(self) -> int:
        """The steps of a warmup that the schedule begins with, as far as they are known."""
        return max((part._warmup() for part in self._parts()), default=0)

    def _check_warmup(self, total: int) -> None:
        warm = self._warmup()
        if warm > total:
            raise UsageError(
                f"the warmup of {self} is {warm} steps long and the run has {total}: "
                f"the full rate would never be reached; shorten the warmup, or give a fraction, as in warmup(0.05)"
            )

    def _last_begins(self) -> int:
        """The step at which the last part begins."""
        return max((part._last_begins() for part in self._parts()), default=0)

    def _joins(self) -> tuple[int, ...]:
        """The steps at which it bends or jumps, as far as there are such; a picture must not leave them out."""
        return tuple(join for part in self._parts() for join in part._joins())

    # Composing

    def then(self, following: Schedule) -> Schedule:
        """This schedule, and `following` from the step at which this one is complete.

        `following` counts from its own 0. Raises UsageError if this one never ends.

        >>> warmup(2).then(step(3, gamma=0.5)).values(8)
        [0.5, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5]
        """
        if not isinstance(following, Schedule):
            raise UsageError(f"then({shown(following)}): what follows must be a schedule, as in .then(cosine(9500))")
        mine = self.parts if isinstance(self, Sequence) else (self,)
        theirs = following.parts if isinstance(following, Sequence) else (following,)
        return Sequence((*mine, *theirs))

    def hold(self) -> Schedule:
        """This schedule, keeping its end value for ever after."""
        return self if self._holds or self._length() == math.inf else Held(self)

    def until(self, steps: int | float) -> Schedule:
        """The first `steps` steps of this schedule, so that something can follow one that never ends."""
        return Until(self, steps)

    def between(self, low: float, high: float) -> Schedule:
        """The hyperparameter itself instead of a factor: `low` where the factor is 0, `high` where it is 1.

        >>> warmup(300).between(0.85, 0.95)(299)  # a momentum that rises from 0.85 to 0.95
        0.95
        """
        return Between(self, low, high)

    def __mul__(self, other: Schedule | float) -> Schedule:
        """The product, step by step, with a number or with another schedule."""
        if isinstance(other, Schedule):
            return Product((self, other))
        return Scaled(self, other)

    __rmul__ = __mul__

    def per_group(self, factors: Mapping[int | str, Schedule | float]) -> Schedule:
        """Different factors for some groups: a number multiplies this schedule, a schedule takes its place.

        Args:
            factors: by the group's name (`group["name"]`; a glob such as "layer 1*" too) or its position. The first
                that matches counts; groups that none matches follow this schedule.

        >>> s = cosine(1000).per_group({"head": 10, "embedding": constant()})
        >>> s(0, "head"), s(500, "embedding"), s(500, "body")
        (10.0, 1.0, 0.5)
        """
        if not isinstance(factors, Mapping):
            raise UsageError(f"per_group({shown(factors)}): give a dict of factors by group, as {{'head': 10}}")
        given = mapping("per_group", "factors", factors, "a dict of factors by group, as {'head': 10}")
        return PerGroup(self, tuple(given.items()))

    def for_group(self, group: int | str, position: int | None = None) -> Schedule:
        """What one group follows: without the factors of the others."""
        parts = self._parts()
        chosen = tuple(part.for_group(group, position) for part in parts)
        return self if all(a is b for a, b in zip(parts, chosen, strict=True)) else self._with_parts(chosen)

    def of_groups(self, groups: list[dict[str, Any]]) -> list[Schedule]:
        """What each of an optimizer's groups follows; found anew only where their names have changed."""
        if not self.group_keys():
            return [self] * len(groups)
        names = [group.get("name", position) for position, group in enumerate(groups)]
        if self.__dict__.get("_names") != names:
            chosen: list[Schedule] = []
            distinct: list[Schedule] = []  # equal ones become one, which is then asked once for all its groups
            for position, name in enumerate(names):
                own = self.for_group(name, position)
                same = next((other for other in distinct if other == own), own)
                chosen.append(same)
                distinct += [own] if same is own else []
            self.__dict__.update(_names=names, _of_names=chosen)
        return self.__dict__["_of_names"]

    def group_keys(self) -> tuple[int | str, ...]:
        """The names and positions that `per_group` was given."""
        return tuple(key for part in self._parts() for key in part.group_keys())

    # Looking

    def values(self, steps: int | None = None) -> list[float]:
        """The factors of the first `steps` updates (of all, if it has a horizon)."""
        count = whole("values", "steps", self._count(steps), least=1, most=_LISTED)
        return [self(step) for step in range(count)]

    def _count(self, steps: int | None) -> int:
        if steps is not None:
            return whole("", "steps", steps, least=1)
        if not self.resolved or self.horizon is None:
            raise UsageError(f"{self} has no end of its own; say how many steps to show")
        return self.horizon

    def plot(self, ax: Any = None, *, lr: float = 1.0, steps: int | None = None) -> Any:
        """Draw the schedule; returns matplotlib's Axes.

        Args:
            ax: axes to draw into; new ones by default.
            lr: what the factors are multiplied with.
            steps: how many updates to show; the horizon by default.

        Raises MissingExtra without matplotlib.
        """
        from stepwell.schedules.draw import plot

        return plot(self, ax=ax, lr=lr, steps=steps)

    def _repr_html_(self) -> str:
        """The expression and a small picture, for notebooks."""
        from stepwell.schedules.picture import html

        return html(self)

    def __str__(self) -> str:
        return repr(self)

    def __repr__(self) -> str:
        """The expression that makes it; `parse` reads it back."""
        shown: list[str] = []
        for position, field in enumerate(fields(self)):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value is field.default or (type(value) is type(field.default) and value == field.default):
                continue
            text = _literal(value)
            shown.append(text if len(shown) == position == 0 else f"{field.name}={text}")
        return f"{type(self).__name__}({', '.join(shown)})"


# How schedules are put together


@dataclass(frozen=True, repr=False)
class Sequence(Schedule):
    """One schedule after another; made by `.then`."""

    parts: tuple[Schedule, ...]

    def __post_init__(self) -> None:
        for part in self.parts[:-1]:
            if part._length() == math.inf:
                raise UsageError(f"{part} never ends, so nothing can follow it; give it an end: {part}.until(1000)")
        if len({part.absolute for part in self.parts}) > 1:
            kinds = ", ".join(f"{part} gives {'values' if part.absolute else 'factors'}" for part in self.parts)
            raise UsageError(
                f"a schedule gives either factors or values: {kinds}; use .between(low, high) on all or none"
            )
        if sum(part._length() is None for part in self.parts) > 1:
            open_parts = " and ".join(str(part) for part in self.parts if part._length() is None)
            raise UsageError(
                f"only one part may take what the others leave, not {open_parts}; give a length to the others"
            )

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
                f"the other parts of {self} take {taken} steps and the run has {rest}: nothing is left for "
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
        return _atom(first) + "".join(f".then({part})" for part in others)


@dataclass(frozen=True, repr=False)
class Held(Schedule):
    """A schedule that keeps its end value for ever after; made by `.hold`."""

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
        return f"{_atom(self.schedule)}.hold()"


@dataclass(frozen=True, repr=False)
class Until(Schedule):
    """The beginning of a schedule; made by `.until`."""

    schedule: Schedule
    steps: int | float

    def __post_init__(self) -> None:
        steps = length_of("until", self.steps)
        if steps is None:
            raise UsageError("until(None): say how many steps, or which fraction of the run")
        object.__setattr__(self, "steps", steps)
        if isinstance(steps, int) and self.schedule.resolved:
            horizon = self.schedule.horizon
            if horizon is not None and horizon < steps:
                raise UsageError(f"{self.schedule} has {horizon} steps, so it cannot go on until step {steps}")

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
        return f"{_atom(self.schedule)}.until({_literal(self.steps)})"


class _Pointwise(Schedule):
    """A schedule whose value at a step is made of the values of its parts at that step."""

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
        """The parts that end must end together."""
        ends = {part: part._length() for part in self._parts() if not part._holds and part._length() != math.inf}
        known = sorted((length, repr(part)) for part, length in ends.items() if isinstance(length, int))
        if known and known[0][0] != known[-1][0]:
            (short, first), (long, last) = known[0], known[-1]
            raise UsageError(
                f"{first} has {short} steps and {last} has {long}: they must end together; "
                f"end the shorter with .hold() if it is to keep its last value"
            )

    def _resolve(self, total: int, rest: int, before: float = 0.0) -> Schedule:
        own = self._length()
        rest = own if isinstance(own, int) else rest
        return self._with_parts(tuple(part._resolve(total, rest, before) for part in self._parts()))


@dataclass(frozen=True, repr=False)
class Product(_Pointwise):
    """The product of schedules, step by step; made by `*`."""

    parts: tuple[Schedule, ...]

    def __post_init__(self) -> None:
        if sum(part.absolute for part in self.parts) > 1:
            raise UsageError(f"{self}: both give values instead of factors; a product may have one such part")
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
class Scaled(_Pointwise):
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
        return f"{self.schedule} * {_literal(self.by)}"


@dataclass(frozen=True, repr=False)
class Between(_Pointwise):
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
        return f"{_atom(self.schedule)}.between({_literal(self.low)}, {_literal(self.high)})"


@dataclass(frozen=True, repr=False)
class PerGroup(_Pointwise):
    """Factors that differ between groups; made by `.per_group`. Without a group, it is its default."""

    schedule: Schedule
    factors: tuple[tuple[int | str, Schedule | float], ...]

    def __post_init__(self) -> None:
        if not self.factors:
            raise UsageError("per_group({}): no group is named; leave it out")
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
        shown = ", ".join(f"{key!r}: {_literal(factor)}" for key, factor in self.factors)
        return f"{_atom(self.schedule)}.per_group({{{shown}}})"


def _names(key: int | str, group: int | str) -> bool:
    if isinstance(key, str) and isinstance(group, str):
        return key == group or fnmatch.fnmatchcase(group, key)
    return type(key) is type(group) and key == group


def check_group_keys(schedule: Schedule, names: Iterable[str | None]) -> None:
    """Raise UsageError if `schedule` has a factor for a group that is not there."""
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


# What the families share: how their arguments are read


@dataclass(frozen=True, repr=False)
class Shape(Schedule):
    """A schedule of a given length: steps, a fraction of the run, or what the other parts leave."""

    steps: int | float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", length_of(type(self).__name__, self.steps))

    def _length(self) -> Length:
        return self.steps

    def _resolve(self, total: int, rest: int, before: float = 0.0) -> Schedule:
        return replace(self, steps=steps_of(self, self.steps, total, rest, before))

    @property
    def _n(self) -> int:
        assert isinstance(self.steps, int), self
        return self.steps


class Endless(Schedule):
    """A schedule that never ends."""

    def _length(self) -> Length:
        return math.inf


def settle(
    schedule: Schedule, attribute: str, *, owner: str | None = None, name: str | None = None, **bounds: float
) -> None:
    """Check a number of a schedule and keep it as Python's: `repr` is read back by `parse`."""
    value = getattr(schedule, attribute)
    plain = number(owner or type(schedule).__name__, name or attribute, value, **bounds)  # type: ignore[arg-type]
    object.__setattr__(schedule, attribute, plain)


def settle_count(schedule: Schedule, attribute: str) -> None:
    """Check a count of steps of a schedule, at least 1, and keep it as Python's."""
    value = whole(type(schedule).__name__, attribute, getattr(schedule, attribute), least=1)
    object.__setattr__(schedule, attribute, value)


def settle_choice(schedule: Schedule, attribute: str, allowed: Iterable[str]) -> None:
    """Check a word of a schedule and keep it as Python's."""
    value = choice(type(schedule).__name__, attribute, getattr(schedule, attribute), allowed)
    object.__setattr__(schedule, attribute, value)


def settle_flag(schedule: Schedule, attribute: str) -> None:
    """Check a flag of a schedule and keep it as Python's."""
    object.__setattr__(schedule, attribute, flag(type(schedule).__name__, attribute, getattr(schedule, attribute)))


def called(owner: Schedule, function: Callable[[int], Any], step: int) -> float:
    """What a function of the user's gives at a step, as a float, or UsageError for what is no number."""
    try:
        value = function(step)
    except Exception as error:
        said = printable(f"{type(error).__name__}: {error}")[:200]
        raise UsageError(f"{owner} fails at step {step}: {said}") from error
    try:
        if not isinstance(value, (str, bytes)):
            return float(value)
    except OverflowError:
        return math.inf
    except Exception:  # no number
        pass
    raise UsageError(f"{owner} gives {shown(value)} at step {step}; a factor must be a finite number")


def length_of(owner: str, value: Any) -> int | float | None:
    """A length as the user gave it: steps, a fraction, or None; or UsageError."""
    if value is None:
        return None
    plain = plain_number(value)
    if type(plain) is float:
        if not 0.0 < plain <= 1.0:
            raise UsageError(
                f"{owner}({shown(value)}): a float is a fraction of the run, in (0, 1]; "
                f"for steps write an int, as {owner}(500)"
            )
        return plain
    return whole(owner, "steps", value, least=1)


def steps_of(owner: Schedule, length: Length, total: int, rest: int, before: float = 0.0) -> int:
    """A length in steps, for a run of `total` of which the other parts leave `rest`."""
    if length is None:
        return rest
    if isinstance(length, int):
        return length
    steps = _rounded(before + length, total) - _rounded(before, total)
    if steps < 1:
        raise UsageError(f"{owner} of a run of {total} steps is less than one step; give it steps")
    return steps


def _rounded(fraction: float, total: int) -> int:
    return math.floor(fraction * total + 0.5)


def _step(step: Any, owner: Schedule) -> int:
    plain = plain_number(step)
    if type(plain) is not int:
        raise UsageError(f"step {shown(step)} of {owner} is not a whole number; updates are counted 0, 1, 2, ...")
    if plain < 0:
        raise UsageError(f"step {shown(plain)} of {owner} is below 0; the first update is number 0")
    if plain > MOST:
        raise refusal("", f"step of {owner}", step, "at most 2^53", "no run has so many steps")
    return plain


def _literal(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_literal(item) for item in value)}]"
    if callable(value) and not isinstance(value, Schedule):
        name = getattr(value, "__qualname__", None)
        return name if isinstance(name, str) else shown(value)
    return repr(value)


def _atom(schedule: Schedule) -> str:
    """The expression, in parentheses where a method call would bind too tightly."""
    return f"({schedule})" if isinstance(schedule, (Product, Scaled)) else repr(schedule)
