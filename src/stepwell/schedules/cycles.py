"""Schedules that go up and down: one cycle, triangles, and cosine with warm restarts; and the momentum for them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

from stepwell.arguments import number
from stepwell.errors import UsageError, shown
from stepwell.schedules.base import Schedule
from stepwell.schedules.fields import called, settle, settle_choice, settle_count, settle_flag
from stepwell.schedules.shape import Endless, Shape


@dataclass(frozen=True, repr=False)
class one_cycle(Shape):
    """One rise to the full rate and one long fall to far below the starting rate. The optimizer's lr is the peak.

        up:   start -> 1     until update peak * n - 1
        down: 1 -> end       until update n - 1

    Args:
        steps: n, the whole run: steps, a fraction, or the steps that the other parts leave (None).
        peak: the position of the full rate, as a fraction of the steps, in (0, 1). Below 0.5 for `three_phase`.
        start: the factor at the beginning, at least 0 (torch's 1 / div_factor).
        end: the factor of the last update, at least 0 (torch's start / final_div_factor).
        shape: "cosine" or "linear".
        three_phase: fall to `start` as fast as the rise, then to `end`, as in the paper.

    As in torch, and unlike the other schedules here, the last update (n - 1) uses the end value itself.
    `with_momentum` adds the matching momentum.

    Source: Smith, Topin, "Super-convergence", 1708.07120; the cosine, in two phases, is fastai's.

    >>> s = one_cycle(100)
    >>> s(0), s(29), s(99)
    (0.04, 1.0, 4e-06)
    """

    peak: float = 0.3
    start: float = 0.04
    end: float = 4e-6
    shape: str = "cosine"
    three_phase: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        settle_flag(self, "three_phase")
        settle(self, "peak", above=0, most=0.5 if self.three_phase else 1)
        settle(self, "start", least=0)
        settle(self, "end", least=0)
        settle_choice(self, "shape", ("cosine", "linear"))
        if isinstance(self.steps, int) and self.peak * self.steps < 1:
            raise UsageError(f"{self}: the peak is before the first update; use more steps or a later peak")

    def _at(self, step: int) -> float:
        return self._walk(step, self.start, 1.0, self.end)

    def _walk(self, step: int, first: float, top: float, last: float) -> float:
        up = self.peak * self._n - 1
        corners = [(0.0, first), (up, top), (self._n - 1.0, last)]
        if self.three_phase:
            corners.insert(2, (2 * up, first))
        step = min(step, self._n - 1)
        (begin, low), (end, high) = next(pair for pair in pairwise(corners) if step <= pair[1][0])
        done = (step - begin) / (end - begin) if end > begin else 1.0
        if self.shape == "cosine":
            done = (1 - math.cos(math.pi * done)) / 2
        return low * (1 - done) + high * done  # exact at both ends

    def with_momentum(self, low: float = 0.85, high: float = 0.95) -> dict[str, Schedule]:
        """This schedule for lr, and momentum that falls from `high` to `low` while the rate rises, and back.

        Both in [0, 1). Drives `momentum` if the optimizer has it, otherwise the first of `betas`.

        >>> scheduler = Scheduler(optimizer, one_cycle(1000).with_momentum(0.85, 0.95))
        """
        return {"lr": self, "momentum": one_cycle_momentum(*_fields(self), low, high)}


def _fields(cycle: one_cycle) -> tuple[int | float | None, float, float, float, str, bool]:
    return cycle.steps, cycle.peak, cycle.start, cycle.end, cycle.shape, cycle.three_phase


@dataclass(frozen=True, repr=False)
class one_cycle_momentum(one_cycle):
    """The momentum for a `one_cycle`: a value, not a factor. Made by `one_cycle(...).with_momentum()`.

    Args:
        low: momentum at the peak of the rate, in [0, 1).
        high: momentum at both ends, in [0, 1).
    """

    low: float = 0.85
    high: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, "low", least=0, most=1)
        settle(self, "high", least=0, most=1)

    @property
    def absolute(self) -> bool:
        return True

    def _at(self, step: int) -> float:
        return self._walk(step, self.high, self.low, self.high)


@dataclass(frozen=True, repr=False)
class cyclic(Endless):
    """Triangles between `low` and 1; never ends. The optimizer's lr is the upper bound.

        s = k / up while rising, (up + down - k) / down while falling, k counted within the cycle
        factor = low + (1 - low) * s * height

    Args:
        up: steps from low to high, at least 1.
        down: steps from high to low; equal to up by default.
        low: the factor at the bottom, at least 0 (torch's base_lr / max_lr).
        mode: the height: "triangular" 1; "triangular2" halves in each cycle; "exp_range" gamma ^ k.
        gamma: for "exp_range", above 0.
        height: a function that replaces the mode, of the cycle (counted from 1) or of the step, see `height_of`.
        height_of: "cycle" or "step".

    Source: Smith, "Cyclical learning rates for training neural networks", 1506.01186.

    >>> cyclic(2, low=0.5).values(5)
    [0.5, 0.75, 1.0, 0.75, 0.5]
    """

    up: int
    down: int | None = None
    low: float = 0.1
    mode: str = "triangular"
    gamma: float = 1.0
    height: Callable[[int], float] | None = None
    height_of: str = "cycle"

    def __post_init__(self) -> None:
        settle_count(self, "up")
        if self.down is not None:
            settle_count(self, "down")
        settle(self, "low", least=0)
        settle(self, "gamma", above=0)
        settle_choice(self, "mode", ("triangular", "triangular2", "exp_range"))
        settle_choice(self, "height_of", ("cycle", "step"))
        if self.gamma != 1.0 and self.mode != "exp_range":
            raise UsageError(
                f"cyclic: gamma={self.gamma!r} has no effect with mode={self.mode!r}; use mode='exp_range'"
            )
        if self.height is not None and not callable(self.height):
            raise UsageError(f"cyclic: height={shown(self.height)}; it must be a function of the {self.height_of}")

    def _at(self, step: int) -> float:
        down = self.up if self.down is None else self.down
        cycle, place = divmod(step, self.up + down)
        scale = place / self.up if place <= self.up else (self.up + down - place) / down
        return self.low + (1 - self.low) * scale * self._height(step, cycle + 1)

    def _height(self, step: int, cycle: int) -> float:
        if self.height is not None:
            return called(self, self.height, cycle if self.height_of == "cycle" else step)
        if self.mode == "triangular2":
            return 0.5 ** (cycle - 1)
        return float(self.gamma) ** step if self.mode == "exp_range" else 1.0

    def with_momentum(self, low: float = 0.8, high: float = 0.9) -> dict[str, Schedule]:
        """This schedule for lr, and a momentum that is `high` at the lowest rate and `low` at the highest.

        >>> scheduler = Scheduler(optimizer, cyclic(200).with_momentum())
        """
        low = number("with_momentum", "low", low, least=0, most=1)
        high = number("with_momentum", "high", high, least=0, most=1)
        return {"lr": self, "momentum": replace(self, low=0.0).between(high, low)}


@dataclass(frozen=True, repr=False)
class cosine_restarts(Endless):
    """Half a cosine from 1 to `to`, repeated; never ends.

        factor = to + (1 - to) * (1 + cos(pi * k / n)) / 2, k counted within the cycle of n steps

    Args:
        first: steps of the first cycle, at least 1.
        mult: ratio of the lengths of successive cycles, at least 1.
        to: the factor at the end of a cycle, at least 0.
        decay: ratio of the peaks of successive cycles, in (0, 1]; the paper and torch use 1.

    Source: Loshchilov, Hutter, "SGDR: stochastic gradient descent with warm restarts", 1608.03983, equation 5.

    >>> cosine_restarts(2, mult=2).values(7)
    [1.0, 0.5, 1.0, 0.8535533905932737, 0.5, 0.14644660940672627, 1.0]
    """

    first: int
    mult: int = 1
    to: float = 0.0
    decay: float = 1.0

    def __post_init__(self) -> None:
        settle_count(self, "first")
        settle_count(self, "mult")
        settle(self, "to", least=0)
        settle(self, "decay", above=0, most=1)

    def _at(self, step: int) -> float:
        length, cycle = self.first, 0
        if self.mult == 1:
            cycle, step = divmod(step, length)
        else:
            while step >= length:
                step -= length
                length *= self.mult
                cycle += 1
        peak = self.decay**cycle
        return self.to + (peak - self.to) * (1 + math.cos(math.pi * step / length)) / 2
