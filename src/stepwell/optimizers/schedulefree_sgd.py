"""Schedule-Free SGD: gradients are computed between a plain SGD iterate and the running mean of its iterates.

direction   = g + weight_decay * p
z          <- z - lr_t * direction; the step of p as in `schedulefree.py` with beta = momentum
"""

from __future__ import annotations

from stepwell.engine import Options, Params, Unpack, hyperparameters
from stepwell.optimizers.facts import Facts
from stepwell.optimizers.schedulefree import LR_MAX, WEIGHT_SUM, ScheduleFree, Z, average


def update(g, p, t, z, weight_sum, lr_max, *, lr, weight_decay, momentum, warmup_steps, r, weight_lr_power):
    schedule = {"lr": lr, "warmup_steps": warmup_steps, "r": r, "weight_lr_power": weight_lr_power}
    return average(p, t, z, weight_sum, lr_max, g + weight_decay * p, beta=momentum, **schedule)


class ScheduleFreeSGD(ScheduleFree):
    """Schedule-Free SGD: no learning rate schedule, and the length of training need not be known in advance.

    Use it for convolutional networks, in place of SGD with a cosine schedule. Call `optimizer.train()` before training
    and `optimizer.eval()` before evaluating or saving. Cost: one slot, as SGD with momentum. Against AdamW: lr 1,000
    times larger (1 to 10 is usual).

    Args:
        params, options: as for every optimizer (see `stepwell.Optimizer`).
        lr: learning rate, at least 0, constant.
        momentum: weight of the mean in the point where gradients are computed, in (0, 1).
        weight_decay: at least 0; weight_decay * p is added to the gradient, with p where the gradient is computed.
        warmup_steps: lr rises linearly over this number of steps, at least 0; a few hundred or more are recommended.
        r: iterate t has weight t**r in the mean, at least 0.
        weight_lr_power: iterates are weighted by this power of the largest lr so far, at least 0.

    Reference: Defazio et al., "The road less scheduled", arXiv 2405.15682, equations 2 to 4. As in the authors'
    package, iterates are weighted by the largest lr so far (paper: the current lr). Every parameter has its own step
    count.

    >>> optimizer = ScheduleFreeSGD(model.parameters(), lr=1.0, warmup_steps=500)
    >>> with optimizer.evaluating():
    ...     accuracy = evaluate(model)
    """

    rule, slots = update, (Z, WEIGHT_SUM, LR_MAX)
    facts = Facts(
        lr={"default": (3e-2, 1e1), "cnn": (1e-1, 1e1), "transformer": (1e-1, 3e1), "toy": (1e-4, 1e-1)},
        source="Defazio et al. 2405.15682, its code's page (10 to 50 times SGD's, with warm-up; CIFAR-10: 10)",
        method="averaged",
        schedule="warmup",
        lr_against_adamw=1000.0,
        needs_warmup=True,
        needs_modes=True,
        length="gradient",
    )

    def __init__(
        self, params: Params, lr: float = 1.0, momentum: float = 0.9, weight_decay: float = 0.0, warmup_steps: int = 0,
        r: float = 0.0, weight_lr_power: float = 2.0, **options: Unpack[Options],
    ) -> None:  # fmt: skip
        super().__init__(params, hyperparameters(locals()), options)
