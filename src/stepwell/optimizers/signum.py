"""Signum: the sign of a running mean of gradients; SignSGD without momentum.

exp_avg  <- momentum * exp_avg + (1 - momentum) * g
direction = sign(exp_avg), or without momentum: sign(g)
p        <- p - lr * weight_decay * p - lr * direction
"""

from __future__ import annotations

from stepwell.engine import Optimizer, OptionsButDecay, Params, Slot, Unpack, hyperparameters
from stepwell.ops import ema, sign
from stepwell.optimizers.facts import Facts
from stepwell.optimizers.memory import Memory


def update(g, p, t, exp_avg, *, momentum):
    if exp_avg is None:
        return sign(g), None
    exp_avg = ema(exp_avg, g, momentum)
    return sign(exp_avg), exp_avg


class Signum(Optimizer):
    """Signum, and SignSGD at `momentum=0`: every element moves by exactly lr.

    Use it for training that communicates one bit per element, and as the simplest relative of Adam. Lion needs the same
    memory and is usually better. Cost: one slot with momentum, no state without. Against AdamW: lr 10 times smaller.

    Args:
        params, options: as for every optimizer (see `stepwell.Optimizer`).
        lr: learning rate, at least 0: the size of every element's step.
        momentum: decay rate of the running mean, in [0, 1). At 0 there is no state.
        weight_decay: at least 0; each step shrinks the weights by lr * weight_decay.
        decoupled_weight_decay: False adds the decay to the gradient instead, inside the sign.

    Reference: Bernstein et al., "signSGD: compressed optimisation for non-convex problems", arXiv 1802.04434,
    algorithms 1 (SignSGD) and 2 (Signum). The paper has no weight decay; the authors' sequel, 1810.05291, decouples it,
    and their code couples it.

    >>> optimizer = Signum(model.parameters(), lr=1e-4, weight_decay=0.1)
    """

    rule, slots, decay = update, (Slot("exp_avg", when="momentum", memory="momentum"),), "decoupled"
    memory = Memory(("exp_avg", lambda group, t: 1 - group["momentum"] ** t))
    facts = Facts(
        lr={"default": (1e-5, 1e-3), "cnn": (3e-5, 1e-2), "transformer": (1e-5, 3e-3), "toy": (1e-4, 1e-1)},
        source="Bernstein et al. 1802.04434, its code's pages (ImageNet 1e-4, CIFAR-10 1e-3; a tenth of Adam's there)",
        method="sign",
        lr_against_adamw=0.1,
        needs_warmup=True,
        needs_large_batch=True,
    )

    def __init__(
        self, params: Params, lr: float = 1e-4, momentum: float = 0.9, weight_decay: float = 0.0,
        decoupled_weight_decay: bool = True, **options: Unpack[OptionsButDecay],
    ) -> None:  # fmt: skip
        super().__init__(params, hyperparameters(locals()), options)
