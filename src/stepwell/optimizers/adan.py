"""Adan: Adam with Nesterov momentum written in differences of gradients.

change         = g - pre_grad                                    (0 at the first step)
exp_avg       <- beta1 * exp_avg      + (1 - beta1) * g
exp_avg_diff  <- beta2 * exp_avg_diff + (1 - beta2) * change
exp_avg_sq    <- beta3 * exp_avg_sq   + (1 - beta3) * (g + beta2 * change)**2
direction      = (exp_avg / (1 - beta1**t) + beta2 * exp_avg_diff / (1 - beta2**t))
                 / (sqrt(exp_avg_sq / (1 - beta3**t)) + eps)
p             <- (p - lr * direction) / (1 + lr * weight_decay), or no_prox: p - lr * weight_decay * p - lr * direction
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepwell.engine import Optimizer, Options, Params, Slot, Unpack, hyperparameters
from stepwell.ops import debias, ema, ema_square, sqrt, where
from stepwell.optimizers.facts import Facts
from stepwell.optimizers.memory import ONLY_MEAN


def update(
    g, p, t, exp_avg, exp_avg_sq, exp_avg_diff, pre_grad, *, lr, weight_decay, beta1, beta2, beta3, eps, no_prox
):
    change = where(t == 1, 0, g - pre_grad)
    ahead = g + beta2 * change
    exp_avg = ema(exp_avg, g, beta1)
    exp_avg_diff = ema(exp_avg_diff, change, beta2)
    exp_avg_sq = ema_square(exp_avg_sq, ahead, beta3)
    direction = debias(exp_avg, beta1, t) + beta2 * debias(exp_avg_diff, beta2, t)
    direction = direction / (sqrt(debias(exp_avg_sq, beta3, t)) + eps)
    # (p - lr * direction) / (1 + lr * weight_decay), as a step from p
    step = lr * direction if no_prox else (direction + weight_decay * p) * (lr / (1 + lr * weight_decay))
    return step, exp_avg, exp_avg_sq, exp_avg_diff, g


class Adan(Optimizer):
    """Adan: Nesterov momentum with an average of gradient changes; tolerates large learning rates and long schedules.

    Use it for vision transformers and masked autoencoders, and where few epochs must do. Cost: four slots, twice
    AdamW's state. Against AdamW: lr 5 to 10 times larger, weight_decay 0.02; its authors train vision models at batches
    of 2,048.

    Args:
        params, options: as for every optimizer (see `stepwell.Optimizer`).
        lr: learning rate, at least 0.
        betas: decay rates (beta1, beta2, beta3) of the averages of gradient, change and square, each in [0, 1). The
            paper's betas are 1 minus these.
        eps: added to the denominator for numerical stability, at least 0.
        weight_decay: at least 0; after the step the weights are divided by 1 + lr * weight_decay.
        no_prox: shrink the weights by lr * weight_decay before the step instead, as AdamW does.

    Reference: Xie et al., "Adan: adaptive Nesterov momentum algorithm for faster optimizing deep models", arXiv
    2208.06677, algorithm 1. As in the authors' code, averages start at zero and are bias-corrected, which the paper
    does not do. Unlike in their code, every parameter has its own step count, and clipping by norm is left to
    `stepwell.Step`.

    >>> optimizer = Adan(model.parameters(), lr=5e-3, weight_decay=0.02)
    """

    rule, decay = update, None
    slots = (
        Slot("exp_avg", memory="beta1"),
        Slot("exp_avg_sq", signed=False, memory="beta3"),
        Slot("exp_avg_diff", memory="beta2"),
        Slot("pre_grad", memory=0),
    )
    decay_by_rule = "decoupled"
    memory = ONLY_MEAN
    facts = Facts(
        lr={"default": (3e-4, 3e-2), "cnn": (1e-3, 1e-1), "transformer": (3e-4, 3e-2), "toy": (1e-3, 1.0)},
        source="Xie et al. 2208.06677, its code (5 to 10 times AdamW's: ResNet-50 3e-2, ViT 1.5e-2; BERT 1e-3)",
        lr_against_adamw=5.0,
        needs_warmup=True,
    )

    def __init__(
        self, params: Params, lr: float = 1e-3, betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
        eps: float = 1e-8, weight_decay: float = 0.0, no_prox: bool = False, **options: Unpack[Options],
    ) -> None:  # fmt: skip
        super().__init__(params, hyperparameters(locals()), options)

    def decay_of(self, group: Mapping[str, Any]) -> str | None:
        return "decoupled" if group["no_prox"] else None
