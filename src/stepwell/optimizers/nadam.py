"""NAdam: Adam with Nesterov momentum and a momentum that rises over the first steps.

mu         = beta1 * (1 - 0.96**(t * momentum_decay) / 2),  mu_next the same for t + 1
mu_product <- mu_product * mu
exp_avg    <- beta1 * exp_avg + (1 - beta1) * g              (average_with_mu: mu for beta1)
exp_avg_sq <- beta2 * exp_avg_sq + (1 - beta2) * g * g
ahead       = mu_next / (1 - mu_product * mu_next) * exp_avg + (1 - mu) / (1 - mu_product) * g
direction   = ahead / (sqrt(exp_avg_sq / (1 - beta2**t)) + eps)
p          <- p - lr * direction
"""

from __future__ import annotations

from stepwell.engine import Optimizer, OptionsButDecay, Params, Range, Slot, Unpack, hyperparameters
from stepwell.ops import debias, ema, ema_square, sqrt
from stepwell.optimizers.facts import Facts
from stepwell.optimizers.memory import BOTH_MEANS


def update(g, p, t, exp_avg, exp_avg_sq, mu_product, *, beta1, beta2, eps, momentum_decay, average_with_mu):
    mu = beta1 * (1 - 0.5 * 0.96 ** (t * momentum_decay))
    mu_next = beta1 * (1 - 0.5 * 0.96 ** ((t + 1) * momentum_decay))
    mu_product = mu_product * mu
    exp_avg = ema(exp_avg, g, mu if average_with_mu else beta1)
    exp_avg_sq = ema_square(exp_avg_sq, g, beta2)
    ahead = mu_next / (1 - mu_product * mu_next) * exp_avg + (1 - mu) / (1 - mu_product) * g
    return ahead / (sqrt(debias(exp_avg_sq, beta2, t)) + eps), exp_avg, exp_avg_sq, mu_product


class NAdam(Optimizer):
    """NAdam: Adam that reacts to a new gradient one step sooner.

    Use it for recurrent networks, and wherever Adam works and a little speed is wanted; it was the most reliable choice
    of several untuned benchmarks. Cost: two slots, as Adam. Against AdamW: the same lr, or up to 2 times larger.

    Args:
        params, options: as for every optimizer (see `stepwell.Optimizer`).
        lr: learning rate, at least 0: about the size of each element's step.
        betas: decay rates (beta1, beta2) of the two averages, each in [0, 1).
        eps: added to the denominator for numerical stability, at least 0.
        weight_decay: at least 0; added to the gradient (L2 penalty).
        momentum_decay: how fast the momentum rises from beta1 / 2 to beta1, at least 0.
        decoupled_weight_decay: shrink the weights by lr * weight_decay per step instead.
        average_with_mu: average with the rising mu, as in the paper, instead of with beta1, as in torch.

    Reference: Dozat, "Incorporating Nesterov momentum into Adam", ICLR workshop 2016, algorithm 2 and section 3. The
    default is torch.optim.NAdam's: it averages with beta1 and weights with mu; `average_with_mu` is the paper's.

    >>> optimizer = NAdam(model.parameters(), lr=2e-3)
    """

    rule, decay = update, "coupled"
    slots = (
        Slot("exp_avg", memory="beta1"),
        Slot("exp_avg_sq", signed=False, memory="beta2"),
        Slot("mu_product", per="tensor", start=1.0),
    )
    ranges = {"momentum_decay": Range(0)}
    memory = BOTH_MEANS
    facts = Facts(
        lr={"default": (1e-4, 1e-2), "cnn": (3e-4, 3e-2), "transformer": (1e-4, 1e-2), "toy": (1e-3, 1.0)},
        source="Dozat, ICLR workshop 2016, section 4 (2e-3); Schmidt et al. 2007.01547 (1e-4 to 1e-2)",
        needs_warmup=True,
    )

    def __init__(
        self, params: Params, lr: float = 2e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0.0, momentum_decay: float = 4e-3, decoupled_weight_decay: bool = False,
        average_with_mu: bool = False, **options: Unpack[OptionsButDecay],
    ) -> None:  # fmt: skip
        super().__init__(params, hyperparameters(locals()), options)
