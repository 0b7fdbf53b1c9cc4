"""Schedule-Free AdamW: gradients are computed between an RMSprop-like iterate and the running mean of its iterates.

exp_avg_sq <- beta2 * exp_avg_sq + (1 - beta2) * g * g
direction   = g / (sqrt(exp_avg_sq / (1 - beta2**t)) + eps) + weight_decay * p
z          <- z - lr_t * direction; the step of p as in `schedulefree.py` with beta = beta1
"""

from __future__ import annotations

from stepwell.engine import Options, Params, Slot, Unpack, hyperparameters
from stepwell.ops import debias, ema_square, sqrt
from stepwell.optimizers.facts import Facts
from stepwell.optimizers.schedulefree import LR_MAX, WEIGHT_SUM, ScheduleFree, Z, average


def update(
    g, p, t, z, exp_avg_sq, weight_sum, lr_max, *, lr, weight_decay, beta1, beta2, eps, warmup_steps, r, weight_lr_power
):
    exp_avg_sq = ema_square(exp_avg_sq, g, beta2)
    direction = g / (sqrt(debias(exp_avg_sq, beta2, t)) + eps) + weight_decay * p
    schedule = {"lr": lr, "warmup_steps": warmup_steps, "r": r, "weight_lr_power": weight_lr_power}
    step, z, weight_sum, lr_max = average(p, t, z, weight_sum, lr_max, direction, beta=beta1, **schedule)
    return step, z, exp_avg_sq, weight_sum, lr_max


class ScheduleFreeAdamW(ScheduleFree):
    """Schedule-Free AdamW: no learning rate schedule, and the length of training need not be known in advance.

    Use it for runs that may be stopped or prolonged at any time. Call `optimizer.train()` before training and
    `optimizer.eval()` before evaluating or saving. Cost: two slots, as AdamW. Against AdamW: lr 1 to 10 times larger.

    Args:
        params, options: as for every optimizer (see `stepwell.Optimizer`).
        lr: learning rate, at least 0, constant.
        betas: beta1 weights the mean in the point where gradients are computed, beta2 is the decay rate of the squares;
            each in (0, 1). (0.95, 0.99) for long runs.
        eps: added to the denominator for numerical stability, at least 0.
        weight_decay: at least 0; lr * weight_decay * p is subtracted, with p where the gradient is computed.
        warmup_steps: lr rises linearly over this number of steps, at least 0; a few hundred or more are recommended.
        r: iterate t has weight t**r in the mean, at least 0.
        weight_lr_power: iterates are weighted by this power of the largest lr so far, at least 0.

    Reference: Defazio et al., "The road less scheduled", arXiv 2405.15682, algorithm 1. As in the authors' package,
    squares are bias-corrected (paper: lr is) and iterates are weighted by the largest lr so far (paper: the current
    lr). Unlike in the package, every parameter has its own step count.

    >>> optimizer = ScheduleFreeAdamW(model.parameters(), lr=2.5e-3, weight_decay=0.05, warmup_steps=1_000)
    >>> with optimizer.evaluating():
    ...     accuracy = evaluate(model)
    """

    rule, slots = update, (Z, Slot("exp_avg_sq", signed=False, memory="beta2"), WEIGHT_SUM, LR_MAX)
    facts = Facts(
        lr={"default": (3e-4, 3e-2), "cnn": (1e-3, 1e-1), "transformer": (3e-4, 3e-2), "toy": (1e-3, 1.0)},
        source="Defazio et al. 2405.15682, its code's page (1 to 10 times AdamW's, with warm-up; AlgoPerf 2.5e-3)",
        method="averaged",
        schedule="warmup",
        lr_against_adamw=3.0,
        needs_warmup=True,
        needs_modes=True,
        length="lr",
        eps_bounds=True,
    )

    def __init__(
        self, params: Params, lr: float = 2.5e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0.0, warmup_steps: int = 0, r: float = 0.0, weight_lr_power: float = 2.0,
        **options: Unpack[Options],
    ) -> None:  # fmt: skip
        super().__init__(params, hyperparameters(locals()), options)
