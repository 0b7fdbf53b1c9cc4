"""Ranks with their uncertainty, and performance profiles over several tasks."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Mapping, Sequence

from stepwell.compare.search import Direction

DRAWS = 2000
SHARE = 0.9  # of the draws lie in an interval


def ranks(medians: Mapping[str, float], direction: Direction) -> dict[str, float]:
    """1 for the best; equal values share the mean of their places.

    >>> ranks({"a": 0.9, "b": 0.7, "c": 0.9}, "max")
    {'a': 1.5, 'b': 3.0, 'c': 1.5}
    """
    sign = -1 if direction == "max" else 1
    return {
        name: 0.5
        + sum(sign * other < sign * value for other in medians.values())
        + 0.5 * sum(other == value for other in medians.values())
        for name, value in medians.items()
    }


def intervals(values: Mapping[str, Sequence[float]], direction: Direction) -> dict[str, tuple[int, int]]:
    """The places that each optimizer gets in 90 % of the draws, when seeds are drawn again with replacement.

    With few seeds the intervals are wide, as they should be: one seed says nothing about the others.

    Args:
        values: the final metric of each seed, by optimizer; those without any are left out.

    >>> intervals({"a": [0.9, 0.91, 0.92], "b": [0.5, 0.6, 0.55]}, "max")
    {'a': (1, 1), 'b': (2, 2)}
    """
    kept = {name: list(own) for name, own in values.items() if own}
    chance = random.Random(0)  # the same intervals for the same outcomes
    places: dict[str, list[float]] = {name: [] for name in kept}
    for _ in range(DRAWS):
        drawn = {name: statistics.median(chance.choices(own, k=len(own))) for name, own in kept.items()}
        for name, place in ranks(drawn, direction).items():
            places[name].append(place)
    found = {}
    for name, seen in places.items():
        seen.sort()
        cut = int((1 - SHARE) / 2 * DRAWS)
        found[name] = (math.floor(seen[cut]), math.ceil(seen[-1 - cut]))
    return found


def profile(costs: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, list[tuple[float, float]]]:
    """Performance profiles: the share of runs in which an optimizer needed at most t times the steps of the best one.

    Source: Dolan and Moré, Benchmarking Optimization Software with Performance Profiles, 2002.

    Args:
        costs: for each task: the steps to the target of every seed, by optimizer; infinity where it was missed.

    Returns points (t, share), by optimizer; the share after each t is constant up to the next.

    >>> profile([{"a": [10.0], "b": [20.0]}, {"a": [30.0], "b": [15.0]}])
    {'a': [(1.0, 0.5), (2.0, 1.0)], 'b': [(1.0, 0.5), (2.0, 1.0)]}
    """
    ratios: dict[str, list[float]] = {}
    for task in costs:
        best = min((statistics.median(own) for own in task.values() if own), default=math.inf)
        if not math.isfinite(best):
            continue  # nobody reached the target
        for name, own in task.items():
            ratios.setdefault(name, []).extend(max(1.0, cost / best) for cost in own)
    found = {}
    for name, own in ratios.items():
        points = sorted({ratio for ratio in own if math.isfinite(ratio)})
        found[name] = [(point, sum(ratio <= point for ratio in own) / len(own)) for point in points]
    return found
