"""The search of one hyperparameter: a few values over its published range, then two at a time where the best one lies.

A search is a function of what it has seen, so that it can be stopped, resumed and shared. Values are spread on a log
scale. Where the lowest or the highest value may still be beaten from beyond, the next ones lie there: the range widens
by itself, and what that costs is part of the budget, which is the same for every optimizer.

The metric alone does not tell an end that is open. Lion on three spirals, with rates that are a hundred times too low,
ends near chance at every rate of its range, and the best of them is one in the middle by luck; the training loss falls
with every higher rate all the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

Direction = Literal["min", "max"]
Side = Literal["low", "high"]

FIRST = 4  # values of the first round; they know nothing of one another
LATER = 2  # of each further round
FINEST = math.log10(1.15)  # values that are nearer than this are not told apart
NARROW, WIDE = math.log10(2), 1.0  # a step beyond the range: at least a factor of 2, at most of 10


CLEAR = 0.1  # of what training has gained: an end that is worse by less may still be beaten from beyond
UNTRAINED = 0.2  # a training loss that has fallen by less says that the rates are too low, if more helps more


@dataclass(frozen=True)
class Seen:
    """What one value gave.

    Attributes:
        value: the value. final: the metric at the end; None if the run did not finish, or was cut as hopeless.
        begun: the metric before the first step.
        loss, first_loss: the training loss at the end and at the beginning; None if there is none.
    """

    value: float
    final: float | None
    begun: float | None = None
    loss: float | None = None
    first_loss: float | None = None


@dataclass(frozen=True)
class Axis:
    """One hyperparameter to be tuned.

    Attributes:
        name: "lr", "momentum", "beta1", "beta2", "weight_decay" or "warmup".
        low, high: the range of the first round.
        least, most: no value lies outside of these.
        from_one: whether `1 - value` is what is spread on a log scale, as for momentum.
    """

    name: str
    low: float
    high: float
    least: float = 1e-12
    most: float = 1e6
    from_one: bool = False

    def place(self, value: float) -> float:
        """Where a value lies on the log scale; more is larger."""
        return -math.log10(1 - value) if self.from_one else math.log10(value)

    def value(self, place: float) -> float:
        """The value at a place, with three digits."""
        raw = 10**-place if self.from_one else 10**place
        digits = float(f"{raw:.3g}")
        return round(1 - digits, 9) if self.from_one else digits

    def allows(self, value: float) -> bool:
        return self.least <= value <= self.most


def rounds(trials: int) -> list[int]:
    """How many values each round has.

    >>> rounds(9)
    [4, 2, 2, 1]
    """
    counts = [min(FIRST, trials)]
    while sum(counts) < trials:
        counts.append(min(LATER, trials - sum(counts)))
    return counts


def first(axis: Axis, count: int) -> list[float]:
    """One value from the middle of each of `count` equal slices of the range, on its log scale.

    >>> first(Axis("lr", 1e-4, 1.0), 4)
    [0.000316, 0.00316, 0.0316, 0.316]
    """
    low, high = axis.place(axis.low), axis.place(axis.high)
    return [axis.value(low + (index + 0.5) / count * (high - low)) for index in range(count)]


def best_value(seen: Sequence[Seen], direction: Direction) -> float | None:
    """The value with the best final metric; None if none finished.

    Equal metrics are common if the metric is a count (accuracy on few images). Then the middle of the equally good
    values is chosen, which is furthest from worse ones.

    >>> best_value([Seen(0.1, 0.5), Seen(0.2, 0.7), Seen(0.4, 0.7), Seen(0.8, 0.7)], "max")
    0.4
    """
    finals = [one.final for one in seen if one.final is not None]
    if not finals:
        return None
    best = max(finals) if direction == "max" else min(finals)
    equal = sorted({one.value for one in seen if one.final == best})
    return equal[len(equal) // 2]


def ends(seen: Sequence[Seen], direction: Direction) -> tuple[bool, bool]:
    """Whether better values may lie below the lowest and above the highest one tried.

    >>> ends([Seen(0.1, 0.5, 0.2), Seen(0.2, 0.7, 0.2), Seen(0.4, 0.9, 0.2)], "max")
    (False, True)
    """
    best = best_value(seen, direction)
    if best is None:
        return True, False  # every value failed: nearly always they were too large
    ordered = sorted(seen, key=lambda one: one.value)
    top = next(one for one in ordered if one.value == best and one.final is not None)
    low, high = ordered[0], ordered[-1]
    is_low = low.value == best or not _is_clearly_worse(low, top)
    is_high = high.value == best or not _is_clearly_worse(high, top) or is_untrained(seen, direction)
    return is_low, is_high


def is_untrained(seen: Sequence[Seen], direction: Direction) -> bool:
    """Whether no value trains much, and the highest one trains the most: the values are too low."""
    best = best_value(seen, direction)
    finished = [one for one in seen if one.final is not None and one.loss is not None and one.first_loss is not None]
    if best is None or len(finished) < 2 or max(one.value for one in seen) != max(one.value for one in finished):
        return False
    least = min(finished, key=lambda one: one.loss or 0.0)
    assert least.loss is not None
    assert least.first_loss is not None
    fallen = least.first_loss > 0 and least.first_loss - least.loss < UNTRAINED * least.first_loss
    return fallen and least.value == max(one.value for one in finished)


def _is_clearly_worse(end: Seen, top: Seen) -> bool:
    if end.final is None:
        return True
    assert top.final is not None
    gained = abs(top.final - top.begun) if top.begun is not None and math.isfinite(top.begun) else abs(top.final)
    return abs(end.final - top.final) > CLEAR * gained


def following(axis: Axis, seen: Sequence[Seen], count: int, direction: Direction, widen: bool = True) -> list[float]:
    """The values of a further round: beyond an end that may still be beaten, and around the best value.

    Args:
        seen: all values tried, those that failed included, one at least. count: how many values are wanted. There are
            fewer only where the whole axis is used up.
        direction: of the metric. widen: whether values may lie outside the range of the axis.

    >>> rate = Axis("lr", 1e-4, 1.0)
    >>> following(rate, [Seen(0.001, 0.5, 0.1), Seen(0.01, 0.9, 0.1), Seen(0.1, 0.7, 0.1)], 2, "max")
    [0.00316, 0.0316]
    >>> following(rate, [Seen(0.001, 0.5, 0.1), Seen(0.01, 0.7, 0.1), Seen(0.1, 0.9, 0.1)], 2, "max")
    [1.0, 10.0]
    """
    places = sorted({axis.place(one.value) for one in seen})
    found: list[float] = []

    def add(place: float) -> bool:
        value = axis.value(place)
        near = any(abs(axis.place(value) - other) < FINEST / 2 for other in (*places, *map(axis.place, found)))
        if not axis.allows(value) or near or len(found) >= count:
            return False
        found.append(value)
        return True

    best = best_value(seen, direction)
    at = places[0] if best is None else min(places, key=lambda place: abs(place - axis.place(best)))
    if widen:
        is_low, is_high = ends(seen, direction)
        usual = min(max((axis.place(axis.high) - axis.place(axis.low)) / FIRST, NARROW), WIDE)
        below = usual if len(places) < 2 else min(max(places[1] - places[0], NARROW), WIDE)
        above = usual if len(places) < 2 else min(max(places[-1] - places[-2], NARROW), WIDE)
        if best is None:
            below = WIDE
        further = count if best is None or at in (places[0], places[-1]) or is_untrained(seen, direction) else 1
        if is_high and is_low and len(places) > 1:
            further = 1
            if is_untrained(seen, direction):
                is_low, further = False, count
        for step in range(1, further + 1):
            if is_high:
                add(places[-1] + step * above)
            if is_low:
                add(places[0] - step * below)
    known = sorted({*places, *([] if widen else [axis.place(axis.low), axis.place(axis.high)])})
    gaps = [(one, other) for one, other in pairwise(known) if other - one > FINEST]
    gaps.sort(key=lambda gap: (_distance(at, gap) > FINEST, _distance(at, gap), gap[0] - gap[1]))
    for one, other in gaps:
        add((one + other) / 2)
    step = 1
    while len(found) < count and widen and step < 20:
        add(places[0] - step * NARROW)
        add(places[-1] + step * NARROW)
        step += 1
    return found


def _distance(at: float, gap: tuple[float, float]) -> float:
    return 0.0 if gap[0] <= at <= gap[1] else min(abs(at - gap[0]), abs(at - gap[1]))


def edge(axis: Axis, seen: Sequence[Seen], direction: Direction) -> Side | None:
    """ "low" or "high" if the best value is the lowest or the highest tried and values beyond are allowed, or if higher
    ones still train more where none trains much."""
    best = best_value(seen, direction)
    values = {one.value for one in seen}
    if best is None or len(values) < 2:
        return None
    if best == min(values) and axis.allows(axis.value(axis.place(best) - NARROW)):
        return "low"
    if best == max(values) and axis.allows(axis.value(axis.place(best) + NARROW)):
        return "high"
    return "high" if axis.name == "lr" and is_untrained(seen, direction) else None
