"""ASGD: SGD with a decaying step size, and the running mean of its iterates in a slot.

p   <- p - eta * (g + weight_decay * p + lambd * p)
ax  <- ax + mu * (p - ax)
eta <- lr / (1 + lambd * lr * t)**alpha      for the next step; lr at first
mu  <- 1 / max(1, t - t0)                    for the next step; 1 at first
"""

from __future__ import annotations

from stepwell.engine import Optimizer, Options, Params, Range, Slot, Unpack, hyperparameters
from stepwell.ops import lerp, maximum, where
from stepwell.optimizers.facts import Facts


def update(g, p, t, eta, mu, ax, *, lr, weight_decay, lambd, alpha, t0):
    step = eta * (g + weight_decay * p + lambd * p)
    ax = where(mu == 1, p - step, lerp(ax, p - step, mu))
    return step, lr / (1 + lambd * lr * t) ** alpha, 1 / maximum(1, t - t0), ax


class ASGD(Optimizer):
    """Averaged SGD: keeps the mean of the iterates, `optimizer.state[p]["ax"]`, which has less noise than each of them.

    Use it for convex and nearly convex problems, and for the last phase of a recurrent language model (set `t0` when
    the validation loss stalls). For deep networks an average of weights (`stepwell.Average`) with any optimizer is
    simpler. Cost: one slot. Against AdamW: lr like SGD's, 100 times larger or more.

    Args:
        params, options: as for every optimizer (see `stepwell.Optimizer`).
        lr: learning rate of the first step, at least 0. A schedule acts one step late.
        lambd: at least 0; how fast the step size decays. Each step also shrinks the weights by eta * lambd.
        alpha: exponent of the decay of the step size, at least 0.
        t0: the step after which iterates are averaged, at least 0.
        weight_decay: at least 0; added to the gradient (L2 penalty). `lambd` is the decoupled decay.

    Reference: Polyak, Juditsky, "Acceleration of stochastic approximation by averaging", SIAM J. Control Optim. 30,
    1992; schedules of Bottou, "Stochastic gradient descent tricks", 2012, sections 5 and 6, in the form of
    torch.optim.ASGD. The paper averages all iterates with equal weight; t0=0 does so for all but the first.

    >>> optimizer = ASGD(model.parameters(), lr=30.0, lambd=0.0, t0=20_000)
    """

    rule, decay = update, None
    decay_by_rule = "coupled"
    slots = (
        Slot("eta", per="tensor", start=lambda group: float(group["lr"])),
        Slot("mu", per="tensor", start=1.0),
        Slot("ax", wide=True),
    )
    ranges = {"lambd": Range(0), "alpha": Range(0), "t0": Range(0)}
    facts = Facts(
        lr={"default": (3e-3, 1.0), "cnn": (1e-2, 1.0), "transformer": (1e-2, 3.0), "toy": (1e-5, 1e-1)},
        source="Bottou 2012, section 5; Merity et al. 1708.02182 (30 with clipped gradients); ranges as for SGD",
        method="averaged",
        lr_against_adamw=100.0,
        length="gradient",
    )

    def __init__(
        self, params: Params, lr: float = 1e-2, lambd: float = 1e-4, alpha: float = 0.75, t0: float = 1e6,
        weight_decay: float = 0.0, **options: Unpack[Options],
    ) -> None:  # fmt: skip
        super().__init__(params, hyperparameters(locals()), options)
