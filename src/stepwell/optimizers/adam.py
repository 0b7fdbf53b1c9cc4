"""Adam: a direction of about one learning rate per element, from two moving averages of the gradient.

exp_avg    <- beta1 * exp_avg    + (1 - beta1) * g
exp_avg_sq <- beta2 * exp_avg_sq + (1 - beta2) * g * g
direction   = exp_avg / (1 - beta1**t)  /  (sqrt(exp_avg_sq / (1 - beta2**t)) + eps)
p          <- p - lr * direction
"""

from __future__ import annotations

from stepwell.engine import Optimizer, Options, Params, Slot, Unpack, hyperparameters
from stepwell.ops import debias, ema, ema_square, sqrt
from stepwell.optimizers.facts import PUBLISHED_ADAM, Facts
from stepwell.optimizers.memory import BOTH_MEANS
from stepwell.optimizers.pieces import amsgrad


def update(g, p, t, exp_avg, exp_avg_sq, max_exp_avg_sq, *, beta1, beta2, eps):
    exp_avg = ema(exp_avg, g, beta1)
    exp_avg_sq = ema_square(exp_avg_sq, g, beta2)
    largest, max_exp_avg_sq = amsgrad(max_exp_avg_sq, exp_avg_sq)
    direction = debias(exp_avg, beta1, t) / (sqrt(debias(largest, beta2, t)) + eps)
    return direction, exp_avg, exp_avg_sq, max_exp_avg_sq


class Adam(Optimizer):
    """Adam: a momentum divided by the running size of each element's gradient.

    Use it for almost everything; with weight decay, AdamW is easier to tune. Graph networks use Adam with an L2 penalty
    on purpose. Cost: two slots (8 bytes per element in fp32).

    Args:
        params, options: as for every optimizer (see `stepwell.Optimizer`).
        lr: learning rate, at least 0: about the size of each element's step.
        betas: decay rates (beta1, beta2) of the averages of the gradient and of its square, each in [0, 1).
        eps: added to the denominator for numerical stability, at least 0; worth tuning where gradients are tiny.
        weight_decay: at least 0; added to the gradient (L2 penalty) unless `decoupled_weight_decay`.
        amsgrad: divide by the largest second moment so far (arXiv 1904.09237); one more slot.

    Reference: Kingma, Ba, "Adam: a method for stochastic optimization", arXiv 1412.6980, algorithm 1. With amsgrad the
    maximum is taken before the bias correction, as in torch (Reddi et al. have no bias correction).

    >>> optimizer = Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.98))
    """

    rule, decay = update, "coupled"
    slots = (
        Slot("exp_avg", memory="beta1"),
        Slot("exp_avg_sq", signed=False, memory="beta2"),
        Slot("max_exp_avg_sq", when="amsgrad", signed=False),
    )
    memory = BOTH_MEANS
    facts = Facts(
        lr={"default": (1e-4, 1e-2), "cnn": (3e-4, 1e-1), "transformer": (1e-4, 1e-2), "toy": (1e-3, 1.0)},
        source="Kingma and Ba 1412.6980 (1e-3), Vaswani et al. 1706.03762 (7e-4), RoBERTa 1907.11692 (1e-4 at 256)",
        needs_warmup=True,
        published={"default": (1e-4, 3e-3), **PUBLISHED_ADAM},  # 10th percentile to about the 85th of 53 runs
    )

    def __init__(
        self, params: Params, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0.0, amsgrad: bool = False, **options: Unpack[Options],
    ) -> None:  # fmt: skip
        super().__init__(params, hyperparameters(locals()), options)
