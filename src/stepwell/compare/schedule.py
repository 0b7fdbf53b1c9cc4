"""The schedule that all optimizers of a comparison share: linear warmup, then cosine decay to zero."""

from __future__ import annotations

import math

WARMUP = 0.05  # of the run: enough for adaptive moments to settle, too little to matter for the rest
NAME = "linear warmup over the first 5 % of the steps, then cosine decay to 0"


def factor(step: int, steps: int) -> float:
    """What the peak learning rate is multiplied by at `step`, 0 <= step < steps; between 0 and 1.

    The first step already moves, the last one ends just above zero: no step of the budget is wasted.

    >>> [round(factor(step, 100), 2) for step in (0, 4, 5, 52, 99)]
    [0.2, 1.0, 1.0, 0.51, 0.0]
    """
    warmup = max(1, round(WARMUP * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
