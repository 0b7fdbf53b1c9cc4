"""Lion: the sign of a momentum into which the current gradient is averaged once more.

direction  = sign(beta1 * exp_avg + (1 - beta1) * g)
exp_avg   <- beta2 * exp_avg + (1 - beta2) * g
p         <- p - lr * weight_decay * p - lr * direction
"""

from __future__ import annotations

from stepwell.engine import Optimizer, Options, Params, Slot, Unpack, hyperparameters
from stepwell.ops import ema, sign
from stepwell.optimizers.facts import Facts
from stepwell.optimizers.memory import Memory, beta2_average


def update(g, p, t, exp_avg, *, beta1, beta2):
    direction = sign(ema(exp_avg, g, beta1))
    return direction, ema(exp_avg, g, beta2)


class Lion(Optimizer):
    """Lion: every element moves by exactly lr, with half of AdamW's state.

    Use it for large batches; at small batches the sign is mostly noise. Cost: one slot (4 bytes per element in fp32).
    Against AdamW: lr 3 to 10 times smaller, weight_decay 3 to 10 times larger.

    Args:
        params, options: as for every optimizer (see `stepwell.Optimizer`).
        lr: learning rate, at least 0: the size of every element's step.
        betas: beta1 weights the momentum in the direction, beta2 is its decay rate; each in [0, 1). (0.95, 0.98) for
            language models.
        weight_decay: at least 0; each step shrinks the weights by lr * weight_decay, outside the sign.

    Reference: Chen et al., "Symbolic discovery of optimization algorithms", arXiv 2302.06675, algorithm 2.

    >>> optimizer = Lion(model.parameters(), lr=1e-4, weight_decay=0.1)
    """

    rule, slots, decay = update, (Slot("exp_avg", memory="beta2"),), "decoupled"
    memory = Memory(("exp_avg", beta2_average))
    facts = Facts(
        lr={"default": (1e-5, 1e-3), "cnn": (3e-5, 1e-2), "transformer": (1e-5, 3e-3), "toy": (1e-4, 1e-1)},
        source="Chen et al. 2302.06675, section 5 (ViT-B and LM 1e-4, diffusion 3e-5; 3 to 10 times below AdamW's), "
        "Wen et al. 2509.02046 (1e-3 to 2e-3 where AdamW has 8e-3)",
        method="sign",
        lr_against_adamw=0.2,
        needs_warmup=True,
        needs_large_batch=True,
    )

    def __init__(
        self, params: Params, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:  # fmt: skip
        super().__init__(params, hyperparameters(locals()), options)
