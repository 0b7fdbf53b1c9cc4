"""NovoGrad: one second moment per tensor, that of the gradient's norm; momentum of normalized gradients.

exp_avg_sq <- beta2 * exp_avg_sq + (1 - beta2) * ||g||**2        (one number per tensor; the first: ||g||**2)
u           = g / (sqrt(exp_avg_sq) + eps) + weight_decay * p
exp_avg    <- beta1 * exp_avg + u                                (the first: u)
p          <- p - lr * exp_avg
"""

from __future__ import annotations

from stepwell.engine import Optimizer, Options, Params, Slot, Unpack, hyperparameters
from stepwell.ops import sqrt, where
from stepwell.optimizers.facts import Facts


def measure(g, p, t, exp_avg, exp_avg_sq):
    return {"g_squared": g * g}


def update(g, p, t, exp_avg, exp_avg_sq, *, beta1, beta2, eps, weight_decay, grad_averaging, g_squared):
    exp_avg_sq = where(t == 1, g_squared, beta2 * exp_avg_sq + (1 - beta2) * g_squared)
    size = sqrt(exp_avg_sq) + eps
    u = g * (1 / where(size > 0, size, 1)) + weight_decay * p  # with eps 0 and no gradient yet: nothing to scale
    if grad_averaging:
        u = where(t == 1, 1, 1 - beta1) * u
    exp_avg = where(t == 1, 0, beta1) * exp_avg + u
    return exp_avg, exp_avg, exp_avg_sq


class NovoGrad(Optimizer):
    """NovoGrad: for speech models (Jasper, QuartzNet) and others whose layers have gradients of very different size.

    The step does not depend on the scale of a layer's gradient. Cost: one slot, half of Adam's state, and a second pass
    over every tensor. Against AdamW: lr about 10 times larger.

    Args:
        params, options: as for every optimizer (see `stepwell.Optimizer`).
        lr: learning rate, at least 0.
        betas: decay rates (beta1, beta2) of the momentum and of the squared norm, each in [0, 1).
        eps: added to the denominator for numerical stability, at least 0.
        weight_decay: at least 0; inside the momentum, after the normalization.
        grad_averaging: weight gradients after the first by 1 - beta1.

    Reference: Ginsburg et al., "Stochastic gradient methods with layer-wise adaptive moments for training of deep
    networks", arXiv 1905.11286, algorithm 1. The paper's first step has no eps; here every step has eps. As in the
    paper, the first gradient starts the average even if it is zero: the next step is then 1 / sqrt(1 - beta2) times as
    long, 7 times with beta2 0.98. In the authors' code the first nonzero gradient starts it.

    >>> optimizer = NovoGrad(model.parameters(), lr=1e-2, weight_decay=1e-3)
    """

    rule, measure, sums, decay = update, measure, ("g_squared",), None
    slots = (Slot("exp_avg", memory="beta1"), Slot("exp_avg_sq", signed=False, per="tensor"))
    facts = Facts(
        lr={"default": (1e-3, 1e-1), "cnn": (1e-3, 1e-1), "transformer": (1e-3, 1e-1), "toy": (1e-3, 1.0)},
        method="layer-wise",
        lr_against_adamw=10.0,
        source="Ginsburg et al. 1905.11286 (no warm-up), Li et al. 1904.03288, their code (Jasper and ResNet-50 0.02, "
        "where AdamW has 0.002; transformer 0.04)",
        kind="sums",
    )

    def __init__(
        self, params: Params, lr: float = 1e-3, betas: tuple[float, float] = (0.95, 0.98), eps: float = 1e-8,
        weight_decay: float = 0.0, *, grad_averaging: bool = False, **options: Unpack[Options],
    ) -> None:  # fmt: skip
        super().__init__(params, hyperparameters(locals()), options)
