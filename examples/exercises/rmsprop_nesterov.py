"""RMSprop with Nesterov momentum: a new optimizer in one file, written by a user of stepwell.

square_avg      <- alpha * square_avg + (1 - alpha) * g * g
scaled           = g / (sqrt(square_avg) + eps)
momentum_buffer <- momentum * momentum_buffer + scaled
direction        = scaled + momentum * momentum_buffer
p               <- p - lr * direction

The file needs no line anywhere else. The class is a `torch.optim.Optimizer` for plain loops, `stepwell.Step`,
`stepwell.find_lr` and `stepwell.switch`. The engine compiles `update` to a kernel, and adds weight decay, clipping,
state in 8 bits (`state="int8"`) and checkpoints.
"""

from __future__ import annotations

from typing import Any

import stepwell as sw
from stepwell.ops import ema_square, sqrt
from stepwell.optimizers.facts import Facts


def update(g, p, t, square_avg, momentum_buffer, *, alpha, eps, momentum):
    """The rule for one element: gradient, parameter, number of the step, slots -> direction, new slots.

    The direction looks one step ahead, in the form of torch.optim.SGD(nesterov=True): the gradient stays the gradient
    at `p`, and the step adds the part of the momentum that the next step would add anyway.
    """
    square_avg = ema_square(square_avg, g, alpha)
    scaled = g / (sqrt(square_avg) + eps)
    momentum_buffer = momentum * momentum_buffer + scaled
    return scaled + momentum * momentum_buffer, square_avg, momentum_buffer


class RMSpropNesterov(sw.Optimizer):
    """RMSprop with Nesterov momentum. In the long run a step is up to 1 / (1 - momentum) times that of RMSprop."""

    rule, decay = update, "coupled"  # coupled: weight decay is added to the gradient, as in torch's RMSprop
    slots = (sw.Slot("square_avg", signed=False, memory="alpha"), sw.Slot("momentum_buffer", memory="momentum"))
    # `find_lr` reads the rates worth trying, and `switch` asks for facts. "toy" is measured on Rosenbrock's valley; in
    # general a tenth of the rates of RMSprop, whose steps the momentum makes ten times longer.
    facts = Facts(lr={"default": (5e-6, 1e-3), "toy": (3e-4, 1e-1)}, source="RMSprop's facts, docs/exercises.md")

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        **options: Any,
    ) -> None:
        own = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, own, options)
