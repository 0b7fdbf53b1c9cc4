"""What the slots of an optimizer mean to another one: each optimizer declares it in its own file, as `memory`.

Two things are estimates that several optimizers keep: the mean of the gradients, m, and the mean of their squares, v.
With t steps of a tensor behind it,

    slot = weight(t) * m    with weight  1 - beta**t for an average that begins at 0 (Adam's exp_avg)
                                         1 for one that is corrected as it goes (StableAdamW)
                                         sum_i of what is left of gradient i for a sum (SGD's momentum_buffer)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

# The weight of a mean in a slot, from the group's hyperparameters and the number of steps; None where the slot holds
# something else, too.
Weight = Callable[[Mapping[str, Any], float], float | None]


@dataclass(frozen=True)
class Memory:
    """How an optimizer keeps the mean of gradients and that of squares: (slot, weight), None where it does not."""

    mean: tuple[str, Weight] | None
    square: tuple[str, Weight] | None = None


def beta1_average(group: Mapping[str, Any], t: float) -> float:
    """Of an average with decay betas[0] that begins at 0."""
    return 1 - group["betas"][0] ** t


def beta2_average(group: Mapping[str, Any], t: float) -> float:
    """Of an average with decay betas[1] that begins at 0."""
    return 1 - group["betas"][1] ** t


def corrected(group: Mapping[str, Any], t: float) -> float:
    """Of an average that is corrected for its start as it goes."""
    return 1.0


BOTH_MEANS = Memory(("exp_avg", beta1_average), ("exp_avg_sq", beta2_average))
ONLY_MEAN = Memory(("exp_avg", beta1_average))
