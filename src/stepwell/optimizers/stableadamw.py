"""StableAdamW: AdamW whose step shrinks, tensor by tensor, when the second moment is too small for the gradient.

exp_avg, exp_avg_sq as in Adam, with the bias correction in the decay rate: beta * (1 - beta**(t-1)) / (1 - beta**t)
rms  = sqrt(mean((g / max(sqrt(exp_avg_sq), eps))**2))
eta  = lr / max(1, rms / clip_threshold)
p   <- p - eta * weight_decay * p - eta * exp_avg / (sqrt(exp_avg_sq) + eps)
"""

from __future__ import annotations

from stepwell.engine import Optimizer, Options, Params, Range, Unpack, hyperparameters
from stepwell.ops import lerp, lerp_square, maximum, sqrt
from stepwell.optimizers.adam import Adam
from stepwell.optimizers.facts import Facts
from stepwell.optimizers.memory import Memory, corrected
from stepwell.optimizers.pieces import clipped, rms


def _moments(g, t, exp_avg, exp_avg_sq, beta1, beta2):
    exp_avg = lerp(exp_avg, g, (1 - beta1) / (1 - beta1**t))
    return exp_avg, lerp_square(exp_avg_sq, g, (1 - beta2) / (1 - beta2**t))


def measure(g, p, t, exp_avg, exp_avg_sq, *, beta1, beta2, eps):
    _, exp_avg_sq = _moments(g, t, exp_avg, exp_avg_sq, beta1, beta2)
    scaled = g / maximum(sqrt(exp_avg_sq), eps)
    return {"lag": scaled * scaled}  # not g * g / exp_avg_sq, which overflows sooner


def update(
    g, p, t, exp_avg, exp_avg_sq, *, lr, beta1, beta2, eps, weight_decay, clip_threshold, raw_decay, lag, elements
):
    exp_avg, exp_avg_sq = _moments(g, t, exp_avg, exp_avg_sq, beta1, beta2)
    eta = clipped(lr, rms(lag, elements), clip_threshold)
    decay = (lr if raw_decay else eta) * weight_decay
    return decay * p + eta * (exp_avg / (sqrt(exp_avg_sq) + eps)), exp_avg, exp_avg_sq


class StableAdamW(Optimizer):
    """StableAdamW: AdamW with update clipping, for low precision and large models whose loss spikes.

    It replaces clipping of the gradient's norm; with a small beta2 (0.95) it rarely clips. Cost: two slots, as AdamW,
    and a second pass over every tensor. Against AdamW: the same lr.

    Args:
        params, options: as for every optimizer (see `stepwell.Optimizer`).
        lr: learning rate, at least 0.
        betas: decay rates (beta1, beta2) of the two averages, each in [0, 1).
        eps: added to the denominator for numerical stability, above 0.
        weight_decay: at least 0; each step shrinks the weights by eta * weight_decay.
        clip_threshold: the largest rms without clipping, above 0; 1 in the paper.
        raw_decay: shrink the weights by lr * weight_decay instead, as the authors' code does.

    Reference: Wortsman et al., "Stable and low-precision training for large-scale vision-language models", arXiv
    2304.13013, algorithm 2.

    >>> optimizer = StableAdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
    """

    rule, measure, sums, slots, decay = update, measure, ("lag",), Adam.slots[:2], None
    decay_by_rule = "decoupled"
    ranges = {"eps": Range(0, open_low=True), "clip_threshold": Range(0, open_low=True)}
    memory = Memory(("exp_avg", corrected), ("exp_avg_sq", corrected))
    facts = Facts(
        lr={"default": (1e-4, 1e-2), "cnn": (3e-4, 1e-1), "transformer": (1e-4, 1e-2), "toy": (1e-3, 1.0)},
        source="Wortsman et al. 2304.13013 (CLIP 2e-3); otherwise AdamW's, as optimi's page has it",
        kind="sums",
    )

    def __init__(
        self, params: Params, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.99), eps: float = 1e-8,
        weight_decay: float = 1e-2, *, clip_threshold: float = 1.0, raw_decay: bool = False, **options: Unpack[Options],
    ) -> None:  # fmt: skip
        super().__init__(params, hyperparameters(locals()), options)
