"""Piecewise constant schedules, and schedules from a function."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from stepwell.arguments import whole
from stepwell.errors import UsageError, shown
from stepwell.schedules.fields import called, settle, settle_count
from stepwell.schedules.shape import Endless

_MANY = 1_000_000  # milestones
_CALLS = 10_000_000  # of a function whose products are asked for


@dataclass(frozen=True, repr=False)
class step(Endless):
    """A fall by the same ratio every `every` steps; never ends.

        factor(k) = gamma ^ (k // every)

    Args:
        every: steps between two falls, at least 1.
        gamma: the ratio of one fall, above 0.

    Source: He et al. 1512.03385 (by 10, as the error plateaus). Steps count updates, not epochs: for a fall every 30
    epochs, `step(30 * updates_per_epoch)`.

    >>> step(2, gamma=0.5).values(6)
    [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    """

    every: int
    gamma: float = 0.1

    def __post_init__(self) -> None:
        settle_count(self, "every")
        settle(self, "gamma", above=0)

    def _at(self, step: int) -> float:
        return float(self.gamma) ** (step // self.every)


@dataclass(frozen=True, repr=False)
class multi_step(Endless):
    """A fall by the same ratio at given steps; never ends.

        factor(k) = gamma ^ (how many milestones are at or before k)

    Args:
        milestones: steps, rising, at least 1; update number m is the first after the fall at m. A milestone that is
            given twice counts twice.
        gamma: the ratio of one fall, above 0.

    >>> multi_step([2, 5]).values(6)
    [1.0, 1.0, 0.1, 0.1, 0.1, 0.010000000000000002]
    """

    milestones: Iterable[int]
    gamma: float = 0.1

    def __post_init__(self) -> None:
        try:
            if isinstance(self.milestones, (str, bytes)):
                raise TypeError
            given = list(islice(iter(self.milestones), _MANY + 1))
        except Exception:  # a method of the user's own may raise anything
            raise UsageError(
                f"multi_step: milestones={shown(self.milestones)}; it must be a list of steps, as in multi_step([300, "
                "600])"
            ) from None
        if len(given) > _MANY:
            raise UsageError(
                f"multi_step: milestones has more than {_MANY:,} entries; give only the steps at which the rate falls"
            )
        milestones = tuple(whole("multi_step", "a milestone", m, least=1) for m in given)
        if list(milestones) != sorted(milestones) or not milestones:
            raise UsageError(
                f"multi_step: milestones={shown(list(milestones))}; it must be steps in rising order, as in [300, 600]"
            )
        object.__setattr__(self, "milestones", milestones)
        settle(self, "gamma", above=0)

    def _at(self, step: int) -> float:
        assert isinstance(self.milestones, tuple)
        return float(self.gamma) ** bisect_right(self.milestones, step)

    def _last_begins(self) -> int:
        assert isinstance(self.milestones, tuple)
        return int(self.milestones[-1])

    def _joins(self) -> tuple[int, ...]:
        assert isinstance(self.milestones, tuple)
        return self.milestones


@dataclass(frozen=True, repr=False)
class from_function(Endless):
    """Any function of the step; never ends, unless `.until(n)` says so.

    Args:
        function: takes the number of the update, counting from 0, and returns the factor. It must be pure,
            with the same result for the same step, or a resumed run differs.

    torch's LambdaLR(lr_lambda=f) is `from_function(f)`.

    >>> from_function(lambda k: 1 / (1 + k)).values(3)
    [1.0, 0.5, 0.3333333333333333]
    """

    function: Callable[[int], float]

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise UsageError(
                f"from_function({shown(self.function)}); it must be a function of the step, as in lambda k: 0.95**k"
            )

    def _at(self, step: int) -> float:
        return called(self, self.function, step)


@dataclass(frozen=True, repr=False)
class product_of(Endless):
    """The running product of a function of the step; never ends.

        factor(k) = f(1) * f(2) * ... * f(k),  factor(0) = 1

    Args:
        function: takes the number of the update and returns the ratio to the previous factor. It must be pure.

    torch's MultiplicativeLR(lr_lambda=f) is `product_of(f)`. Asking for step k the first time costs k calls.

    >>> product_of(lambda k: 0.5).values(3)
    [1.0, 0.5, 0.25]
    """

    function: Callable[[int], float]

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise UsageError(
                f"product_of({shown(self.function)}); it must be a function of the step, as in lambda k: 0.95"
            )

    @cached_property
    def _known(self) -> list[float]:
        return [1.0]

    def _at(self, step: int) -> float:
        known = self._known
        if step > _CALLS:
            raise UsageError(f"{self}: step {step} needs as many calls of the function; at most {_CALLS:,} are allowed")
        while len(known) <= step:
            known.append(known[-1] * called(self, self.function, len(known)))
        return known[step]
