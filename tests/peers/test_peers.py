"""Every optimizer against a public implementation of it, in float64, off its defaults, over 20 steps.

torch's own are compared in `tests/contract`. Where one of these differs from its paper or from the authors' code, the
row says how and either sets that option alike or leaves it out; `TOLERANCE` says what a different eps leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lion_pytorch
import prodigyopt
import pytest
import pytorch_optimizer
import schedulefree
import torch
from torch import Tensor

import stepwell

SHAPES = ((4, 3), (3, 5), (5,), (2, 3, 2, 2))
STEPS = 20
BETAS = (0.8, 0.9)
ADAM: dict[str, Any] = {"lr": 0.02, "betas": BETAS, "eps": 1e-4, "weight_decay": 0.1}
FREE: dict[str, Any] = {"weight_decay": 0.1, "warmup_steps": 4, "r": 0.7, "weight_lr_power": 1.5}
LION: dict[str, Any] = {"lr": 0.02, "betas": BETAS, "weight_decay": 0.3}
PRODIGY: dict[str, Any] = {
    "lr": 0.9, "betas": BETAS, "beta3": 0.85, "eps": 1e-6, "weight_decay": 0.1, "use_bias_correction": True,
    "safeguard_warmup": True, "d0": 1e-3, "d_coef": 1.3, "growth_rate": 1.5,
}  # fmt: skip

po = pytorch_optimizer

# name -> (ours, theirs, each a class with options)
PAIRS: dict[str, tuple[tuple[Any, dict[str, Any]], tuple[Any, dict[str, Any]]]] = {
    "Lion": ((stepwell.Lion, LION), (lion_pytorch.Lion, LION)),
    "ScheduleFreeAdamW": (
        (stepwell.ScheduleFreeAdamW, {"lr": 0.05, "betas": BETAS, "eps": 1e-3, **FREE}),
        (schedulefree.AdamWScheduleFree, {"lr": 0.05, "betas": BETAS, "eps": 1e-3, **FREE, "foreach": False}),
    ),
    "ScheduleFreeSGD": (
        (stepwell.ScheduleFreeSGD, {"lr": 0.3, "momentum": 0.8, **FREE}),
        (schedulefree.SGDScheduleFree, {"lr": 0.3, "momentum": 0.8, **FREE, "foreach": False}),
    ),
    "Prodigy": ((stepwell.Prodigy, PRODIGY), (prodigyopt.Prodigy, PRODIGY)),
    "Prodigy, coupled": (
        (stepwell.Prodigy, {**PRODIGY, "decouple": False, "beta3": None}),
        (prodigyopt.Prodigy, {**PRODIGY, "decouple": False, "beta3": None}),
    ),
    "AdaBelief": ((stepwell.AdaBelief, ADAM), (po.AdaBelief, ADAM)),
    "AdaBelief, rectified": (
        (stepwell.AdaBelief, {**ADAM, "betas": (0.8, 0.99), "rectify": True}),
        (po.AdaBelief, {**ADAM, "betas": (0.8, 0.99), "rectify": True}),
    ),
    "Adan": (
        (stepwell.Adan, {**ADAM, "betas": (0.9, 0.8, 0.7)}),
        (po.Adan, {**ADAM, "betas": (0.9, 0.8, 0.7)}),
    ),
    "Adan, no prox": (
        (stepwell.Adan, {**ADAM, "betas": (0.9, 0.8, 0.7), "no_prox": True}),
        (po.Adan, {**ADAM, "betas": (0.9, 0.8, 0.7), "weight_decouple": True}),
    ),
    # there the clip grows with t where the authors have t - 1, and decay begins at the step that moves nothing
    "ADOPT": (
        (stepwell.ADOPT, {**ADAM, "weight_decay": 0.0}),
        (po.ADOPT, {**ADAM, "weight_decay": 0.0, "clip_lambda": lambda t: (t - 1) ** 0.25}),
    ),
    "AdEMAMix": (
        (stepwell.AdEMAMix, {**ADAM, "betas": (0.8, 0.9, 0.95), "alpha": 3.0, "beta3_warmup": 30, "alpha_warmup": 30}),
        (po.AdEMAMix, {**ADAM, "betas": (0.8, 0.9, 0.95), "alpha": 3.0, "t_alpha_beta3": 30, "weight_decouple": True}),
    ),
    # there weights decay after the step; eps is added before the correction, and 1e-15 under the root
    "LaProp": (
        (stepwell.LaProp, {**ADAM, "weight_decay": 0.0, "eps": 1e-14}),
        (po.LaProp, {**ADAM, "weight_decay": 0.0, "eps": 1e-14}),
    ),
    "StableAdamW": ((stepwell.StableAdamW, ADAM), (po.StableAdamW, {**ADAM, "kahan_sum": False})),
    # there vectors are excluded always, and from the ratio alone; no eps
    "LARS": (
        (stepwell.LARS, {"lr": 0.5, "momentum": 0.8, "weight_decay": 0.1, "trust_coefficient": 0.02, "eps": 0.0}),
        (po.LARS, {"lr": 0.5, "momentum": 0.8, "weight_decay": 0.1, "trust_coefficient": 0.02}),
    ),
    "NovoGrad": ((stepwell.NovoGrad, ADAM), (po.NovoGrad, ADAM)),
    # there eps is added before the corrections, and filters count as matrices, which the authors' code gives to AdamW
    "MARS": (
        (
            stepwell.MARS,
            {**ADAM, "eps": 1e-14, "gamma": 0.05, "first_previous_zero": True, "optimize_1d": False, "adamw_lr": 0.01,
             "adamw_betas": (0.7, 0.8), "adamw_weight_decay": 0.2},
        ),
        (
            po.MARS,
            {**ADAM, "eps": 1e-14, "gamma": 0.05, "lr_1d": 0.01, "betas_1d": (0.7, 0.8), "weight_decay_1d": 0.2},
        ),
    ),
    "MARS, all of it": (
        (stepwell.MARS, {**ADAM, "eps": 1e-14, "gamma": 0.05, "first_previous_zero": True}),
        (po.MARS, {**ADAM, "eps": 1e-14, "gamma": 0.05, "optimize_1d": True}),
    ),
    # there eps is 1e-15 larger, under the root
    "DAdaptAdam": (
        (stepwell.DAdaptAdam, {"lr": 0.9, "betas": BETAS, "d0": 1e-3, "growth_rate": 1.5, "weight_decay": 0.1}),
        (po.DAdaptAdam, {"lr": 0.9, "betas": BETAS, "d0": 1e-3, "growth_rate": 1.5, "weight_decay": 0.1}),
    ),
    "Signum": (
        (stepwell.Signum, {"lr": 0.02, "momentum": 0.8, "weight_decay": 0.1}),
        (po.SignSGD, {"lr": 0.02, "momentum": 0.8, "weight_decay": 0.1}),
    ),
    # eps before the correction there; until rho > 5 both take plain momentum
    "RAdam": (
        (stepwell.RAdam, {**ADAM, "betas": (0.8, 0.99), "eps": 1e-14, "decoupled_weight_decay": True}),
        (po.RAdam, {**ADAM, "betas": (0.8, 0.99), "eps": 1e-14, "degenerated_to_sgd": True}),
    ),
    "Shampoo": (
        (stepwell.Shampoo, {"lr": 0.02, "eps": 1e-2}),
        (po.Shampoo, {"lr": 0.02, "matrix_eps": 1e-2}),
    ),
    "Adafactor": (
        (
            stepwell.Adafactor,
            {"lr": 0.02, "variant": "shazeer", "weight_decay": 0.1, "relative_step": False, "eps": (1e-30, 1e-3)},
        ),
        (po.AdaFactor, {"lr": 0.02, "betas": (None, 0.999), "weight_decay": 0.1, "relative_step": False}),
    ),
}  # fmt: skip

ONLY = {"LARS": 2, "MARS": 3, "MARS, all of it": 3, "Shampoo": 2}  # how many of the shapes, where the others differ
TOLERANCE = {"LaProp": 1e-7, "DAdaptAdam": 1e-7, "MARS": 1e-9, "MARS, all of it": 1e-9}


def trained(make: Callable[[list[Tensor]], Any], shapes: tuple[tuple[int, ...], ...]) -> list[Tensor]:
    torch.manual_seed(0)
    params = [torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in shapes]
    optimizer = make(params)
    has_modes = hasattr(optimizer, "eval")
    if has_modes:
        optimizer.train()
    for step in range(STEPS):
        torch.manual_seed(100 + step)
        for p in params:
            p.grad = 0.5 * torch.randn_like(p) + 0.3 * p.detach()
        optimizer.step()
    if has_modes:
        optimizer.eval()
    return [p.detach() for p in params]


@pytest.mark.parametrize("name", list(PAIRS))
def test_equals_the_public_implementation(name: str) -> None:
    (ours, options), (theirs, their_options) = PAIRS[name]
    shapes = SHAPES[: ONLY.get(name, len(SHAPES))]
    mine = trained(lambda params: ours(params, **options), shapes)
    other = trained(lambda params: theirs(params, **their_options), shapes)
    for a, b in zip(mine, other, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=TOLERANCE.get(name, 1e-12))


def test_lookahead_equals_the_public_implementation() -> None:
    options = {"k": 3, "alpha": 0.7}
    mine = trained(lambda params: stepwell.Lookahead(stepwell.SGD(params, lr=0.1, momentum=0.5), **options), SHAPES)
    other = trained(lambda params: po.Lookahead(torch.optim.SGD(params, lr=0.1, momentum=0.5), **options), SHAPES)
    for a, b in zip(mine, other, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
