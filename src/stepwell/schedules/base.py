"""The base class of all schedules: a pure function from the number of an update to a factor, with methods to compose.

Steps are counted as follows, everywhere in this package:

- `factor(k)` is the factor of update number k, counting from 0: the first update uses `factor(0)`.
- A schedule of n steps serves updates 0 to n-1. `factor(n)` is its end value, which the groups
contain after the last update. Beyond n the schedule raises UsageError, unless it holds its last value or never ends.
- In `a.then(b)` with a of n steps, update n uses `b.factor(0)`: `b` begins where `a` would have its end value.
- No update is wasted on a factor of zero: `warmup(500)` begins at 1/500, and `linear(n, to=0)` ends at 1/n.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar

from stepwell.arguments import MOST, mapping, plain_number, refusal, whole
from stepwell.errors import UsageError, shown
from stepwell.schedules.lengths import Length

_LISTED = 10_000_000  # values that are made at once; more are a mistake


@dataclass(frozen=True)
class Methods:
    """Functions from files that import this file, for the methods of a schedule; `composition` sets them.

    So there is no circular import, and a type checker sees all types.
    """

    then: Callable[[Schedule, Schedule], Schedule]
    hold: Callable[[Schedule], Schedule]
    until: Callable[[Schedule, int | float], Schedule]
    between: Callable[[Schedule, float, float], Schedule]
    product: Callable[[tuple[Schedule, ...]], Schedule]
    scaled: Callable[[Schedule, float], Schedule]
    per_group: Callable[[Schedule, tuple[tuple[int | str, Schedule | float], ...]], Schedule]
    plot: Callable[..., Any]
    html: Callable[[Schedule], str]


class Schedule:
    """A pure function from the number of an update to a factor.

    Schedules have no state: `schedule(700)` is the same whether updates 0 to 699 were asked for or not, so a run
    resumes from its step number alone. The functions of `stepwell.schedules` make schedules, and methods compose them:

    >>> from stepwell.schedules import cosine, warmup
    >>> s = warmup(500).then(cosine(9500, to=0.1))
    >>> s(0), s(499), s(500), s.horizon
    (0.002, 1.0, 1.0, 10000)
    """

    __array_ufunc__ = None  # an array or a number of NumPy times a schedule is this class's business

    _methods: ClassVar[Methods]  # one for all schedules

    # Implemented by subclasses: the length, the formula, and whether the final value is held indefinitely.
    _holds: ClassVar[bool] = False

    def _length(self) -> Length:
        """The length of the schedule, as given."""
        raise NotImplementedError

    def _at(self, step: int) -> float:
        """The factor at a step from 0 to the length; called only on resolved schedules."""
        raise NotImplementedError

    def _resolve(self, total: int, rest: int, before: float = 0.0) -> Schedule:
        """This schedule with all lengths in steps: fractions are of `total`, and a part without length gets `rest`
        steps.

        `before` is the sum of the earlier fractions. The end of each part is rounded, not its length, so that fractions
        that add up to 1 fill the run.
        """
        return self

    def _parts(self) -> tuple[Schedule, ...]:
        return ()

    def _with_parts(self, parts: tuple[Schedule, ...]) -> Schedule:
        return self

    @property
    def absolute(self) -> bool:
        """Whether the schedule gives the hyperparameter itself (a momentum of 0.85) instead of a factor of its initial
        value."""
        return any(part.absolute for part in self._parts())

    # Asking

    def __call__(self, step: int, group: int | str | None = None) -> float:
        """The factor of update number `step`, counting from 0.

        Args:
            step: at least 0 and at most the horizon.
            group: name or position of the group, for schedules with factors per group.

        Raises UsageError below 0, past the horizon, or if a length still depends on the run (see `over`).
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
        """The step at which the schedule is complete, inf if never; read at every step."""
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
        """The number of updates of the schedule; None if it never ends."""
        if not self.resolved:
            raise UsageError(
                f"{self} has a part whose length depends on the run; call .over(total_steps) with the length of the run"
            )
        length = self._length()
        return None if self._holds or length == math.inf else int(length)  # type: ignore[arg-type]

    def over(self, total_steps: int) -> Schedule:
        """The schedule for a run of `total_steps` updates, with every length in steps.

        Fractions are of the whole run; a part without length gets the remaining steps.

        >>> warmup(0.05).then(cosine(to=0.1)).over(10_000)
        warmup(500).then(cosine(9500, to=0.1))

        Raises UsageError if the schedule does not fit the run (see `check`).
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
                f"omit the length of one part, as in cosine(to=0.1), so that it gets the remaining steps"
            )
        if horizon is not None and horizon < total:
            raise UsageError(
                f"{self} is {horizon} steps long and the run has {total}: {total - horizon} updates would have "
                f"no rate; make it longer, or end it with .hold()"
            )
        begins = self._last_begins()
        if begins >= total and begins > 0:
            raise UsageError(
                f"the last part of {self} begins at step {begins} and the run has {total}: the part is never reached; "
                f"shorten the parts before it"
            )

    def _warmup(self) -> int:
        """The number of steps of a warmup at the beginning of the schedule, as far as known."""
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
        """Steps with a kink or jump; plots always include them."""
        return tuple(join for part in self._parts() for join in part._joins())

    # Composing

    def then(self, following: Schedule) -> Schedule:
        """This schedule, followed by `following` from the step at which this schedule is complete.

        `following` counts its steps from 0. Raises UsageError if this schedule never ends.

        >>> warmup(2).then(step(3, gamma=0.5)).values(8)
        [0.5, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5]
        """
        if not isinstance(following, Schedule):
            raise UsageError(f"then({shown(following)}); it must be a schedule, as in .then(cosine(9500))")
        return self._methods.then(self, following)

    def hold(self) -> Schedule:
        """This schedule, which then holds its final value indefinitely."""
        return self if self._holds or self._length() == math.inf else self._methods.hold(self)

    def until(self, steps: int | float) -> Schedule:
        """The first `steps` steps of this schedule, so that another schedule can follow a schedule that never ends."""
        return self._methods.until(self, steps)

    def between(self, low: float, high: float) -> Schedule:
        """The hyperparameter itself instead of a factor: `low` where the factor is 0, `high` where it is 1.

        >>> warmup(300).between(0.85, 0.95)(299)  # a momentum that rises from 0.85 to 0.95
        0.95
        """
        return self._methods.between(self, low, high)

    def __mul__(self, other: Schedule | float) -> Schedule:
        """The product, step by step, with a number or with another schedule."""
        if isinstance(other, Schedule):
            return self._methods.product((self, other))
        return self._methods.scaled(self, other)

    __rmul__ = __mul__

    def per_group(self, factors: Mapping[int | str, Schedule | float]) -> Schedule:
        """Different factors for some groups: a number multiplies this schedule, a schedule replaces it.

        Args:
            factors: a dict by the group's name (`group["name"]`, or a glob such as "layer 1*") or by its position. The
                first match counts; groups without a match follow this schedule.

        >>> s = cosine(1000).per_group({"head": 10, "embedding": constant()})
        >>> s(0, "head"), s(500, "embedding"), s(500, "body")
        (10.0, 1.0, 0.5)
        """
        if not isinstance(factors, Mapping):
            raise UsageError(f"per_group({shown(factors)}); it must be a dict of factors by group, as {{'head': 10}}")
        given = mapping("per_group", "factors", factors, "a dict of factors by group, as {'head': 10}")
        return self._methods.per_group(self, tuple(given.items()))

    def for_group(self, group: int | str, position: int | None = None) -> Schedule:
        """The schedule of one group, without the factors of the others."""
        parts = self._parts()
        chosen = tuple(part.for_group(group, position) for part in parts)
        return self if all(a is b for a, b in zip(parts, chosen, strict=True)) else self._with_parts(chosen)

    def of_groups(self, groups: list[dict[str, Any]]) -> list[Schedule]:
        """The schedule of each group of an optimizer; computed again only if the names of the groups have changed."""
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
        """The names and positions given to `per_group`."""
        return tuple(key for part in self._parts() for key in part.group_keys())

    # Looking

    def values(self, steps: int | None = None) -> list[float]:
        """The factors of the first `steps` updates (by default of all, if the schedule ends)."""
        count = whole("values", "steps", self._count(steps), least=1, most=_LISTED)
        return [self(step) for step in range(count)]

    def _count(self, steps: int | None) -> int:
        if steps is not None:
            return whole("", "steps", steps, least=1)
        if not self.resolved or self.horizon is None:
            raise UsageError(f"{self} never ends; pass the number of steps to show")
        return self.horizon

    def plot(self, ax: Any = None, *, lr: float = 1.0, steps: int | None = None) -> Any:
        """Plot the schedule; returns matplotlib's Axes.

        Args:
            ax: axes to draw into; new ones by default.
            lr: the value that the factors multiply.
            steps: how many updates to show; the horizon by default.

        Raises MissingExtra without matplotlib.
        """
        return self._methods.plot(self, ax=ax, lr=lr, steps=steps)

    def _repr_html_(self) -> str:
        """The expression and a small picture, for notebooks."""
        return self._methods.html(self)

    def __str__(self) -> str:
        return repr(self)

    def __repr__(self) -> str:
        """The expression that makes the schedule; `parse` reads it back."""
        shown: list[str] = []
        for position, field in enumerate(fields(self)):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value is field.default or (type(value) is type(field.default) and value == field.default):
                continue
            text = literal(value)
            shown.append(text if len(shown) == position == 0 else f"{field.name}={text}")
        return f"{type(self).__name__}({', '.join(shown)})"


def _step(step: Any, owner: Schedule) -> int:
    plain = plain_number(step)
    if type(plain) is not int:
        raise UsageError(f"step {shown(step)} of {owner} is not a whole number; updates are counted 0, 1, 2, ...")
    if plain < 0:
        raise UsageError(f"step {shown(plain)} of {owner} is below 0; the first update is number 0")
    if plain > MOST:
        raise refusal("", f"step of {owner}", step, "at most 2^53", "no run has so many steps")
    return plain


def literal(value: Any) -> str:
    """The value of a field as written in the expression of its schedule."""
    if isinstance(value, tuple):
        return f"[{', '.join(literal(item) for item in value)}]"
    if callable(value) and not isinstance(value, Schedule):
        name = getattr(value, "__qualname__", None)
        return name if isinstance(name, str) else shown(value)
    return repr(value)
