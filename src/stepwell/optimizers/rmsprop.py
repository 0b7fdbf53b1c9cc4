"""RMSprop: the gradient divided by a moving average of its size.

square_avg <- alpha * square_avg + (1 - alpha) * g * g
grad_avg   <- alpha * grad_avg   + (1 - alpha) * g                    (centered)
variance    = square_avg, or centered: square_avg - grad_avg * grad_avg
scaled      = g / (sqrt(variance) + eps), or eps_inside: g / sqrt(variance + eps)
momentum_buffer <- momentum * momentum_buffer + scaled
direction   = momentum_buffer, or scaled without momentum
p          <- p - lr * direction

variant="tensorflow": square_avg starts at 1, not 0, and
scaled      = lr * g / sqrt(variance + eps)
p          <- p - momentum_buffer, or p - scaled without momentum
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from stepwell.engine import OneOf, Optimizer, Options, Params, RuleSignature, Slot, Unpack, hyperparameters
from stepwell.errors import UsageError
from stepwell.ops import ema, ema_square, maximum, sqrt
from stepwell.optimizers.facts import Facts
from stepwell.optimizers.memory import Memory


def _averaged(g, square_avg, grad_avg, alpha):
    """The variance, and the new averages."""
    square_avg = ema_square(square_avg, g, alpha)
    if grad_avg is None:
        return square_avg, square_avg, None
    grad_avg = ema(grad_avg, g, alpha)
    return maximum(square_avg - grad_avg * grad_avg, 0), square_avg, grad_avg  # rounding can take it below zero


def update(g, p, t, square_avg, grad_avg, momentum_buffer, *, alpha, eps, momentum, eps_inside):
    variance, square_avg, grad_avg = _averaged(g, square_avg, grad_avg, alpha)
    direction = g / (sqrt(variance + eps) if eps_inside else sqrt(variance) + eps)
    if momentum_buffer is not None:
        direction = momentum_buffer = momentum * momentum_buffer + direction
    return direction, square_avg, grad_avg, momentum_buffer


def tensorflow_update(g, p, t, square_avg, grad_avg, momentum_buffer, *, lr, alpha, eps, momentum, variant):
    variance, square_avg, grad_avg = _averaged(g, square_avg, grad_avg, alpha)
    step = lr * (g / sqrt(variance + eps))
    if momentum_buffer is not None:
        step = momentum_buffer = momentum * momentum_buffer + step
    return step, square_avg, grad_avg, momentum_buffer


AVERAGES = (
    Slot("grad_avg", when="centered", memory="alpha"),
    Slot("momentum_buffer", when="momentum", memory="momentum"),
)


def weight_of_square(group: Mapping[str, Any], t: float) -> float | None:
    """The weight of equal squares in the average; None for an average that started at 1, which contains that 1."""
    return None if group.get("variant") == "tensorflow" else 1 - group["alpha"] ** t


class RMSprop(Optimizer):
    """RMSprop, in torch's form or in TensorFlow's: the gradient divided by a running average of its size.

    Use it for the published recipes of MobileNet, EfficientNet, A2C and WGAN; for new work Adam adds momentum with a
    bias correction. Cost: one slot, and one more each with `momentum` and `centered`. Against AdamW: the same lr.

    The two forms share a name, but not their hyperparameters. MobileNetV2, V3 and EfficientNet were trained in
    TensorFlow's form: alpha 0.9, momentum 0.9 and eps 1e-3 inside the root. In torch's form that eps is about 0.0316
    (the root of 1e-3), not 1e-3, and the first steps are longer (a first gradient is divided by sqrt(1 - alpha) of its
    own size instead of by about 1). A2C, WGAN and DQN in torch use torch's form.

    Args:
        params, options: as for every optimizer (see `stepwell.Optimizer`).
        lr: learning rate, at least 0.
        alpha: decay rate of the average of squares, in [0, 1).
        eps: added to the denominator, at least 0; a tuned hyperparameter in the recipes above.
        weight_decay: at least 0; added to the gradient (L2 penalty) unless `decoupled_weight_decay`.
        momentum: decay rate of a buffer of scaled gradients, in [0, 1).
        centered: divide by the standard deviation instead of the root mean square.
        eps_inside: add eps inside the root, without the other differences of "tensorflow".
        variant: "torch", as torch.optim.RMSprop; or "tensorflow": eps is inside the root, the average of squares starts
            at 1, and lr is inside the buffer, so a schedule affects later gradients only. With "tensorflow" also set
            alpha, momentum and eps to TensorFlow's values (rho 0.9, epsilon 1e-7; the recipes 1e-3): the defaults are
            torch's.

    Reference: Hinton, "Neural networks for machine learning", lecture 6e, 2012; centered: Graves, arXiv 1308.0850,
    equations 38 to 45. "tensorflow" is tf.keras.optimizers.RMSprop of TensorFlow 1 and 2 (ApplyRMSProp), timm's
    RMSpropTF in PyTorch. A centered variance below zero counts as zero.

    >>> optimizer = RMSprop(model.parameters(), lr=1e-3, alpha=0.9, momentum=0.9, eps=1e-3, variant="tensorflow")
    >>> optimizer = RMSprop(model.parameters(), lr=7e-4, alpha=0.99, eps=1e-5)               # A2C

    Raises UsageError for `cautious` with "tensorflow", whose buffer holds steps.
    """

    rule, decay = update, "coupled"
    slots = (Slot("square_avg", signed=False, memory="alpha"), *AVERAGES)
    others = {
        "tensorflow": RuleSignature(
            tensorflow_update, (Slot("square_avg", start=1.0, signed=False, memory="alpha"), *AVERAGES)
        )
    }
    ranges = {"variant": OneOf(("torch", "tensorflow"))}
    memory = Memory(None, ("square_avg", weight_of_square))
    facts = Facts(
        lr={"default": (5e-5, 1e-2), "cnn": (3e-4, 1e-1), "transformer": (1e-4, 1e-2), "toy": (1e-4, 1e-1)},
        source="Tieleman and Hinton 2012 (1e-3), MobileNetV3 (0.064 at 1024), EfficientNet (0.016 at 256), both in "
        "TensorFlow's form (eps 1e-3: 0.0316 in torch's), DQN (2.5e-4), WGAN (5e-5), Mnih et al. 1602.01783 (7e-4)",
        published={"default": (5e-5, 1e-2), "cnn": (1.6e-2, 0.256), "gan": (5e-5, 2e-4)},  # 1 or 2 runs per kind
    )

    def __init__(
        self, params: Params, lr: float = 1e-2, alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0.0,
        momentum: float = 0.0, centered: bool = False, *, eps_inside: bool = False, variant: str = "torch",
        **options: Unpack[Options],
    ) -> None:  # fmt: skip
        super().__init__(params, hyperparameters(locals()), options)

    def check_together(self, group: Mapping[str, Any]) -> None:
        if group["variant"] == "tensorflow" and group["cautious"]:
            raise UsageError(
                "RMSprop: cautious=True with variant='tensorflow' is not available: its rule returns a whole step, not "
                "a direction; leave out one of them"
            )

    @classmethod
    def method_of(cls, group: Mapping[str, Any], tensor: Tensor) -> str:
        return "tensorflow" if group["variant"] == "tensorflow" else ""
