"""AdEMAMix: Adam with a second, much slower momentum added to the first.

exp_avg_fast <- beta1 * exp_avg_fast + (1 - beta1) * g
exp_avg_slow <- b3 * exp_avg_slow    + (1 - b3) * g
exp_avg_sq   <- beta2 * exp_avg_sq   + (1 - beta2) * g * g
direction     = (exp_avg_fast / (1 - beta1**t) + a * exp_avg_slow) / (sqrt(exp_avg_sq / (1 - beta2**t)) + eps)
p            <- p - lr * weight_decay * p - lr * direction

a  = alpha * min(1, t / alpha_warmup)
b3 = beta3; while t < beta3_warmup, the beta whose half-life is t / beta3_warmup of the way from beta1's to beta3's
"""

from __future__ import annotations

from stepwell.engine import Optimizer, Options, Params, Range, Slot, Unpack, hyperparameters
from stepwell.ops import debias, ema, ema_square, log, maximum, minimum, sqrt, where
from stepwell.optimizers.facts import Facts


def _half_life(beta):
    """The number of steps after which the weight of a gradient in an average with decay beta has halved."""
    return log(0.5) / log(beta)


def update(
    g, p, t, exp_avg_fast, exp_avg_slow, exp_avg_sq, *, beta1, beta2, beta3, eps, alpha, beta3_warmup, alpha_warmup
):
    if alpha_warmup is not None:
        alpha = alpha * minimum(1, t / alpha_warmup)
    if beta3_warmup is not None:
        part = t / beta3_warmup
        mixed = maximum((1 - part) * _half_life(beta1) + part * _half_life(beta3), 1e-300)
        beta3 = where(part < 1, 0.5 ** (1 / mixed), beta3)
    exp_avg_fast = ema(exp_avg_fast, g, beta1)
    exp_avg_slow = ema(exp_avg_slow, g, beta3)
    exp_avg_sq = ema_square(exp_avg_sq, g, beta2)
    momentum = debias(exp_avg_fast, beta1, t) + alpha * exp_avg_slow
    return momentum / (sqrt(debias(exp_avg_sq, beta2, t)) + eps), exp_avg_fast, exp_avg_slow, exp_avg_sq


class AdEMAMix(Optimizer):
    """AdEMAMix: AdamW with a second, slow average that keeps old gradients; fewer tokens to a given loss on long runs.

    Use it for long training of language models (10,000 steps and more); short runs do not fill the slow average. Set
    both warmups to the length of the run. Cost: three slots, one more than AdamW. Against AdamW: the same lr.

    Args:
        params, options: as for every optimizer (see `stepwell.Optimizer`).
        lr: learning rate, at least 0.
        betas: decay rates (beta1, beta2, beta3) of the fast average, the squares and the slow average, each in [0, 1).
        alpha: weight of the slow average, at least 0; 5 to 10 in the paper.
        beta3_warmup: steps over which beta3 rises from beta1, at least 1; None: no warmup.
        alpha_warmup: steps over which alpha rises from 0, at least 1; None: no warmup.
        eps: added to the denominator for numerical stability, at least 0.
        weight_decay: at least 0; each step shrinks the weights by lr * weight_decay.

    Reference: Pagliardini, Ablin, Grangier, "The AdEMAMix optimizer: better, faster, older", arXiv 2409.03137,
    algorithm 1. The warmups count from t = 1, as in the paper and its PyTorch code (its optax code counts from 0).

    >>> optimizer = AdEMAMix(model.parameters(), lr=1e-3, alpha=8.0, beta3_warmup=50_000, alpha_warmup=50_000)
    """

    rule, decay = update, "decoupled"
    slots = (
        Slot("exp_avg_fast", memory="beta1"),
        Slot("exp_avg_slow", memory="beta3"),
        Slot("exp_avg_sq", signed=False, memory="beta2"),
    )
    ranges = {
        "alpha": Range(0),
        "beta3_warmup": Range(1, optional=True, whole=True),
        "alpha_warmup": Range(1, optional=True, whole=True),
    }
    facts = Facts(
        lr={"default": (1e-4, 1e-2), "cnn": (3e-4, 3e-2), "transformer": (1e-4, 1e-2), "toy": (1e-3, 1.0)},
        source="Pagliardini et al. 2409.03137, section 4 and appendix (1e-3, 5e-4, 3e-4 by size, as AdamW)",
        needs_warmup=True,
    )

    def __init__(
        self, params: Params, lr: float = 1e-3, betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
        alpha: float = 2.0, beta3_warmup: int | None = None, alpha_warmup: int | None = None, eps: float = 1e-8,
        weight_decay: float = 0.0, **options: Unpack[Options],
    ) -> None:  # fmt: skip
        super().__init__(params, hyperparameters(locals()), options)
