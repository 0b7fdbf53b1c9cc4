"""AdaBelief: Adam that divides by how far gradients deviate from their running mean.

exp_avg     <- beta1 * exp_avg     + (1 - beta1) * g
exp_avg_var <- beta2 * exp_avg_var + (1 - beta2) * (g - exp_avg) * (g - exp_avg) + eps
direction    = exp_avg / (1 - beta1**t)  /  (sqrt(exp_avg_var / (1 - beta2**t)) + eps)
p           <- p - lr * weight_decay * p - lr * direction
"""

from __future__ import annotations

from stepwell.engine import Optimizer, OptionsButDecay, Params, Slot, Unpack, hyperparameters
from stepwell.ops import debias, ema, ema_square, sqrt, where
from stepwell.optimizers.facts import Facts
from stepwell.optimizers.memory import ONLY_MEAN
from stepwell.optimizers.pieces import amsgrad
from stepwell.optimizers.radam import rectification


def update(g, p, t, exp_avg, exp_avg_var, max_exp_avg_var, *, beta1, beta2, eps, rectify):
    exp_avg = ema(exp_avg, g, beta1)
    deviation = g - exp_avg
    exp_avg_var = ema_square(exp_avg_var, deviation, beta2) + eps
    largest, max_exp_avg_var = amsgrad(max_exp_avg_var, exp_avg_var)
    m = debias(exp_avg, beta1, t)
    if rectify:
        trusted, r = rectification(t, beta2, 5)
        direction = where(trusted, m * (r * sqrt(1 - beta2**t)) / (sqrt(largest) + eps), m)
    else:
        direction = m / (sqrt(debias(largest, beta2, t)) + eps)
    return direction, exp_avg, exp_avg_var, max_exp_avg_var


class AdaBelief(Optimizer):
    """AdaBelief: large steps where gradients agree with their running mean, small steps where they deviate from it.

    Use it for convolutional networks and GANs, where its results come close to those of tuned SGD. Cost: two slots, as
    Adam. A gradient that never changes is divided by eps alone, so tune eps (1e-16 for transformers, 1e-8 for images).
    Against AdamW: the same lr.

    Args:
        params, options: as for every optimizer (see `stepwell.Optimizer`).
        lr: learning rate, at least 0.
        betas: decay rates (beta1, beta2) of the two averages, each in [0, 1).
        eps: at least 0; added in two places. The eps inside `exp_avg_var` accumulates.
        weight_decay: at least 0; each step shrinks the weights by lr * weight_decay.
        decoupled_weight_decay: False adds the decay to the gradient instead (L2 penalty).
        amsgrad: divide by the largest variance so far; one more slot.
        rectify: RAdam's rectification; on by default in the authors' code, not in the paper.

    Reference: Zhuang et al., "AdaBelief optimizer: adapting stepsizes by the belief in observed gradients", arXiv
    2010.07468, algorithm 2. The authors' `fixed_decay` (not multiplied by lr) is weight_decay / lr here. With
    `rectify`, `amsgrad` still divides by the largest variance. The authors' code then divides by the current variance,
    so amsgrad has no effect there.

    >>> optimizer = AdaBelief(model.parameters(), lr=1e-3, eps=1e-8, weight_decay=1e-2)
    """

    rule, decay = update, "decoupled"
    slots = (
        Slot("exp_avg", memory="beta1"),
        Slot("exp_avg_var", signed=False, memory="beta2"),
        Slot("max_exp_avg_var", when="amsgrad", signed=False),
    )
    memory = ONLY_MEAN
    facts = Facts(
        lr={"default": (1e-4, 1e-2), "cnn": (3e-4, 3e-2), "transformer": (1e-4, 1e-2), "toy": (1e-3, 1.0)},
        source="Zhuang et al. 2010.07468, the code's page (images 1e-3, LSTM 1e-3 or 1e-2, transformer 5e-4, GAN 2e-4)",
        needs_warmup=True,
    )

    def __init__(
        self, params: Params, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-16,
        weight_decay: float = 0.0, decoupled_weight_decay: bool = True, amsgrad: bool = False, rectify: bool = False,
        **options: Unpack[OptionsButDecay],
    ) -> None:  # fmt: skip
        super().__init__(params, hyperparameters(locals()), options)
