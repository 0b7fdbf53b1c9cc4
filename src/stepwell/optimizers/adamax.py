"""Adamax: Adam with the largest recent gradient in place of the root mean square.

exp_avg  <- beta1 * exp_avg + (1 - beta1) * g
exp_inf  <- max(beta2 * exp_inf, |g| + eps), or with eps_outside: max(beta2 * exp_inf, |g|)
direction = exp_avg / (1 - beta1**t) / exp_inf, or with eps_outside: / (exp_inf + eps)
p        <- p - lr * direction
"""

from __future__ import annotations

from stepwell.engine import Optimizer, Options, Params, Slot, Unpack, hyperparameters
from stepwell.ops import abs, debias, ema, maximum
from stepwell.optimizers.facts import Facts
from stepwell.optimizers.memory import ONLY_MEAN


def update(g, p, t, exp_avg, exp_inf, *, beta1, beta2, eps, eps_outside):
    exp_avg = ema(exp_avg, g, beta1)
    exp_inf = maximum(beta2 * exp_inf, abs(g) if eps_outside else abs(g) + eps)
    return debias(exp_avg, beta1, t) / (exp_inf + eps if eps_outside else exp_inf), exp_avg, exp_inf


class Adamax(Optimizer):
    """Adamax: Adam whose steps are bounded by about lr, and whose maximum needs no bias correction.

    Use it for embeddings and other parameters whose gradients are rare and large; elsewhere Adam forgets a large
    gradient sooner. Cost: two slots, as Adam. Against AdamW: lr about 2 times larger.

    Args:
        params, options: as for every optimizer (see `stepwell.Optimizer`).
        lr: learning rate, at least 0: about the largest step of an element.
        betas: decay rates (beta1, beta2) of the average and of the maximum, each in [0, 1).
        eps: added for numerical stability, at least 0.
        weight_decay: at least 0; added to the gradient (L2 penalty) unless `decoupled_weight_decay`.
        eps_outside: add eps to the denominator (as Keras and optax do) instead of to |g| inside the maximum.

    Reference: Kingma, Ba, "Adam: a method for stochastic optimization", arXiv 1412.6980, algorithm 2. The paper has no
    eps, so an element that has had no gradient divides 0 by 0; the default adds eps where torch.optim.Adamax does.

    >>> optimizer = Adamax(model.parameters(), lr=2e-3)
    """

    rule, decay = update, "coupled"
    slots = (Slot("exp_avg", memory="beta1"), Slot("exp_inf", signed=False, memory="beta2"))
    memory = ONLY_MEAN
    facts = Facts(
        lr={"default": (2e-4, 2e-2), "cnn": (3e-4, 3e-2), "transformer": (2e-4, 2e-2), "toy": (1e-3, 1.0)},
        source="Kingma and Ba 1412.6980, section 7.1 (2e-3, twice Adam's)",
        lr_against_adamw=2.0,
        needs_warmup=True,
    )

    def __init__(
        self, params: Params, lr: float = 2e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0.0, eps_outside: bool = False, **options: Unpack[Options],
    ) -> None:  # fmt: skip
        super().__init__(params, hyperparameters(locals()), options)
