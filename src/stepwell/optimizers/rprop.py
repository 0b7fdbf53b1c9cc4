"""Rprop: a step size per element that grows while the gradient keeps its sign and shrinks when the sign changes.

where g * prev > 0:  step_size <- min(step_size * eta2, largest);   p <- p - sign(g) * step_size;  prev <- g
where g * prev < 0:  step_size <- max(step_size * eta1, smallest);  p stays;                       prev <- 0
where g * prev = 0:                                                 p <- p - sign(g) * step_size;  prev <- g
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepwell.engine import OneOf, Optimizer, Options, Params, Range, Slot, Unpack, hyperparameters
from stepwell.errors import UsageError
from stepwell.ops import clamp, sign, where
from stepwell.optimizers.facts import Facts


def update(g, p, t, prev, step_size, *, lr, eta1, eta2, step_size1, step_size2, variant):
    agreement = sign(g) * sign(prev)
    last = where(t == 1, lr, step_size)
    step_size = where(agreement > 0, last * eta2, where(agreement < 0, last * eta1, last))
    step_size = clamp(step_size, step_size1, step_size2)
    back = 0 if variant == "torch" else -sign(prev) * last
    step = where(agreement < 0, back, sign(g) * step_size)
    return step, where(agreement < 0, 0, g), step_size


class Rprop(Optimizer):
    """Rprop: uses only the sign of the gradient, and adapts a step size for every element.

    Use it for full-batch training: small networks, physics-informed networks, regression. Not for minibatches, whose
    noise changes signs and shrinks every step size. Cost: two slots, as Adam. Against AdamW: lr is only the initial
    step size, so it hardly matters.

    Args:
        params, options: as for every optimizer (see `stepwell.Optimizer`).
        lr: initial step size, at least 0. Later changes, such as those of a schedule, have no effect.
        etas: factors (eta1, eta2) of the step size where the sign changed and where it stayed, 0 < eta1 < 1 < eta2.
        step_sizes: (smallest, largest) step size, at least 0 and above 0.
        variant: where the sign changed, "torch" makes no step; "riedmiller" takes the last step back.

    Reference: Riedmiller, Braun, "A direct adaptive method for faster backpropagation learning: the RPROP algorithm",
    ICNN 1993 (initial step size 0.1). The default is torch.optim.Rprop's, which is iRprop- of Igel and Huesken, 2000.

    >>> optimizer = Rprop(model.parameters(), lr=1e-2)  # and the gradient of all data at every step
    """

    rule, decay = update, None
    slots = (Slot("prev", memory=0), Slot("step_size", signed=False))
    ranges = {
        "etas": Range(0, open_low=True),
        "step_sizes": Range(0),
        "variant": OneOf(("torch", "riedmiller")),
    }
    facts = Facts(
        lr={"default": (1e-4, 1e-1), "cnn": (1e-4, 1e-1), "transformer": (1e-4, 1e-1), "toy": (1e-3, 1.0)},
        source="Riedmiller and Braun, ICNN 1993, section III (0.1; the choice is not critical)",
        method="sign",
        schedule="constant",
        lr_against_adamw=None,
        needs_large_batch=True,
        length="own",
    )

    def __init__(
        self, params: Params, lr: float = 1e-2, etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50.0), variant: str = "torch", **options: Unpack[Options],
    ) -> None:  # fmt: skip
        super().__init__(params, hyperparameters(locals()), options)

    def check_together(self, group: Mapping[str, Any]) -> None:
        etas, sizes = group["etas"], group["step_sizes"]
        if not etas[0] < 1 < etas[1]:
            raise UsageError(f"Rprop: etas={etas!r}; the first must be below 1 and the second above 1")
        if sizes[0] > sizes[1] or sizes[1] == 0:
            raise UsageError(
                f"Rprop: step_sizes={sizes!r}; the first is the smallest, the second the largest, which is above 0"
            )
