"""LARS: momentum SGD with each tensor's step scaled to its own norm.

ratio            = trust_coefficient * ||p|| / (||g|| + weight_decay * ||p|| + eps), 1 where either norm is 0
scaled           = ratio * (g + weight_decay * p)
momentum_buffer <- momentum * momentum_buffer + (1 - dampening) * scaled      (the first: scaled)
direction        = momentum_buffer, or with nesterov: scaled + momentum * momentum_buffer
p               <- p - lr * direction
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from stepwell.engine import Options, Params, Range, Slot, Unpack, hyperparameters
from stepwell.ops import sqrt
from stepwell.optimizers.facts import Facts
from stepwell.optimizers.layerwise import EXCLUDE, LayerWise
from stepwell.optimizers.pieces import trust_ratio
from stepwell.optimizers.sgd import check_nesterov
from stepwell.optimizers.sgd import update as momentum_step


def measure(g, p, t, momentum_buffer):
    return {"p_squared": p * p, "g_squared": g * g}


def update(
    g, p, t, momentum_buffer, *, momentum, dampening, weight_decay, nesterov, trust_coefficient, eps,
    momentum_after_scaling, exclude, p_squared, g_squared,
):  # fmt: skip
    if exclude:
        ratio, decayed = 1, g
    else:
        norm = sqrt(p_squared)
        adapted = trust_coefficient * norm / (sqrt(g_squared) + weight_decay * norm + eps)
        ratio = trust_ratio(adapted, p_squared, g_squared)
        decayed = g + weight_decay * p
    scaled = ratio * decayed if momentum_after_scaling else decayed
    direction, momentum_buffer = momentum_step(
        scaled, p, t, momentum_buffer, momentum=momentum, dampening=dampening, nesterov=nesterov
    )
    return direction if momentum_after_scaling else ratio * direction, momentum_buffer


class LARS(LayerWise):
    """LARS: for convolutional networks at batches of thousands, and self-supervised ones (SimCLR, BYOL, Barlow Twins).

    Each tensor moves by about lr * trust_coefficient times its own norm. At small batches it has no advantage over SGD.
    Cost: one slot, as SGD with momentum, and a second pass over every tensor. Biases and norm weights get momentum SGD
    without ratio and weight decay, as in published training code: `LARS(model)` finds them.

    Args:
        params, options: as for every optimizer (see `stepwell.Optimizer`). Pass a model to `exclude` by role.
        lr: learning rate, at least 0; published values range from 0.2 to 25, with a trust coefficient of 1e-3.
        momentum: decay rate of the buffer, in [0, 1).
        dampening: each gradient after the first enters the buffer with weight 1 - dampening, in [0, 1].
        weight_decay: at least 0; inside the ratio and the buffer.
        nesterov: look one step ahead; needs momentum and no dampening.
        trust_coefficient: the paper's eta, above 0.
        eps: added to the denominator for numerical stability, at least 0.
        momentum_after_scaling: the buffer sums scaled gradients (the paper). False: the current ratio scales a buffer
            of plain gradients, which is a different method once ratios change.
        exclude: the tensors without ratio and weight decay. "vectors": norms, biases and scalars by role if `params` is
            a model or was made from one, else tensors with fewer than two dimensions; "all", for a group; "none".

    Reference: You, Gitman, Ginsburg, "Large batch training of convolutional networks", arXiv 1708.03888, algorithm 1.
    The paper multiplies by lr inside the buffer, which is the same while lr is constant.

    >>> optimizer = LARS(model.parameters(), lr=4.8, momentum=0.9, weight_decay=1e-6)
    """

    rule, measure, sums, decay = update, measure, ("p_squared", "g_squared"), None
    slots = (Slot("momentum_buffer", when="momentum", memory="momentum"),)
    ranges = {"exclude": EXCLUDE, "trust_coefficient": Range(0, open_low=True)}
    facts = Facts(
        # a toy task is one vector, which gets plain momentum SGD
        lr={"default": (0.1, 30.0), "cnn": (0.1, 30.0), "transformer": (0.1, 30.0), "toy": (1e-5, 1e-1)},
        method="layer-wise",
        lr_against_adamw=None,
        needs_warmup=True,
        needs_large_batch=True,
        source="You et al. 1708.03888, Chen et al. 2002.05709 (4.8 at 4096), MLPerf (7.4 at 1632 to 25 at 65536)",
        compare_options=MappingProxyType({"momentum": 0.9}),
        kind="sums",
        published={"default": (0.2, 25.0)},
    )

    def __init__(
        self, params: Params, lr: float = 1.0, momentum: float = 0.9, dampening: float = 0.0, weight_decay: float = 0.0,
        nesterov: bool = False, *, trust_coefficient: float = 1e-3, eps: float = 1e-8,
        momentum_after_scaling: bool = True, exclude: str = "vectors", **options: Unpack[Options],
    ) -> None:  # fmt: skip
        super().__init__(params, hyperparameters(locals()), options)

    def check_together(self, group: Mapping[str, Any]) -> None:
        check_nesterov("LARS", group)
