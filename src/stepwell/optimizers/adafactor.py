"""Adafactor: Adam with a factored second moment, update clipping, and steps relative to the scale of the weights.

b2      = 1 - t**beta2_decay
rho     = min(lr, 1 / sqrt(t))                                   (relative_step; without: lr)
alpha   = rho * max(eps2, RMS(p))                                (scale_parameter; without: rho)
row    <- b2 * row + (1 - b2) * mean over columns of g^2         col likewise, mean over rows
V       = row col / mean(row)                                    vectors: V <- b2 * V + (1 - b2) * g^2
u       = g / sqrt(V)
u      <- u / max(1, RMS(u) / d)                                 update clipping
p      <- p - alpha * u
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stepwell.engine import OneOf, Optimizer, Options, Params, Range, RuleSignature, Slot, Unpack, hyperparameters
from stepwell.engine.whole import Squares
from stepwell.errors import UsageError
from stepwell.ops import ema, lerp_square, maximum, minimum, sqrt
from stepwell.optimizers.facts import Facts
from stepwell.optimizers.pieces import clipped, rms

TINY = torch.finfo(torch.float32).tiny  # 1e-38: the square of an eps of 1e-30 is 0 in float32


def rate(t, lr, relative_step, warmup_init):
    """rho, before `scale_parameter`."""
    if not relative_step:
        return lr
    return minimum(lr * 1e-4 * t if warmup_init else lr, 1 / sqrt(t))


# A matrix rule that knows the whole matrix by its sums: torch operations on a stack of equally shaped tensors, or of
# parts of them, (n, ..., rows, columns). row_var and col_var are those of the whole.
def update(
    g, p, t, row_var, col_var, exp_avg, *, lr, beta1, beta2_decay, eps1, eps2, d, weight_decay, variant,
    scale_parameter, relative_step, warmup_init, whole,
):  # fmt: skip
    paper = variant == "shazeer"
    weight, added = t**beta2_decay, eps1 if paper else 0
    of_rows, of_columns, *of_p = yield Squares(g, totals=(p,) if scale_parameter else ())
    row_var = ema(row_var, (of_rows / whole.columns + added).to(row_var), 1 - weight)  # (n, ..., rows, 1)
    col_var = ema(col_var, (of_columns / whole.rows + added).to(col_var), 1 - weight)  # (n, ..., 1, columns)
    row, col = whole.here(row_var), whole.here(col_var)
    mean = row_var.double().mean(dim=-2, keepdim=True).to(row_var)  # (n, ..., 1, 1)
    if paper:  # one root after the other: where row and column have had no gradient, V is 1e-30 * 1e-30 = 0
        u = (g * (row / mean).rsqrt()).mul_(col.rsqrt())  # (n, ..., rows, columns)
    else:
        v = row * (col / mean.clamp(min=eps1))  # (n, ..., rows, columns)
        u = v.clamp_(min=max(eps1 * eps1, TINY)).rsqrt_().mul_(g)
    (of_u,) = yield Squares(totals=(u,))
    alpha = rate(t, lr, relative_step, warmup_init)
    if scale_parameter:
        alpha = alpha * rms(of_p[0], whole.elements).to(g).clamp(min=eps2)  # (n, 1, ..., 1)
    step = u.mul_(clipped(alpha, rms(of_u, whole.elements).to(g), d))
    if exp_avg is not None:
        step = exp_avg = ema(exp_avg, step, beta1)
    if weight_decay:
        step = (alpha if paper else lr) * weight_decay * p + step
    return step, row_var, col_var, exp_avg


def _direction(g, t, variance, beta2_decay, eps1, variant):
    paper = variant == "shazeer"
    variance = lerp_square(variance, g, t**beta2_decay)
    variance = variance + t**beta2_decay * eps1 if paper else variance
    return g / sqrt(variance if paper else maximum(variance, maximum(eps1 * eps1, TINY))), variance


def measure(g, p, t, variance, exp_avg, *, beta2_decay, eps1, variant):
    u, _ = _direction(g, t, variance, beta2_decay, eps1, variant)
    return {"p_squared": p * p, "u_squared": u * u}


def vector_update(
    g, p, t, variance, exp_avg, *, lr, beta1, beta2_decay, eps1, eps2, d, weight_decay, variant, scale_parameter,
    relative_step, warmup_init, p_squared, u_squared, elements,
):  # fmt: skip
    u, variance = _direction(g, t, variance, beta2_decay, eps1, variant)
    alpha = rate(t, lr, relative_step, warmup_init)
    if scale_parameter:
        alpha = alpha * maximum(rms(p_squared, elements), eps2)
    step = clipped(alpha, rms(u_squared, elements), d) * u
    if exp_avg is not None:
        step = exp_avg = ema(exp_avg, step, beta1)
    return (alpha if variant == "shazeer" else lr) * weight_decay * p + step, variance, exp_avg


class Adafactor(Optimizer):
    """Adafactor: Adam's adaptivity with n + m numbers of state for a matrix of n x m. T5 was trained with it.

    Use it where memory is short. Cost: almost no state (one slot more with `beta1`), and several passes over each
    matrix. Against AdamW: lr about 10 times larger with `relative_step`.

    Two definitions are in use. variant="torch" is torch.optim.Adafactor. variant="shazeer" is the paper and the
    authors' code with the options of fairseq and transformers: their Adafactor(lr=None, relative_step=True) is
    Adafactor(variant="shazeer") here; Adafactor(lr=1e-3, relative_step=False, scale_parameter=False) keeps its
    arguments.

    Args:
        params, options: as for every optimizer (see `stepwell.Optimizer`). The last two dimensions are factored, for
            each leading index separately; vectors keep a full second moment. Rows and columns stay fp32 in every
            format.
        lr: at least 0. With `relative_step` the largest rho (1e-2 in the paper), else rho itself.
        beta2_decay: exponent of the second moment's weight 1 - t**beta2_decay, at most 0.
        eps: (eps1, eps2). eps1 keeps roots away from zero. In "torch" it is a lower bound of V (None: the machine
            epsilon of the arithmetic); in "shazeer" it is added to g^2 (None: 1e-30). eps2 is a lower bound of RMS(p).
        d: the largest RMS of a step without clipping, above 0.
        weight_decay: at least 0; each step shrinks the weights by lr * weight_decay ("torch") or alpha * weight_decay.
        variant: "torch" or "shazeer".
        beta1: decay rate of an average of the scaled steps, in [0, 1); None: no average. A slot as large as the
            parameter.
        scale_parameter: multiply steps by RMS(p).
        relative_step: rho decays like 1 / sqrt(t) once that is smaller than lr.
        warmup_init: rho starts at lr * 1e-4 * t (1e-6 * t at the usual lr), with `relative_step`.

    Reference: Shazeer, Stern, "Adafactor: adaptive learning rates with sublinear memory cost", arXiv 1804.04235,
    algorithms 4 to 6.

    >>> optimizer = Adafactor(model.parameters(), variant="shazeer")                     # no lr to tune
    >>> optimizer = Adafactor(model.parameters(), lr=1e-3, variant="shazeer", relative_step=False)
    """

    rule, decay, view = update, None, "tensor"
    slots = (
        Slot("row_var", per="row", signed=False),
        Slot("col_var", per="column", signed=False),
        Slot("exp_avg", when="beta1", memory="beta1"),
    )
    others = {
        "vector": RuleSignature(
            vector_update,
            (Slot("variance", signed=False), Slot("exp_avg", when="beta1", memory="beta1")),
            measure,
            ("p_squared", "u_squared"),
        )
    }
    ranges = {
        "beta1": Range(0, 1, optional=True),
        "beta2_decay": Range(float("-inf"), 0, open_low=True, open_high=False),
        "eps": Range(0, optional=True),
        "d": Range(0, open_low=True),
        "variant": OneOf(("torch", "shazeer")),
    }
    facts = Facts(
        kind="matrix",
        lr={"default": (1e-3, 1e-1), "cnn": (1e-3, 1e-1), "transformer": (1e-3, 1e-1), "toy": (1e-3, 1.0)},
        lr_against_adamw=10.0,
        source="Shazeer and Stern 1804.04235 (1e-2, relative), Raffel et al. 1910.10683 (1e-3 for fine-tuning)",
        eps_bounds=False,
    )

    def __init__(
        self, params: Params, lr: float = 1e-2, beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3), d: float = 1.0, weight_decay: float = 0.0, *,
        variant: str = "torch", beta1: float | None = None, scale_parameter: bool = True, relative_step: bool = True,
        warmup_init: bool = False, **options: Unpack[Options],
    ) -> None:  # fmt: skip
        super().__init__(params, hyperparameters(locals()), options)

    def check_together(self, group: Mapping[str, Any]) -> None:
        if group["eps"][1] is None:
            raise UsageError(f"Adafactor: eps={group['eps']!r}; the second, a lower bound of RMS(p), must be a number")

    @classmethod
    def method_of(cls, group: Mapping[str, Any], tensor: Tensor) -> str:
        return "" if tensor.ndim >= 2 else "vector"

    def choose(
        self, group: Mapping[str, Any], tensor: Tensor, flags: dict[str, Any], decay: str | None
    ) -> tuple[dict[str, Any], str | None]:
        if group["eps"][0] is None:
            wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
            flags = {**flags, "eps1": torch.finfo(wide).eps if group["variant"] == "torch" else 1e-30}
        return flags, decay
