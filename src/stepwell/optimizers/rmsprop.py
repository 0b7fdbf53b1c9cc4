"""RMSprop: the gradient divided by a moving average of its size.

square_avg <- alpha * square_avg + (1 - alpha) * g * g
grad_avg   <- alpha * grad_avg   + (1 - alpha) * g                    (centered)
variance    = square_avg, or centered: square_avg - grad_avg * grad_avg
scaled      = g / (sqrt(variance) + eps), or eps_inside: g / sqrt(variance + eps)
momentum_buffer <- momentum * momentum_buffer + scaled
direction   = momentum_buffer, or scaled without momentum
"""

from __future__ import annotations

from typing import Any

from stepwell.engine import Optimizer, Slot
from stepwell.ops import lerp, maximum, sqrt
from stepwell.optimizers.facts import Facts


def update(g, p, t, square_avg, grad_avg, momentum_buffer, *, alpha, eps, momentum, eps_inside):  # type: ignore[no-untyped-def]
    square_avg = lerp(square_avg, g * g, 1 - alpha)
    variance = square_avg
    if grad_avg is not None:
        grad_avg = lerp(grad_avg, g, 1 - alpha)
        variance = maximum(square_avg - grad_avg * grad_avg, 0)  # rounding can take it below zero
    direction = g / (sqrt(variance + eps) if eps_inside else sqrt(variance) + eps)
    if momentum_buffer is not None:
        direction = momentum_buffer = momentum * momentum_buffer + direction
    return direction, square_avg, grad_avg, momentum_buffer


class RMSprop(Optimizer):
    """RMSprop. Still the recipe of MobileNet and EfficientNet (eps 1e-3, alpha 0.9, momentum 0.9), A2C and WGAN.

    Args:
        params: parameters, (name, parameter) pairs, or groups of them.
        lr: learning rate, at least 0.
        alpha: decay of the average of squares, in [0, 1).
        eps: keeps the division finite, at least 0; a tuned hyperparameter in the recipes above.
        weight_decay: at least 0; added to the gradient (L2).
        momentum: decay of a buffer of scaled gradients, in [0, 1).
        centered: divide by the standard deviation instead of the root of the mean square.
        eps_inside: eps under the root, as TensorFlow has it.
        options: `decoupled_weight_decay`, `maximize`, `backend` (see `stepwell.Optimizer`).

    Reference: Hinton, "Neural networks for machine learning", lecture 6e, 2012; centered: Graves, arXiv 1308.0850,
    equations 38 to 45. In the form of torch.optim.RMSprop; a centered variance below zero counts as zero.

    >>> optimizer = RMSprop(model.parameters(), lr=1e-3, alpha=0.9, momentum=0.9, eps=1e-3)
    """

    rule, decay = update, "coupled"
    slots = (
        Slot("square_avg", signed=False, memory="alpha"),
        Slot("grad_avg", when="centered", memory="alpha"),
        Slot("momentum_buffer", when="momentum", memory="momentum"),
    )
    facts = Facts(
        lr={"default": (5e-5, 1e-2), "cnn": (3e-4, 1e-1), "transformer": (1e-4, 1e-2), "toy": (1e-4, 1e-1)},
        source="Tieleman and Hinton 2012 (1e-3), MobileNetV3 (0.064 at 1024), EfficientNet (0.016 at 256, eps 1e-3), "
        "DQN (2.5e-4), WGAN (5e-5), Mnih et al. 1602.01783 (7e-4)",
    )

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        eps_inside: bool = False,
        **options: Any,
    ) -> None:
        defaults = {
            "lr": lr,
            "alpha": alpha,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "centered": centered,
            "eps_inside": eps_inside,
        }
        super().__init__(params, defaults, options)
