"""ADOPT: Adam whose second moment excludes the gradient that it divides, and whose momentum follows the division.

t = 1:  exp_avg_sq <- g * g, and p does not move
t > 1:  scaled      = clip(g / max(sqrt(exp_avg_sq), eps), (t - 1)**clip_power)
        exp_avg    <- beta1 * exp_avg + (1 - beta1) * scaled
        p          <- p - lr * weight_decay * p - lr * exp_avg
        exp_avg_sq <- beta2 * exp_avg_sq + (1 - beta2) * g * g
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepwell.engine import Optimizer, OptionsButDecay, Params, Range, Slot, Unpack, hyperparameters
from stepwell.ops import clamp, ema, ema_square, maximum, sqrt, where
from stepwell.optimizers.facts import Facts


def update(g, p, t, exp_avg, exp_avg_sq, *, lr, weight_decay, beta1, beta2, eps, clip_power, decoupled_weight_decay):
    scaled = g / maximum(sqrt(exp_avg_sq), eps)
    if clip_power is not None:
        limit = (t - 1) ** clip_power
        scaled = clamp(scaled, -limit, limit)
    exp_avg = where(t == 1, exp_avg, ema(exp_avg, scaled, beta1))
    exp_avg_sq = where(t == 1, g * g, ema_square(exp_avg_sq, g, beta2))
    direction = exp_avg + weight_decay * p if decoupled_weight_decay else exp_avg
    return where(t == 1, 0, lr) * direction, exp_avg, exp_avg_sq


class ADOPT(Optimizer):
    """ADOPT: Adam that converges with any beta2, where Adam needs a beta2 that suits the problem.

    Use it for noisy gradients and where Adam diverges late in training; elsewhere it behaves like AdamW. The first
    gradient of each parameter sets the scale and makes no step. Cost: two slots, as AdamW. Against AdamW: the same lr.

    Args:
        params, options: as for every optimizer (see `stepwell.Optimizer`).
        lr: learning rate, at least 0.
        betas: decay rates (beta1, beta2) of the two averages, each in [0, 1).
        eps: smallest denominator, at least 0; larger than Adam's because early second moments are not averaged yet.
        weight_decay: at least 0; each step shrinks the weights by lr * weight_decay.
        decoupled_weight_decay: False adds the decay to the gradient instead (L2 penalty), the default of the authors'
            code.
        clip_power: scaled gradients are clipped to (t - 1)**clip_power, at least 0; None: no clipping.

    Reference: Taniguchi et al., "ADOPT: modified Adam can converge with any beta2 with the optimal rate", arXiv
    2411.02853, algorithm 2 of the later versions. The first version had no clipping. Its code decayed the weights at
    the first gradient and started the momentum at full weight.

    >>> optimizer = ADOPT(model.parameters(), lr=1e-3, weight_decay=0.1)
    """

    rule, decay = update, "decoupled"
    slots = (Slot("exp_avg", memory="beta1"), Slot("exp_avg_sq", signed=False, memory="beta2"))
    decay_by_rule = "decoupled"
    ranges = {"clip_power": Range(0, optional=True)}
    facts = Facts(
        lr={"default": (1e-4, 1e-2), "cnn": (3e-4, 3e-2), "transformer": (1e-4, 1e-2), "toy": (1e-3, 1.0)},
        source="Taniguchi et al. 2411.02853, section 5, appendix, code's page (1e-3 ImageNet, 6e-4 GPT-2, as Adam)",
        needs_warmup=True,
    )

    def __init__(
        self, params: Params, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.9999), eps: float = 1e-6,
        weight_decay: float = 0.0, decoupled_weight_decay: bool = True, clip_power: float | None = 0.25,
        **options: Unpack[OptionsButDecay],
    ) -> None:  # fmt: skip
        super().__init__(params, hyperparameters(locals()), options)

    def decay_of(self, group: Mapping[str, Any]) -> str | None:
        return None if group["decoupled_weight_decay"] else "coupled"  # decoupled decay is in the rule: none at step 1
