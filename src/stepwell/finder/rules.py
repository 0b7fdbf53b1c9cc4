"""Rules that read a learning rate from a curve of losses over rates. Each rule is a pure function; indices count from
0.

The losses are first smoothed without lag (see `smooth`), and end where the sweep stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def debiased(losses: Sequence[float], beta: float) -> Array:
    """The running average as it is while sweeping: a_t = sum_k beta^(t-k) l_k / sum_k beta^(t-k), k = 0..t."""
    result, total, weight = [], 0.0, 0.0
    for value in losses:
        total, weight = beta * total + value, beta * weight + 1.0
        result.append(total / weight)
    return np.array(result)


def kernel(points: int, width: float) -> Array:
    """Row i: the weights with which `smooth` averages the losses for point i; they add up to 1."""
    places = np.arange(points)
    weights = np.exp(-0.5 * (np.subtract.outer(places, places) / width) ** 2)
    return weights / weights.sum(1, keepdims=True)


def smooth(losses: Array, width: float) -> Array:
    """The average of each loss and its neighbors on both sides, with weights exp(-(distance / width)^2 / 2): no lag.

    A running average lags by about beta / (1 - beta) points, and would move every suggestion up. Weights with a long
    tail, such as beta^distance, spread the divergence at the end into the middle: the lowest point of the task `bytes`
    with SGD came out 5 times too low.
    """
    return kernel(len(losses), width) @ losses


def capped(losses: Array) -> Array:
    """[orders, n] losses, capped so that no loss is further above the start than the lowest loss is below it.

    The height of a diverging loss says nothing about good rates.
    """
    began = float(losses[:, : max(3, losses.shape[1] // 10)].mean())
    drop = began - float(np.median(losses, 0).min())
    return np.minimum(losses, began + drop) if drop > 0 else losses


def steep(lrs: Array, losses: Array) -> float:
    """Where the loss falls most steeply per decade: argmin of d loss / d log(lr), before the lowest point."""
    end = max(2, int(np.argmin(losses)) + 1)
    slopes = np.gradient(losses[:end], np.log(lrs[:end]))
    return float(lrs[int(np.argmin(slopes))])


def valley(lrs: Array, losses: Array) -> float:
    """The middle of the longest decreasing subsequence (fastai's default)."""
    length = np.ones(len(losses), dtype=int)
    for i in range(1, len(losses)):
        below = length[:i][losses[:i] > losses[i]]
        length[i] = 1 + (below.max() if len(below) else 0)
    end = int(np.argmax(length))
    start = max(0, end - int(length[end]))
    return float(lrs[start + (end - start) // 2])


def slide(lrs: Array, losses: Array) -> float:
    """Walk from the right with two points 15 % of the sweep apart until the loss has the same slope at both points; the
    answer is the left point.

    Slopes are per point of 100 and per drop of the curve, and count as the same within 0.005.
    """
    drop = float(losses[0] - losses.min()) or 1.0
    slopes = np.gradient(losses / drop) * len(losses) / 100
    gap = max(1, round(0.15 * len(losses)))
    right = len(losses) - 1
    while right - gap > 0 and abs(slopes[right] - slopes[right - gap]) > 0.005:
        right -= 1
    return float(lrs[max(0, right - gap)])


def minimum(lrs: Array, losses: Array) -> float:
    """A tenth of the rate with the lowest loss."""
    return float(lrs[int(np.argmin(losses))]) / 10


def between(lrs: Array, losses: Array) -> float:
    """The geometric mean of the rate of the steepest fall and the rate of the lowest loss.

    At the steepest point a model may only learn the frequencies of its classes, at a rate far below the rate that
    trains it; the lowest point is the edge of divergence. Measured by `bench/finder.py`.
    """
    return math.sqrt(steep(lrs, losses) * float(lrs[int(np.argmin(losses))]))


Rule = Callable[[Array, Array], float]
RULES: dict[str, Rule] = {"between": between, "steep": steep, "valley": valley, "slide": slide, "minimum": minimum}
