"""What the slots of an optimizer mean to another optimizer: each class declares its slots' meaning as `memory`.

Two estimates are kept by several optimizers: the mean of the gradients, m, and the mean of their squares, v. After t
steps of a tensor,

    slot = weight(t) * m    with weight  1 - beta**t for an average that starts at 0 (Adam's exp_avg)
                                         1 for an average with the bias correction in its decay (StableAdamW)
                                         the sum of the remaining weights of all gradients, for a sum (SGD's
                                         momentum_buffer)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

# The weight of a mean in a slot, from the group's hyperparameters and the number of steps; None where the slot also
# contains something else.
Weight = Callable[[Mapping[str, Any], float], float | None]


@dataclass(frozen=True)
class Memory:
    """The slots that hold the mean of gradients and the mean of squares: (slot, weight), or None."""

    mean: tuple[str, Weight] | None
    square: tuple[str, Weight] | None = None


def beta1_average(group: Mapping[str, Any], t: float) -> float:
    """The weight of an average with decay betas[0] that starts at 0."""
    return 1 - group["betas"][0] ** t


def beta2_average(group: Mapping[str, Any], t: float) -> float:
    """The weight of an average with decay betas[1] that starts at 0."""
    return 1 - group["betas"][1] ** t


def corrected(group: Mapping[str, Any], t: float) -> float:
    """The weight of an average that is bias-corrected at every step."""
    return 1.0


BOTH_MEANS = Memory(("exp_avg", beta1_average), ("exp_avg_sq", beta2_average))
ONLY_MEAN = Memory(("exp_avg", beta1_average))
