"""Adadelta: steps in the units of the parameter, from running averages of squared gradients and squared steps.

square_avg <- rho * square_avg + (1 - rho) * g * g
direction   = sqrt(acc_delta + eps) / sqrt(square_avg + eps) * g
acc_delta  <- rho * acc_delta + (1 - rho) * direction * direction
p          <- p - lr * direction
"""

from __future__ import annotations

from stepwell.engine import Optimizer, Options, Params, Range, Slot, Unpack, hyperparameters
from stepwell.ops import ema_square, sqrt
from stepwell.optimizers.facts import Facts


def update(g, p, t, square_avg, acc_delta, *, rho, eps):
    square_avg = ema_square(square_avg, g, rho)
    direction = sqrt(acc_delta + eps) / sqrt(square_avg + eps) * g
    return direction, square_avg, ema_square(acc_delta, direction, rho)


class Adadelta(Optimizer):
    """Adadelta: no learning rate to tune; the paper has none, and here it is 1 by default.

    Use it for small networks that nobody wants to tune, and to reproduce older work. It starts slowly (the first step
    has the size sqrt(eps)); Adam is as easy and usually better. Cost: two slots, as Adam. Against AdamW: lr about 1,
    whatever AdamW's lr is.

    Args:
        params, options: as for every optimizer (see `stepwell.Optimizer`).
        lr: learning rate, at least 0; multiplies the step, but not the step that `acc_delta` averages.
        rho: decay rate of both averages, in [0, 1).
        eps: added under both roots, at least 0; the size of the first steps is sqrt(eps).
        weight_decay: at least 0; added to the gradient (L2 penalty) unless `decoupled_weight_decay`.

    Reference: Zeiler, "ADADELTA: an adaptive learning rate method", arXiv 1212.5701, algorithm 1. The paper has neither
    lr nor weight decay, and uses rho 0.95 in its experiments; the defaults are those of torch.optim.Adadelta.

    >>> optimizer = Adadelta(model.parameters(), lr=1.0, rho=0.95)
    """

    rule, decay = update, "coupled"
    slots = (Slot("square_avg", signed=False, memory="rho"), Slot("acc_delta", signed=False, memory="rho"))
    ranges = {"rho": Range(0, 1)}
    facts = Facts(
        lr={"default": (3e-2, 1e1), "cnn": (1e-1, 1e1), "transformer": (1e-1, 1e1), "toy": (1e-1, 1e2)},
        source="Zeiler 1212.5701, section 4 (no rate, which is 1), PyTorch's MNIST example (1.0)",
        lr_against_adamw=None,
        length="own",
        eps_bounds=False,
    )

    def __init__(
        self, params: Params, lr: float = 1.0, rho: float = 0.9, eps: float = 1e-6, weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:  # fmt: skip
        super().__init__(params, hyperparameters(locals()), options)
