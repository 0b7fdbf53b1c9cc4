"""Prodigy: Adam that estimates its own learning rate from the distance between the weights and their start.

With d one number for all tensors, sums over all of them, and beta3 = sqrt(beta2):

rate         = lr * d
d_numerator <- beta3 * d_numerator + d * rate * sum(g * (p0 - p))
s           <- beta3 * s + d * rate * g
exp_avg     <- beta1 * exp_avg    + (1 - beta1) * d * g
exp_avg_sq  <- beta2 * exp_avg_sq + (1 - beta2) * d^2 * g^2
d           <- max(d, d_coef * d_numerator / sum(|s|))
p           <- p - rate * weight_decay * p - rate * exp_avg / (sqrt(exp_avg_sq) + d * eps)
"""

from __future__ import annotations

from typing import Any

from stepwell.engine import Optimizer, Options, Params, Range, Slot, Unpack, hyperparameters
from stepwell.ops import abs, ema, ema_square, maximum, minimum, sqrt, where
from stepwell.optimizers.facts import Facts


def bias_corrected(rate, k, beta1, beta2, use_bias_correction):
    """The rate with both bias corrections of Adam; k counts the steps of all tensors together."""
    return rate * sqrt(1 - beta2 ** (k + 1)) / (1 - beta1 ** (k + 1)) if use_bias_correction else rate


def measure(
    g, p, t, exp_avg, exp_avg_sq, s, p0, d, d_max, d_numerator, k,
    *, lr, beta1, beta2, beta3, use_bias_correction, safeguard_warmup,
):  # fmt: skip
    rate = bias_corrected(d * lr, k, beta1, beta2, use_bias_correction)
    fading = sqrt(beta2) if beta3 is None else beta3
    return {
        "back": d * rate * (g * (where(t > 1, p0, p) - p)),
        "s_sum": abs(fading * s + d * (d if safeguard_warmup else rate) * g),
    }


def update(
    g, p, t, exp_avg, exp_avg_sq, s, p0, d, d_max, d_numerator, k,
    *, lr, beta1, beta2, beta3, eps, weight_decay, decouple, use_bias_correction, safeguard_warmup, d0, d_coef,
    growth_rate, back, s_sum,
):  # fmt: skip
    rate = bias_corrected(d * lr, k, beta1, beta2, use_bias_correction)
    fading = sqrt(beta2) if beta3 is None else beta3
    p0 = where(t > 1, p0, p)
    s = fading * s + d * (d if safeguard_warmup else rate) * g
    exp_avg = ema(exp_avg, d * g, beta1)
    exp_avg_sq = ema_square(exp_avg_sq, d * g, beta2)

    moves = s_sum > 0  # False until a gradient is nonzero: no step until then
    numerator = fading * d_numerator + back
    estimate = d_coef * numerator / where(moves, s_sum, 1)
    largest = maximum(d_max, estimate)
    grown = minimum(largest, where(d == d0, maximum(d, estimate), d) * growth_rate)
    new_d = where(moves, grown, d)

    step = exp_avg / (sqrt(exp_avg_sq) + new_d * eps)
    if decouple:
        step = step + weight_decay * p
    step = where(moves, rate, 0) * step
    d_max, d_numerator = where(moves, largest, d_max), where(moves, numerator, d_numerator)
    return step, exp_avg, exp_avg_sq, s, p0, new_d, d_max, d_numerator, where(moves, k + 1, k)


class Prodigy(Optimizer):
    """Prodigy: no learning rate to tune; leave lr at 1.

    Use it for runs that cannot be tuned, and to fine-tune adapters and diffusion models. lr multiplies the estimated
    rate, so schedules work as usual (cosine suits it). All groups share one d. Cost: four slots, twice Adam's, and a
    second pass over every tensor.

    Args:
        params, options: as for every optimizer (see `stepwell.Optimizer`). The initial weights are kept in fp32 in
            every format.
        lr: factor of the estimated rate, at least 0; usually 1.
        betas: decay rates (beta1, beta2) of the two averages, each in [0, 1).
        beta3: decay rate of the sums that d is computed from, in [0, 1); None: sqrt(beta2).
        eps: at least 0; d * eps is added to the denominator for numerical stability.
        weight_decay: at least 0; each step shrinks the weights by rate * weight_decay.
        decouple: False adds the decay to the gradient instead (L2 penalty).
        use_bias_correction: correct both averages for their start at zero, as Adam does; d then grows more carefully.
        safeguard_warmup: leave lr out of the denominator of d; for schedules with warmup.
        d0: initial d, above 0. Far below the right rate; d grows quickly.
        d_coef: factor of the estimate, above 0; the hyperparameter to tune (0.5 or 2) where steps are too large or
            small.
        growth_rate: d grows by at most this factor per step, at least 1; 1.02 acts as a warmup.

    Reference: Mishchenko, Defazio, "Prodigy: an expeditiously adaptive parameter-free learner", arXiv 2306.06101,
    algorithm 4. As in the authors' package, eps is multiplied by the new d (paper: the old), and tensors without a
    gradient are left out of the sums. At lr 0 (a schedule that starts there) the averages still take the gradient, and
    the sums of d still decay, as in the paper; the package ignores the gradients of groups whose lr is 0.

    >>> optimizer = Prodigy(model.parameters(), weight_decay=0.01, use_bias_correction=True, safeguard_warmup=True)
    """

    rule, measure, sums, over, decay = update, measure, ("back", "s_sum"), "run", "coupled"
    slots = (
        Slot("exp_avg", memory="beta1"),
        Slot("exp_avg_sq", signed=False, memory="beta2"),
        Slot("s", memory=lambda group: group["betas"][1] ** 0.5 if group["beta3"] is None else group["beta3"]),
        Slot("p0", wide=True),
        Slot("d", start=lambda group: group["d0"], per="run"),
        Slot("d_max", start=lambda group: group["d0"], per="run"),
        Slot("d_numerator", per="run"),
        Slot("k", per="run"),
    )
    ranges = {
        "beta3": Range(0, 1, optional=True),
        "d0": Range(0, open_low=True),
        "d_coef": Range(0, open_low=True),
        "growth_rate": Range(1, float("inf"), open_high=False),
    }
    facts = Facts(
        kind="sums",
        lr={"default": (0.1, 10.0), "cnn": (0.1, 10.0), "transformer": (0.1, 10.0), "toy": (0.1, 10.0)},
        lr_against_adamw=None,
        source="Mishchenko and Defazio 2306.06101 (1, everywhere), its code's page (cosine or constant)",
        length="own",
    )

    def __init__(
        self, params: Params, lr: float = 1.0, betas: tuple[float, float] = (0.9, 0.999), beta3: float | None = None,
        eps: float = 1e-8, weight_decay: float = 0.0, decouple: bool = True, use_bias_correction: bool = False,
        safeguard_warmup: bool = False, d0: float = 1e-6, d_coef: float = 1.0, growth_rate: float = float("inf"),
        **options: Unpack[Options],
    ) -> None:  # fmt: skip
        super().__init__(params, hyperparameters(locals()), options)

    def decay_of(self, group: Any) -> str | None:
        return None if group["decouple"] else "coupled"
