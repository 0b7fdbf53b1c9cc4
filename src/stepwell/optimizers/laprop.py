"""LaProp: the gradient is first divided by its running size; momentum averages the result.

exp_avg_sq <- beta2 * exp_avg_sq + (1 - beta2) * g * g
exp_avg    <- beta1 * exp_avg + (1 - beta1) * g / (sqrt(exp_avg_sq / (1 - beta2**t)) + eps)
direction   = exp_avg / (1 - beta1**t)
p          <- p - lr * weight_decay * p - lr * direction
"""

from __future__ import annotations

from stepwell.engine import Optimizer, Options, Params, Unpack, hyperparameters
from stepwell.ops import debias, ema, ema_square, sqrt
from stepwell.optimizers.adam import Adam
from stepwell.optimizers.facts import Facts
from stepwell.optimizers.pieces import amsgrad


def update(g, p, t, exp_avg, exp_avg_sq, max_exp_avg_sq, *, beta1, beta2, eps):
    exp_avg_sq = ema_square(exp_avg_sq, g, beta2)
    largest, max_exp_avg_sq = amsgrad(max_exp_avg_sq, exp_avg_sq)
    exp_avg = ema(exp_avg, g / (sqrt(debias(largest, beta2, t)) + eps), beta1)
    return debias(exp_avg, beta1, t), exp_avg, exp_avg_sq, max_exp_avg_sq


class LaProp(Optimizer):
    """LaProp: Adam with independent momentum and adaptivity, so that beta1 may exceed sqrt(beta2).

    Use it for noisy problems (reinforcement learning, GANs) that need a short memory of squares and a long momentum; at
    Adam's betas it behaves like Adam. Cost: two slots, as Adam. Against AdamW: the same lr or a little smaller.

    Args:
        params, options: as for every optimizer (see `stepwell.Optimizer`).
        lr: learning rate, at least 0.
        betas: decay rates (beta1, beta2) of the momentum and of the squares, each in [0, 1).
        eps: added to the denominator for numerical stability, at least 0.
        weight_decay: at least 0; each step shrinks the weights by lr * weight_decay.
        amsgrad: divide by the largest second moment so far; one more slot.

    Reference: Ziyin, Wang, Ueda, "LaProp: separating momentum and adaptivity in Adam", arXiv 2002.04839, algorithm 1.
    The authors' code multiplies by lr inside the momentum, which differs while a schedule changes lr, and subtracts
    weight_decay * p after the step, without lr.

    >>> optimizer = LaProp(model.parameters(), lr=4e-4, betas=(0.9, 0.99))
    """

    rule, slots, decay = update, Adam.slots, "decoupled"
    facts = Facts(
        lr={"default": (1e-4, 1e-2), "cnn": (3e-4, 3e-2), "transformer": (1e-4, 1e-2), "toy": (1e-3, 1.0)},
        source="Ziyin et al. 2002.04839, its code (4e-4; transformers as Adam: 3e-4 translation, 1e-4 RoBERTa)",
        needs_warmup=True,
    )

    def __init__(
        self, params: Params, lr: float = 4e-4, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-15,
        weight_decay: float = 0.0, amsgrad: bool = False, **options: Unpack[Options],
    ) -> None:  # fmt: skip
        super().__init__(params, hyperparameters(locals()), options)
