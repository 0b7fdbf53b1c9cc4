"""Schedule-Free AdamW: gradients are taken between an RMSprop-like iterate and the running mean of its iterates.

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
    """Schedule-Free AdamW. No schedule and no end of training to be known beforehand; AdamW's memory.

    For runs that may be stopped or prolonged at any time. Call `optimizer.train()` before training and
    `optimizer.eval()` before evaluating or saving. Against AdamW: lr 1 to 10 times larger.

    Args:
        params, options: as for every optimizer (see `stepwell.Optimizer`).
        lr: learning rate, at least 0, constant.
        betas: weight of the mean in the point where gradients are taken, and decay of the squares, each in (0, 1).
            (0.95, 0.99) for long runs.
        eps: keeps the division finite, at least 0.
        weight_decay: at least 0; shrinks by lr * weight_decay, taken where the gradient is.
        warmup_steps: lr rises linearly over them, at least 0; use some.
        r: later iterates weigh more in the mean by t**r, at least 0.
        weight_lr_power: iterates weigh by this power of the largest lr so far, at least 0.

    Reference: Defazio et al., "The road less scheduled", arXiv 2405.15682, algorithm 1. As in the authors' package the
    squares are bias corrected (paper: lr is) and iterates weigh by the largest lr so far (paper: by the present one);
    unlike there every parameter has its own clock.

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
    )

    def __init__(
        self, params: Params, lr: float = 2.5e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0.0, warmup_steps: int = 0, r: float = 0.0, weight_lr_power: float = 2.0,
        **options: Unpack[Options],
    ) -> None:  # fmt: skip
        super().__init__(params, hyperparameters(locals()), options)
