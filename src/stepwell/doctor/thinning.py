"""Long columns made short enough for a page, without losing their spikes; and moving averages."""

from __future__ import annotations

import math
from collections.abc import Sequence

MOST = 1200  # points of a curve: more than the pixels of a chart


def thinned(x: Sequence[int], y: Sequence[float | None], most: int = MOST) -> tuple[list[int], list[float | None]]:
    """At most `most` points of a curve: the lowest and the highest of each stretch, and the ends.

    A value that is missing or not finite becomes a gap.

    >>> thinned(range(6), [0.0, 9.0, 0.0, 1.0, -1.0, 0.0], most=4)
    ([0, 1, 4, 5], [0.0, 9.0, -1.0, 0.0])
    """
    finite = [value if value is not None and math.isfinite(value) else None for value in y]
    if len(finite) <= most:
        return list(x), finite
    stretches = max(1, most // 2 - 1)
    kept = [0]
    for number in range(stretches):
        places = range(number * len(finite) // stretches, (number + 1) * len(finite) // stretches)
        known = [(value, at) for at in places if (value := finite[at]) is not None]
        kept += sorted({min(known)[1], max(known)[1]}) if known else [places[0]]
    kept = sorted({*kept, len(finite) - 1})
    return [x[at] for at in kept], [finite[at] for at in kept]


def evenly(count: int, most: int) -> list[int]:
    """At most `most` places out of `count`, evenly spaced, with the first and the last.

    >>> evenly(9, 3), evenly(2, 5)
    ([0, 4, 8], [0, 1])
    """
    if count <= most:
        return list(range(count))
    return sorted({round(number * (count - 1) / (most - 1)) for number in range(most)})


def smoothed(y: Sequence[float | None], span: int) -> list[float | None]:
    """The exponential moving average over about `span` values, unbiased from the first value on.

    Missing values and values that are not finite do not enter, and stay in their places.

    >>> smoothed([2.0, None, 4.0, math.inf], 3)
    [2.0, None, 3.3333333333333335, inf]
    """
    keep = 1 - 2 / (span + 1)
    total = weight = 0.0
    made: list[float | None] = []
    for value in y:
        if value is None or not math.isfinite(value):
            made.append(value)
            continue
        total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
        made.append(total / weight)
    return made


def shares(x: Sequence[int], y: Sequence[bool | None], most: int = 60) -> tuple[list[float], list[float | None]]:
    """The share of True in successive stretches of x, at most `most`, at the middle of each.

    >>> shares([1, 2, 3, 4], [True, False, True, True], most=2)
    ([1.5, 3.5], [0.5, 1.0])
    """
    stretches = min(most, len(x))
    middles: list[float] = []
    made: list[float | None] = []
    for number in range(stretches):
        low, high = number * len(x) // stretches, (number + 1) * len(x) // stretches
        known = [flag for flag in y[low:high] if flag is not None]
        middles.append((x[low] + x[high - 1]) / 2)
        made.append(sum(known) / len(known) if known else None)
    return middles, made
