"""Schedules that run from one factor to another, or keep a constant factor."""

from __future__ import annotations

import math
from dataclasses import dataclass

from stepwell.errors import UsageError
from stepwell.schedules.base import Schedule
from stepwell.schedules.fields import settle, settle_choice
from stepwell.schedules.lengths import Length, steps_of
from stepwell.schedules.shape import Endless, Shape


@dataclass(frozen=True, repr=False)
class constant(Shape):
    """A constant factor; it never ends, unless `steps` is given.

    Args:
        steps: length in steps (int), a fraction of the run (float), or without end (None, the default).
        factor: at least 0.

    >>> constant(5, factor=1 / 3).then(constant()).values(7)[4:]  # torch's ConstantLR
    [0.3333333333333333, 1.0, 1.0]
    """

    factor: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, "factor", least=0)

    def _length(self) -> Length:
        return math.inf if self.steps is None else self.steps

    def _resolve(self, total: int, rest: int, before: float = 0.0) -> Schedule:
        return self if self.steps is None else super()._resolve(total, rest, before)

    def _at(self, step: int) -> float:
        return self.factor


@dataclass(frozen=True, repr=False)
class _Decay(Shape):
    """From 1 down (or up) to `to`."""

    to: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, "to", least=0)


@dataclass(frozen=True, repr=False)
class linear(_Decay):
    """A straight line from one factor to another.

        factor(k) = start + (to - start) * k / n

    Args:
        steps: n: steps, a fraction of the run, or the steps that the other parts leave (None).
        to: the factor at the end, at least 0. The last update, number n - 1, is one step before the end.
        start: the factor at the beginning, at least 0.

    >>> linear(4).values(), linear(4)(4)
    ([1.0, 0.75, 0.5, 0.25], 0.0)

    torch's LinearLR(start_factor=a, end_factor=b, total_iters=n) is `linear(n, start=a, to=b).hold()`.
    """

    start: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, "start", least=0)

    def _at(self, step: int) -> float:
        done = step / self._n
        return self.start * (1 - done) + self.to * done


@dataclass(frozen=True, repr=False)
class cosine(_Decay):
    """Half a cosine from 1 to `to`: slow, fast, slow.

        factor(k) = to + (1 - to) * (1 + cos(pi * k / n)) / 2

    Args:
        steps: n: steps, a fraction of the run, or the steps that the other parts leave (None).
        to: the factor at the end, at least 0; 0.1 and 0 are both common for language models.

    Source: Loshchilov, Hutter, "SGDR", 1608.03983, equation 5, without restarts (`cosine_restarts` has them).

    >>> [round(f, 3) for f in cosine(4, to=0.1).values(4)]
    [1.0, 0.868, 0.55, 0.232]

    torch's CosineAnnealingLR(T_max=n) rises again after n steps; this schedule raises UsageError, or holds with
    `.hold()`.
    """

    def _at(self, step: int) -> float:
        return self.to + (1 - self.to) * (1 + math.cos(math.pi * step / self._n)) / 2


@dataclass(frozen=True, repr=False)
class polynomial(_Decay):
    """A power of the remaining fraction of the run.

        factor(k) = to + (1 - to) * (1 - k / n) ^ power

    Args:
        steps: n: steps, a fraction of the run, or the steps that the other parts leave (None).
        to: the factor at the end, at least 0.
        power: above 0; 1 is a straight line, 0.9 is usual in segmentation, 2 falls early.

    Source: Chen et al., "DeepLab", 1606.00915, section 4.1 (the "poly" policy, power 0.9).

    >>> polynomial(4, power=2).values()
    [1.0, 0.5625, 0.25, 0.0625]
    """

    power: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, "power", above=0)

    def _at(self, step: int) -> float:
        return self.to + (1 - self.to) * (1 - step / self._n) ** self.power


@dataclass(frozen=True, repr=False)
class cooldown(_Decay):
    """The end of a run at a constant rate: a fast fall to `to`.

        factor(k) = 1 - (1 - to) * sqrt(k / n)           shape "1-sqrt"
                    1 - (1 - to) * k / n                 shape "linear"
                    as cosine                            shape "cosine"

    Args:
        steps: n: steps, a fraction of the run, or the steps that the other parts leave (None).
        to: the factor at the end, in [0, 1].
        shape: "1-sqrt", "linear" or "cosine".

    Source: Hagele et al., "Scaling laws and compute-optimal training beyond fixed training durations", 2405.18392,
    equation 2: 1-sqrt over 20 % of the run matches a cosine of the same length, and is better than linear.

    >>> constant(80).then(cooldown(20))(80 + 5)
    0.5
    """

    shape: str = "1-sqrt"

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, "to", least=0, most=1)
        settle_choice(self, "shape", ("1-sqrt", "linear", "cosine"))

    def _at(self, step: int) -> float:
        done = step / self._n
        if self.shape == "1-sqrt":
            done = math.sqrt(done)
        elif self.shape == "cosine":
            done = (1 - math.cos(math.pi * done)) / 2
        return (1 - done) + self.to * done


@dataclass(frozen=True, repr=False)
class stable(Shape):
    """The full value for the steps that the other parts leave: a `constant` whose length depends on the run.

    Args:
        steps: steps, a fraction of the run, or the steps that the other parts leave (None, the default).

    >>> warmup(50).then(stable()).then(cooldown(0.2)).over(1000)
    warmup(50).then(constant(750)).then(cooldown(200))
    """

    def _at(self, step: int) -> float:
        return 1.0

    def _resolve(self, total: int, rest: int, before: float = 0.0) -> Schedule:
        return constant(steps_of(self, self.steps, total, rest, before))


@dataclass(frozen=True, repr=False)
class exponential(Endless):
    """The same ratio at every step; never ends.

        factor(k) = gamma ^ k

    Args:
        gamma: the ratio of one step, above 0; 0.999 halves in 693 steps. For a given end value use `exponential_to`.

    >>> exponential(0.5).values(4)
    [1.0, 0.5, 0.25, 0.125]
    """

    gamma: float

    def __post_init__(self) -> None:
        settle(self, "gamma", above=0)

    def _at(self, step: int) -> float:
        try:
            return float(self.gamma) ** step
        except OverflowError:
            raise UsageError(
                f"{self} is larger than any number at step {step}; use gamma of at most 1, or fewer steps"
            ) from None


@dataclass(frozen=True, repr=False)
class exponential_to(Shape):
    """The same ratio at every step, with the value `to` after n steps.

        factor(k) = to ^ (k / n)

    Args:
        steps: n: steps, a fraction of the run, or the steps that the other parts leave (None).
        to: the factor at the end, above 0.

    >>> [round(f, 6) for f in exponential_to(3, to=0.001).values()]
    [1.0, 0.1, 0.01]
    """

    to: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, "to", above=0)

    def _at(self, step: int) -> float:
        return self.to ** (step / self._n)
