"""MARS-AdamW: AdamW whose gradient is extrapolated from its last change, and clipped.

c           = g + gamma * beta1 / (1 - beta1) * (g - last_grad)
c           = c / max(1, ||c||)                                        the norm of each tensor
exp_avg    <- beta1 * exp_avg    + (1 - beta1) * c
exp_avg_sq <- beta2 * exp_avg_sq + (1 - beta2) * c * c
direction   = debias(exp_avg) / (sqrt(debias(exp_avg_sq)) + eps)
p          <- p - lr * weight_decay * p - lr * direction
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from stepwell.engine import Optimizer, Options, Params, Range, Slot, Unpack, as_groups, hyperparameters
from stepwell.engine.rule import FLAG, check_hyperparameters, read
from stepwell.ops import sqrt, where
from stepwell.optimizers import adam
from stepwell.optimizers.adam import Adam
from stepwell.optimizers.adamw import AdamW
from stepwell.optimizers.facts import Facts
from stepwell.optimizers.parted import parted, refuse_inside_zero
from stepwell.optimizers.pieces import clipped


def extrapolated(g, t, last_grad, beta1, gamma, first_previous_zero):
    before = last_grad if first_previous_zero else where(t > 1, last_grad, g)
    return g + gamma * beta1 / (1 - beta1) * (g - before)


def measure(g, p, t, *slots, beta1, gamma, first_previous_zero):
    c = extrapolated(g, t, slots[-1], beta1, gamma, first_previous_zero)
    return {"c_squared": c * c}


def update(
    g, p, t, exp_avg, exp_avg_sq, max_exp_avg_sq, last_grad, *, beta1, beta2, eps, gamma, first_previous_zero, c_squared
):
    c = clipped(extrapolated(g, t, last_grad, beta1, gamma, first_previous_zero), sqrt(c_squared), 1)
    return *adam.update(c, p, t, exp_avg, exp_avg_sq, max_exp_avg_sq, beta1=beta1, beta2=beta2, eps=eps), g


class MARS(Optimizer):
    """MARS-AdamW: AdamW with variance reduction from the last gradient, for pretraining of transformers.

    This is MARS-approx: in place of the current batch's gradient at the last weights, it uses the last gradient, which
    is of another batch. Cost: three slots, one more than AdamW, and a second pass over every tensor.

    Args:
        params, options: as for every optimizer (see `stepwell.Optimizer`). A group may contain `use_mars`.
        lr: learning rate, at least 0; 1 to 2 times a tuned AdamW's, 10 times that of the usual GPT-2 recipes.
        betas: decay rates (beta1, beta2) of the two averages, each in [0, 1).
        eps: added to the denominator for numerical stability, at least 0.
        weight_decay: at least 0; each step shrinks the weights by lr * weight_decay.
        gamma: strength of the extrapolation, at least 0; 0.025 in the paper.
        amsgrad: divide by the largest second moment so far; one more slot.
        first_previous_zero: take zero for the gradient before the first, as the authors' code does. The paper does not
            extrapolate at the first step.
        optimize_1d: update all tensors with MARS, as in the paper. False: AdamW updates tensors that are not 2-D, the
            default of the authors' code.
        adamw_lr, adamw_betas, adamw_weight_decay: hyperparameters of that AdamW; None: `lr` and `weight_decay`.

    Reference: Yuan et al., "MARS: unleashing the power of variance reduction for training large models", arXiv
    2411.10438, algorithm 2. The second moment is that of c, as in the paper and its code; the README of the code says
    g.

    >>> optimizer = MARS(model.parameters(), lr=6e-3, weight_decay=0.01)
    >>> optimizer = MARS(model.parameters(), lr=6e-3, weight_decay=0.1, optimize_1d=False, adamw_lr=3e-3)
    """

    rule, measure, sums, decay = update, measure, ("c_squared",), "decoupled"
    slots = (*Adam.slots, Slot("last_grad", memory=0))
    others = {"adamw": AdamW.signature}
    construction = ("adamw_lr", "adamw_betas", "adamw_weight_decay", "optimize_1d")
    ranges = {"gamma": Range(0)}
    facts = Facts(
        kind="sums",
        lr={"default": (1e-4, 3e-2), "cnn": (3e-4, 3e-2), "transformer": (3e-4, 3e-2), "toy": (1e-3, 1.0)},
        lr_against_adamw=2.0,
        needs_warmup=True,
        source="Yuan et al. 2411.10438, its code's page (6e-3, 3e-3, 2e-3 where AdamW has 6e-4, 3e-4, 2e-4), Wen et "
        "al. 2509.02046 (8e-3 to 1.6e-2 where a tuned AdamW has 8e-3)",
    )

    def __init__(
        self, params: Params, lr: float = 3e-3, betas: tuple[float, float] = (0.95, 0.99), eps: float = 1e-8,
        weight_decay: float = 0.0, amsgrad: bool = False, gamma: float = 0.025, *, first_previous_zero: bool = False,
        optimize_1d: bool = True, adamw_lr: float | None = None, adamw_betas: tuple[float, float] = (0.9, 0.95),
        adamw_weight_decay: float | None = None, **options: Unpack[Options],
    ) -> None:  # fmt: skip
        defaults = {**hyperparameters(locals()), "use_mars": True}
        defaults |= check_hyperparameters("MARS", defaults, self.ranges_with(defaults))
        self.inner = {
            "lr": defaults["lr" if adamw_lr is None else "adamw_lr"],
            "betas": defaults["adamw_betas"],
            "weight_decay": defaults["weight_decay" if adamw_weight_decay is None else "adamw_weight_decay"],
        }
        self.optimize_1d = defaults["optimize_1d"]
        super().__init__(self._split(as_groups(params, "MARS")), defaults, options)

    @classmethod
    def method_of(cls, group: Mapping[str, Any], tensor: Tensor) -> str:
        return "" if group.get("use_mars", True) else "adamw"

    @classmethod
    def group_for(cls, settings: Mapping[str, Any], group: Mapping[str, Any], tensor: Tensor) -> dict[str, Any]:
        found = {**settings, **group}
        if cls.method_of(found, tensor) and "betas" not in group:
            found["betas"] = found["adamw_betas"]
        return found

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group. It becomes two groups where AdamW updates a part of it."""
        is_group = isinstance(param_group, dict) and "params" in param_group  # anything else is refused
        for group in self._split(as_groups([param_group], "MARS")) if is_group else [param_group]:
            super().add_param_group(group)

    def _split(self, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Groups with a key `use_mars`: the tensors of MARS, and the others with the hyperparameters of AdamW."""
        result: list[dict[str, Any]] = []
        for group in groups:
            if self.optimize_1d or "use_mars" in group:
                result.append(group if _said(group) else {**self.inner, **group})
                continue
            refuse_inside_zero("MARS", "use_mars")
            mine, others = parted(group, lambda name, tensor: tensor.ndim == 2)
            parts = ({**mine, "use_mars": True}, {**self.inner, **others, "use_mars": False})
            result += [part for part in parts if part["params"]] or [group]
        return result


def _said(group: dict[str, Any]) -> bool:
    """The key `use_mars` of a group; MARS updates groups without the key."""
    return bool(read("MARS", "use_mars", group.get("use_mars", True), FLAG))
