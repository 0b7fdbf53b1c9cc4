"""D-Adapt Adam: Adam that estimates its own learning rate from the weighted sum of its gradients.

With d one number for all tensors, sums over all of them, and q = sqrt(beta2):

rate         = lr * d
d_numerator <- q * d_numerator + (1 - q) * rate * sum(g * s / (sqrt(exp_avg_sq) + eps))    with the old s, exp_avg_sq
exp_avg     <- beta1 * exp_avg    + (1 - beta1) * rate * g
exp_avg_sq  <- beta2 * exp_avg_sq + (1 - beta2) * g^2
s           <- q * s + (1 - q) * rate * g
d           <- max(d, min(d_numerator / ((1 - q) * sum(|s|)), d * growth_rate))
p           <- p - rate * weight_decay * p - exp_avg / (sqrt(exp_avg_sq) + eps)
"""

from __future__ import annotations

from typing import Any

from stepwell.engine import Optimizer, Options, Params, Range, Slot, Unpack, hyperparameters
from stepwell.ops import abs, ema, ema_square, maximum, minimum, sqrt, where
from stepwell.optimizers.facts import Facts
from stepwell.optimizers.prodigy import bias_corrected


def measure(g, p, t, exp_avg, exp_avg_sq, s, d, d_numerator, k, *, lr, beta1, beta2, eps, use_bias_correction):
    rate, q = bias_corrected(d * lr, k, beta1, beta2, use_bias_correction), sqrt(beta2)
    return {
        "along": rate * (g * s / (sqrt(exp_avg_sq) + eps)),
        "s_sum": abs(ema(s, rate * g, q)),
    }


def update(
    g, p, t, exp_avg, exp_avg_sq, s, d, d_numerator, k,
    *, lr, beta1, beta2, eps, weight_decay, decouple, use_bias_correction, growth_rate, along, s_sum,
):  # fmt: skip
    rate, q = bias_corrected(d * lr, k, beta1, beta2, use_bias_correction), sqrt(beta2)
    exp_avg = ema(exp_avg, rate * g, beta1)
    exp_avg_sq = ema_square(exp_avg_sq, g, beta2)
    s = ema(s, rate * g, q)

    moves = s_sum > 0  # False until a gradient is nonzero: no step until then
    numerator = q * d_numerator + (1 - q) * along
    estimate = numerator / ((1 - q) * where(moves, s_sum, 1))
    grown = where(moves, maximum(d, minimum(estimate, d * growth_rate)), d)

    step = exp_avg / (sqrt(exp_avg_sq) + eps)
    if decouple:
        step = step + rate * weight_decay * p
    step = where(moves, 1, 0) * step
    return step, exp_avg, exp_avg_sq, s, grown, where(moves, numerator, d_numerator), where(moves, k + 1, k)


class DAdaptAdam(Optimizer):
    """D-Adaptation for Adam: no learning rate to tune; leave lr at 1.

    Use it to reproduce older work: `Prodigy` is its successor and finds its learning rate sooner. lr multiplies the
    estimated rate, so schedules work as usual. All groups share one d. Cost: three slots, one more than Adam, and a
    second pass over every tensor.

    Args:
        params, options: as for every optimizer (see `stepwell.Optimizer`).
        lr: factor of the estimated rate, at least 0; usually 1.
        betas: decay rates (beta1, beta2) of the two averages, each in [0, 1).
        eps: added to the denominator for numerical stability, above 0.
        weight_decay: at least 0; added to the gradient (L2 penalty) unless `decouple`.
        decouple: shrink the weights by rate * weight_decay instead.
        use_bias_correction: correct both averages for their start at zero, as Adam does.
        d0: initial d, above 0.
        growth_rate: d grows by at most this factor per step, at least 1; 1.02 acts as a warmup.

    Reference: Defazio, Mishchenko, "Learning-rate-free learning by D-adaptation", arXiv 2301.07733, the Adam version of
    its experiments. As in the authors' package, gradients are weighted with the second moment before the update (paper:
    after it), and tensors without a gradient are left out of the sums. At lr 0 (a schedule that starts there) d may
    still grow from earlier gradients; the package then keeps d.

    >>> optimizer = DAdaptAdam(model.parameters(), decouple=True, weight_decay=0.01)
    """

    rule, measure, sums, over, decay = update, measure, ("along", "s_sum"), "run", "coupled"
    slots = (
        Slot("exp_avg", memory="beta1"),
        Slot("exp_avg_sq", signed=False, memory="beta2"),
        Slot("s", memory=lambda group: group["betas"][1] ** 0.5),
        Slot("d", start=lambda group: group["d0"], per="run"),
        Slot("d_numerator", per="run"),
        Slot("k", per="run"),
    )
    ranges = {
        "eps": Range(0, open_low=True),
        "d0": Range(0, open_low=True),
        "growth_rate": Range(1, float("inf"), open_high=False),
    }
    facts = Facts(
        kind="sums",
        lr={"default": (0.1, 10.0), "cnn": (0.1, 10.0), "transformer": (0.1, 10.0), "toy": (0.1, 10.0)},
        lr_against_adamw=None,
        source="Defazio and Mishchenko 2301.07733 (1, everywhere), its code's page (the usual schedule)",
        length="own",
    )

    def __init__(
        self, params: Params, lr: float = 1.0, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0.0, decouple: bool = False, use_bias_correction: bool = False, d0: float = 1e-6,
        growth_rate: float = float("inf"), **options: Unpack[Options],
    ) -> None:  # fmt: skip
        super().__init__(params, hyperparameters(locals()), options)

    def decay_of(self, group: Any) -> str | None:
        return None if group["decouple"] else "coupled"
