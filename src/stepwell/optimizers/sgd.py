"""Stochastic gradient descent with momentum, Nesterov momentum, and coupled or decoupled weight decay.

momentum_buffer <- momentum * momentum_buffer + (1 - dampening) * g          (the first: g)
direction        = momentum_buffer, or with nesterov: g + momentum * momentum_buffer
p               <- p - lr * direction
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from stepwell.engine import Optimizer, Options, Params, Slot, Unpack, hyperparameters
from stepwell.errors import UsageError
from stepwell.ops import where
from stepwell.optimizers.facts import Facts
from stepwell.optimizers.memory import Memory


def update(g, p, t, momentum_buffer, *, momentum, dampening, nesterov):
    if momentum_buffer is None:
        return g, None
    momentum_buffer = where(t == 1, 0, momentum) * momentum_buffer + where(t == 1, 1, 1 - dampening) * g
    return (g + momentum * momentum_buffer if nesterov else momentum_buffer), momentum_buffer


def weight_of_sum(group: Mapping[str, Any], t: float) -> float:
    """The weight of equal gradients in the buffer: the first has weight 1, later ones 1 - dampening."""
    momentum = group["momentum"]
    return momentum ** (t - 1) + (1 - group["dampening"]) * (1 - momentum ** (t - 1)) / (1 - momentum)


def summing(group: Mapping[str, Any]) -> Mapping[str, float] | str:
    """With momentum 1 the buffer adds up gradients; what a group needs for that."""
    is_sum = group["momentum"] and not (group["nesterov"] or group["dampening"] or group["cautious"])
    return {"momentum": 1.0} if is_sum else "momentum above 0, nesterov=False, dampening=0 and cautious=False"


class SGD(Optimizer):
    """Stochastic gradient descent, usually with momentum 0.9.

    Use it for convolutional networks with batch norm and a tuned schedule, where no other optimizer is clearly better.
    Not for transformers, whose gradients differ too much in scale. Cost: one slot with momentum, no state without.
    Against AdamW: lr about 100 times larger. The step of a constant gradient is lr / (1 - momentum) times the gradient.

    Args:
        params, options: as for every optimizer (see `stepwell.Optimizer`).
        lr: learning rate, at least 0.
        momentum: decay rate of the buffer, in [0, 1). At 0 there is no buffer and no state.
        dampening: each gradient after the first enters the buffer with weight 1 - dampening, in [0, 1].
        weight_decay: at least 0; added to the gradient (L2 penalty) unless `decoupled_weight_decay`.
        nesterov: look one step ahead; needs momentum and no dampening.

    Reference: Sutskever, Martens, Dahl, Hinton, "On the importance of initialization and momentum in deep learning",
    ICML 2013, section 2, in the form of torch.optim.SGD: the learning rate is outside the buffer.

    >>> optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    """

    rule, decay, summing = update, "coupled", staticmethod(summing)
    slots = (Slot("momentum_buffer", when="momentum", memory="momentum"),)
    memory = Memory(("momentum_buffer", weight_of_sum))
    facts = Facts(
        lr={"default": (3e-3, 1.0), "cnn": (1e-2, 1.0), "transformer": (1e-2, 3.0), "toy": (1e-5, 1e-1)},
        source="He et al. 1512.03385 (0.1 at 256), Goyal et al. 1706.02677, Merity et al. 1708.02182 (30, clipped)",
        compare_options=MappingProxyType({"momentum": 0.9}),
        method="gradient",
        lr_against_adamw=100.0,
        # From the lowest rate to the 90th percentile of convolutional networks: the few higher rates (11.5, 18, 30)
        # stand for other units, sums over the batch, or linear probes. Fine-tuning: 5 runs.
        published={"default": (1e-2, 0.6), "fine-tuning": (1e-3, 2e-2)},
    )

    def __init__(
        self, params: Params, lr: float = 1e-3, momentum: float = 0.0, dampening: float = 0.0,
        weight_decay: float = 0.0, nesterov: bool = False, **options: Unpack[Options],
    ) -> None:  # fmt: skip
        super().__init__(params, hyperparameters(locals()), options)

    def check_together(self, group: Mapping[str, Any]) -> None:
        check_nesterov("SGD", group)


def check_nesterov(owner: str, group: Mapping[str, Any]) -> None:
    """Raise UsageError for Nesterov momentum without momentum, or with dampening."""
    momentum, dampening = group["momentum"], group["dampening"]
    if group["nesterov"] and (momentum == 0 or dampening != 0):
        raise UsageError(
            f"{owner}: nesterov=True with momentum={momentum!r} and dampening={dampening!r}; "
            "Nesterov's form needs momentum above 0 and dampening 0"
        )
