"""Adagrad: the gradient divided by the root of the sum of all its squares so far.

sum       <- sum + g * g
direction  = g / (sqrt(sum) + eps) / (1 + (t - 1) * lr_decay)
p         <- p - lr * direction
"""

from __future__ import annotations

from stepwell.engine import Optimizer, Options, Params, Slot, Unpack, hyperparameters
from stepwell.ops import sqrt
from stepwell.optimizers.facts import Facts


def update(g, p, t, sum, *, eps, lr_decay):
    sum = sum + g * g
    return g / (sqrt(sum) + eps) * (1 / (1 + (t - 1) * lr_decay)), sum


class Adagrad(Optimizer):
    """Adagrad: steps that shrink for each element as its squared gradients add up.

    Use it for sparse features and recommendation models, where frequent features should take ever smaller steps. On
    long runs of other models the steps become too small. Cost: one slot, half of Adam's. Against AdamW: lr about 10
    times larger.

    Args:
        params, options: as for every optimizer (see `stepwell.Optimizer`).
        lr: learning rate, at least 0; its effect falls with the root of the number of steps.
        lr_decay: a further decay, lr / (1 + (t - 1) * lr_decay), at least 0.
        weight_decay: at least 0; added to the gradient (L2 penalty) unless `decoupled_weight_decay`.
        initial_accumulator_value: initial value of the sum, at least 0.
        eps: added to the denominator for numerical stability, at least 0.

    Reference: Duchi, Hazan, Singer, "Adaptive subgradient methods", JMLR 12, 2011, figure 1, diagonal version, in the
    form of torch.optim.Adagrad.

    >>> optimizer = Adagrad(model.parameters(), lr=1e-2, initial_accumulator_value=0.1)
    """

    rule, decay = update, "coupled"
    slots = (Slot("sum", start=lambda group: group["initial_accumulator_value"], signed=False),)
    facts = Facts(
        lr={"default": (1e-3, 3e-1), "cnn": (3e-3, 3e-1), "transformer": (3e-3, 3e-1), "toy": (1e-2, 3.0)},
        source="Duchi et al. 2011, Naumov et al. 1906.00091 and the MLPerf DLRM-DCNv2 reference (4e-3)",
        lr_against_adamw=10.0,
        length="own",
    )

    def __init__(
        self, params: Params, lr: float = 1e-2, lr_decay: float = 0.0, weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0, eps: float = 1e-10, **options: Unpack[Options],
    ) -> None:  # fmt: skip
        super().__init__(params, hyperparameters(locals()), options)
