"""Adam-atan2: Adam with an angle in place of the division, so that no eps is needed.

exp_avg, exp_avg_sq as in Adam
direction = a * atan2(exp_avg / (1 - beta1**t), b * sqrt(exp_avg_sq / (1 - beta2**t)))
p        <- p - lr * weight_decay * p - lr * direction
"""

from __future__ import annotations

from stepwell.engine import Optimizer, Options, Params, Range, Slot, Unpack, hyperparameters
from stepwell.ops import atan2, ema, ema_square, sqrt
from stepwell.optimizers.facts import Facts
from stepwell.optimizers.memory import BOTH_MEANS


def update(g, p, t, exp_avg, exp_avg_sq, *, beta1, beta2, a, b):
    exp_avg = ema(exp_avg, g, beta1)
    exp_avg_sq = ema_square(exp_avg_sq, g, beta2)
    scale = b * (1 - beta1**t) / sqrt(1 - beta2**t)  # an angle depends on a ratio: one factor for both
    return a * atan2(exp_avg, scale * sqrt(exp_avg_sq)), exp_avg, exp_avg_sq


class AdamAtan2(Optimizer):
    """Adam-atan2: AdamW without eps; scaling all gradients changes nothing, and no step exceeds lr * a * pi / 2.

    Use it for models so wide that their gradients fall to the size of Adam's eps, and where a single large gradient
    must not make a large step. Elsewhere it is AdamW with steps 0.79 times as large (a=1). Cost: two slots, as AdamW.
    Against AdamW: the same lr with a=1.27.

    Args:
        params, options: as for every optimizer (see `stepwell.Optimizer`).
        lr: learning rate, at least 0.
        betas: decay rates (beta1, beta2) of the two averages, each in [0, 1).
        weight_decay: at least 0; each step shrinks the weights by lr * weight_decay.
        a: multiplies the step, above 0. With 1.27 (4 / pi) the step equals Adam's where mean and root mean square
            agree.
        b: multiplies the root, above 0; the larger, the closer to a division.

    Reference: Everett et al., "Scaling exponents across parameterizations and optimizers", arXiv 2407.05872, the
    section on epsilon and the appendix with the code change (no numbered algorithm). The paper has a = b = 1, the
    default here; the usual packages have a = 1.27.

    >>> optimizer = AdamAtan2(model.parameters(), lr=3e-4, weight_decay=0.1, a=1.27)
    """

    rule, decay = update, "decoupled"
    slots = (Slot("exp_avg", memory="beta1"), Slot("exp_avg_sq", signed=False, memory="beta2"))
    ranges = {"a": Range(0, open_low=True), "b": Range(0, open_low=True)}
    memory = BOTH_MEANS
    facts = Facts(
        lr={"default": (1e-4, 1e-2), "cnn": (3e-4, 3e-2), "transformer": (1e-4, 1e-2), "toy": (1e-3, 1.0)},
        source="Everett et al. 2407.05872 (AdamW's, whose step it approximates)",
        needs_warmup=True,
        eps_bounds=False,
    )

    def __init__(
        self, params: Params, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0,
        a: float = 1.0, b: float = 1.0, **options: Unpack[Options],
    ) -> None:  # fmt: skip
        super().__init__(params, hyperparameters(locals()), options)
