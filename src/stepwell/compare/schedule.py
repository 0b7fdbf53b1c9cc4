"""The schedules of a comparison: one for all, except for optimizers that are defined without a decay.

Which of them an optimizer runs is a fact of it (`Facts.schedule`), and no matter of taste: Schedule-Free averages its
iterates instead of a decay and loses under one; Rprop and L-BFGS find the length of a step themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable

WARMUP = 0.05  # of the run: enough for adaptive moments to settle, too little to matter for the rest
NAMES = {
    "decay": "linear warmup over the first 5 % of the steps, then cosine decay to 0",
    "warmup": "linear warmup over the first 5 % of the steps, then constant",
    "constant": "constant",
}


def factor(step: int, steps: int, schedule: str = "decay") -> float:
    """What the peak learning rate is multiplied by at `step`, 0 <= step < steps; above 0, at most 1.

    The first step already moves, the last one of a decay ends just above zero: no step of the budget is wasted.

    >>> [round(factor(step, 100), 2) for step in (0, 4, 5, 52, 99)]
    [0.2, 1.0, 1.0, 0.51, 0.0]
    >>> [round(factor(step, 100, "warmup"), 2) for step in (0, 4, 5, 52, 99)]
    [0.2, 1.0, 1.0, 1.0, 1.0]
    """
    return _FACTORS[schedule](step, steps)


def _warmup(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / _warmup_steps(steps))


def _decay(step: int, steps: int) -> float:
    warmup = _warmup_steps(steps)
    if step < warmup:
        return _warmup(step, steps)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def _constant(step: int, steps: int) -> float:
    return 1.0


def _warmup_steps(steps: int) -> int:
    return max(1, round(WARMUP * steps))


_FACTORS: dict[str, Callable[[int, int], float]] = {"decay": _decay, "warmup": _warmup, "constant": _constant}
