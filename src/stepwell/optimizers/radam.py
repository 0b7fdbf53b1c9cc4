"""RAdam: Adam whose adaptive step is scaled by how reliable its second moment is.

exp_avg, exp_avg_sq as in Adam
rho_inf   = 2 / (1 - beta2) - 1
rho       = rho_inf - 2 * t * beta2**t / (1 - beta2**t)
r         = sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
m         = exp_avg / (1 - beta1**t)
direction = r * m * sqrt(1 - beta2**t) / (sqrt(exp_avg_sq) + eps)   where rho > 5
direction = m                                                       elsewhere: the first steps
p        <- p - lr * direction
"""

from __future__ import annotations

from stepwell.engine import OneOf, Optimizer, OptionsButDecay, Params, Slot, Unpack, hyperparameters
from stepwell.ops import debias, ema, ema_square, sqrt, where
from stepwell.optimizers.facts import Facts
from stepwell.optimizers.memory import BOTH_MEANS


def rectification(t, beta2, threshold):
    """Whether rho is above the threshold, and r where it is."""
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * t * beta2**t / (1 - beta2**t)
    trusted = rho > threshold
    scale = where(trusted, (rho_inf - 4) * (rho_inf - 2) * rho, 1)  # 0 for beta2 = 0.6, whose rho stays below
    return trusted, sqrt(where(trusted, (rho - 4) * (rho - 2) * rho_inf / scale, 0))


def update(g, p, t, exp_avg, exp_avg_sq, *, beta1, beta2, eps, rectify):
    exp_avg = ema(exp_avg, g, beta1)
    exp_avg_sq = ema_square(exp_avg_sq, g, beta2)
    trusted, r = rectification(t, beta2, 5 if rectify == "torch" else 4)
    m = debias(exp_avg, beta1, t)
    adaptive = m * (r * sqrt(1 - beta2**t)) / (sqrt(exp_avg_sq) + eps)
    return where(trusted, adaptive, m), exp_avg, exp_avg_sq


class RAdam(Optimizer):
    """RAdam: Adam with a built-in warmup.

    Use it for training without a warmup schedule; with a warmup, AdamW does as well. Cost: two slots, as Adam. The
    first steps (5 with beta2 0.999) are momentum steps, of size lr times the gradient instead of lr: where the loss is
    steep, an lr that suits AdamW diverges there. Against AdamW: the same lr.

    Args:
        params, options: as for every optimizer (see `stepwell.Optimizer`).
        lr: learning rate, at least 0: after the first steps about the size of each element's step.
        betas: decay rates (beta1, beta2) of the two averages, each in [0, 1).
        eps: added to the denominator, at least 0; before the bias correction, unlike Adam's.
        weight_decay: at least 0; added to the gradient (L2 penalty).
        decoupled_weight_decay: shrink the weights by lr * weight_decay per step instead.
        rectify: "torch": adaptive once rho > 5; "paper": once rho > 4.

    Reference: Liu et al., "On the variance of the adaptive learning rate and beyond", arXiv 1908.03265, algorithm 2, in
    the form of torch.optim.RAdam. The authors' code skips the steps before rectification; the paper and torch make
    momentum steps there, and so does this class.

    >>> optimizer = RAdam(model.parameters(), lr=1e-3, weight_decay=1e-2, decoupled_weight_decay=True)
    """

    rule, decay = update, "coupled"
    slots = (Slot("exp_avg", memory="beta1"), Slot("exp_avg_sq", signed=False, memory="beta2"))
    ranges = {"rectify": OneOf(("torch", "paper"))}
    memory = BOTH_MEANS
    facts = Facts(
        lr={"default": (1e-4, 1e-2), "cnn": (3e-4, 1e-1), "transformer": (1e-4, 1e-2), "toy": (1e-4, 6e-3)},
        source="Liu et al. 1908.03265, section 5 (1e-3 for language models; 3e-3 to 1e-1 for images)",
    )

    def __init__(
        self, params: Params, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0.0, decoupled_weight_decay: bool = False, rectify: str = "torch",
        **options: Unpack[OptionsButDecay],
    ) -> None:  # fmt: skip
        super().__init__(params, hyperparameters(locals()), options)
