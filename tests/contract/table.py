"""The contract table: every optimizer, with every hyperparameter off its default. A new optimizer adds its rows."""

from importlib import import_module
from typing import Any

import numpy as np
import pytest

from stepwell.optimizers import TABLE, find

# Those that make a step of a given gradient. L-BFGS evaluates the loss, wrappers have their step from another one: they
# have tests of their own.
RULES = tuple(name for name in TABLE if find(name).facts.kind not in ("closure", "wrapper"))

# optimizer -> option sets. Together they set every option of the optimizer off its default; `maximize` is set by the
# test itself. `referee` options are those of tests/papers/<name>.py, which has the same names.
ROWS: dict[str, list[dict[str, Any]]] = {
    "SGD": [
        {"lr": 0.03, "weight_decay": 0.2},
        {"lr": 0.03, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.2},
        {"lr": 0.03, "momentum": 0.8, "nesterov": True, "weight_decay": 0.2},
        {"lr": 0.03, "momentum": 0.8, "weight_decay": 0.2, "decoupled_weight_decay": True},
    ],
    "Adam": [
        {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2},
        {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "amsgrad": True},
        {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "decoupled_weight_decay": True},
    ],
    "AdamW": [
        {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2},
        {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "amsgrad": True},
    ],
    "RMSprop": [
        {"lr": 0.02, "alpha": 0.8, "eps": 1e-3, "weight_decay": 0.2},
        {"lr": 0.02, "alpha": 0.8, "eps": 1e-3, "weight_decay": 0.2, "momentum": 0.6, "centered": True},
        {"lr": 0.02, "alpha": 0.8, "eps": 1e-3, "weight_decay": 0.2, "momentum": 0.6, "eps_inside": True},
        {"lr": 0.02, "alpha": 0.8, "eps": 1e-3, "weight_decay": 0.2, "momentum": 0.6, "centered": True,
         "variant": "tensorflow"},
        {"lr": 0.02, "alpha": 0.8, "eps": 1e-3, "weight_decay": 0.2, "variant": "tensorflow",
         "decoupled_weight_decay": True},
    ],
    "Adagrad": [
        {"lr": 0.05, "lr_decay": 0.1, "weight_decay": 0.2, "initial_accumulator_value": 0.3, "eps": 1e-3},
        {"lr": 0.05, "weight_decay": 0.2, "eps": 1e-3, "decoupled_weight_decay": True},
    ],
    "Lion": [
        {"lr": 0.02, "betas": (0.7, 0.95), "weight_decay": 0.2},
    ],
    "LAMB": [
        {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "exclude": "none"},
        {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "exclude": "none",
         "max_weight_norm": 2.0, "bias_correction": False},
    ],
    "LARS": [
        {"lr": 0.5, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.2, "trust_coefficient": 0.1, "eps": 1e-3,
         "exclude": "none"},
        {"lr": 0.5, "momentum": 0.8, "weight_decay": 0.2, "nesterov": True, "trust_coefficient": 0.1, "eps": 1e-3,
         "momentum_after_scaling": False, "exclude": "none"},
    ],
    "NovoGrad": [
        {"lr": 0.02, "betas": (0.7, 0.8), "eps": 1e-3, "weight_decay": 0.2},
        {"lr": 0.02, "betas": (0.7, 0.8), "eps": 1e-3, "weight_decay": 0.2, "grad_averaging": True},
    ],
    "StableAdamW": [
        {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "clip_threshold": 0.5},
        {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "raw_decay": True},
    ],
    "Adadelta": [
        {"lr": 0.7, "rho": 0.8, "eps": 1e-3, "weight_decay": 0.2},
        {"lr": 0.7, "rho": 0.8, "eps": 1e-3, "weight_decay": 0.2, "decoupled_weight_decay": True},
    ],
    "Adamax": [
        {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2},
        {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "eps_outside": True},
        {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "decoupled_weight_decay": True},
    ],
    "NAdam": [
        {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "momentum_decay": 0.05},
        {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "momentum_decay": 0.05,
         "decoupled_weight_decay": True, "average_with_mu": True},
    ],
    "RAdam": [
        {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2},
        {"lr": 0.02, "betas": (0.7, 0.8), "eps": 1e-3, "weight_decay": 0.2, "rectify": "paper",
         "decoupled_weight_decay": True},
    ],
    "ASGD": [
        {"lr": 0.05, "lambd": 0.1, "alpha": 0.6, "t0": 5.0, "weight_decay": 0.2},
    ],
    "Rprop": [
        {"lr": 0.02, "etas": (0.4, 1.3), "step_sizes": (0.01, 0.05)},
        {"lr": 0.02, "etas": (0.4, 1.3), "step_sizes": (0.01, 0.05), "variant": "riedmiller"},
    ],
    "Signum": [
        {"lr": 0.02, "momentum": 0.7, "weight_decay": 0.2},
        {"lr": 0.02, "momentum": 0.0, "weight_decay": 0.2, "decoupled_weight_decay": False},
    ],
    "AdaBelief": [
        {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2},
        {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "amsgrad": True,
         "decoupled_weight_decay": False},
        {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "amsgrad": True, "rectify": True},
    ],
    "Adan": [
        {"lr": 0.02, "betas": (0.7, 0.8, 0.95), "eps": 1e-3, "weight_decay": 0.2},
        {"lr": 0.02, "betas": (0.7, 0.8, 0.95), "eps": 1e-3, "weight_decay": 0.2, "no_prox": True},
    ],
    "ADOPT": [
        {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-2, "weight_decay": 0.2, "clip_power": 0.1},
        {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-2, "weight_decay": 0.2, "clip_power": None,
         "decoupled_weight_decay": False},
    ],
    "AdEMAMix": [
        {"lr": 0.02, "betas": (0.7, 0.95, 0.99), "eps": 1e-3, "weight_decay": 0.2, "alpha": 3.0},
        {"lr": 0.02, "betas": (0.7, 0.95, 0.99), "eps": 1e-3, "weight_decay": 0.2, "alpha": 3.0,
         "beta3_warmup": 11, "alpha_warmup": 7},
    ],
    "LaProp": [
        {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2},
        {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "amsgrad": True},
    ],
    "AdamAtan2": [
        {"lr": 0.02, "betas": (0.7, 0.95), "weight_decay": 0.2, "a": 1.27, "b": 0.5},
    ],
    "AdamW8bit": [
        {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "amsgrad": True},
    ],
    "AdamW4bit": [
        {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "amsgrad": True},
    ],
    "ScheduleFreeSGD": [
        {"lr": 0.05, "momentum": 0.7, "weight_decay": 0.2, "warmup_steps": 6, "r": 0.5, "weight_lr_power": 1.5},
    ],
    "ScheduleFreeAdamW": [
        {"lr": 0.05, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "warmup_steps": 6, "r": 0.5,
         "weight_lr_power": 1.5},
    ],
    "Sophia": [
        {"lr": 0.02, "betas": (0.7, 0.9), "rho": 0.9, "eps": 0.3, "weight_decay": 0.2},
    ],
    "MARS": [
        {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "gamma": 0.1},
        {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "gamma": 0.1, "amsgrad": True,
         "first_previous_zero": True},
    ],
    "SparseAdam": [
        {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3},
    ],
    "Prodigy": [
        {"lr": 0.7, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "d0": 0.01},
        {"lr": 0.7, "betas": (0.7, 0.95), "beta3": 0.8, "eps": 1e-3, "weight_decay": 0.2, "d0": 0.01,
         "use_bias_correction": True, "decouple": False},
        {"lr": 0.7, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "d0": 0.01, "safeguard_warmup": True,
         "growth_rate": 1.5, "d_coef": 0.7},
    ],
    "DAdaptAdam": [
        {"lr": 0.7, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "d0": 0.01, "growth_rate": 1.5,
         "decouple": True},
        {"lr": 0.7, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "d0": 0.01, "use_bias_correction": True},
    ],
    "Adafactor": [
        {"lr": 0.1, "beta2_decay": -0.6, "eps": (1e-3, 1e-2), "d": 0.8, "weight_decay": 0.2},
        {"lr": 0.1, "beta2_decay": -0.6, "eps": (1e-3, 1e-2), "d": 0.8, "weight_decay": 0.2, "variant": "shazeer",
         "beta1": 0.7, "relative_step": False},
        {"lr": 0.01, "variant": "shazeer", "warmup_init": True, "scale_parameter": False, "weight_decay": 0.2},
    ],
    "Muon": [
        {"lr": 0.02, "weight_decay": 0.2, "momentum": 0.8, "ns_coefficients": (3.0, -4.0, 2.0), "eps": 1e-3,
         "ns_steps": 3, "adamw_lr": 0.01, "adamw_betas": (0.7, 0.95), "adamw_eps": 1e-3, "adamw_weight_decay": 0.1},
        {"lr": 0.02, "weight_decay": 0.2, "momentum": 0.8, "nesterov": False, "adjust_lr_fn": "match_rms_adamw",
         "ns_dtype": "fp32"},
    ],
    "Shampoo": [
        {"lr": 0.02, "eps": 1e-2, "weight_decay": 0.2},
        {"lr": 0.02, "momentum": 0.6, "weight_decay": 0.2, "eps": 1e-2, "beta1": 0.7, "beta2": 0.9,
         "bias_correction": True, "grafting": "adam", "grafting_beta2": 0.9, "grafting_eps": 1e-3,
         "precondition_frequency": 3},
        {"lr": 0.02, "eps": 1e-2, "eps_at_root": True, "exponent": 0.4, "grafting": "adagrad", "weight_decay": 0.2},
    ],
    "SOAP": [
        {"lr": 0.02, "betas": (0.7, 0.95), "shampoo_beta": 0.8, "eps": 1e-3, "weight_decay": 0.2,
         "precondition_frequency": 3},
        {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "precondition_frequency": 4,
         "correct_bias": False, "max_precond_dim": 6},
    ],
}  # fmt: skip

# Options of ours that the referee calls otherwise, or whose values it calls otherwise.
REFEREE_NAMES: dict[str, dict[str, str]] = {
    "RMSprop": {"eps_inside": "eps_inside_sqrt"},
    "StableAdamW": {"clip_threshold": "clip_thresh", "raw_decay": "decay_with"},
    "Adamax": {"eps_outside": "eps_placement"},
    "NAdam": {"average_with_mu": "average_with"},
    "AdaBelief": {"decoupled_weight_decay": "weight_decouple"},
    "ADOPT": {"decoupled_weight_decay": "decouple"},
    "MARS": {"first_previous_zero": "first_previous"},
    "Shampoo": {"precondition_frequency": "precondition_every", "eps_at_root": "eps_at"},
}
REFEREE_VALUES: dict[str, Any] = {
    "eps_placement": {True: "outside", False: "inside"},
    "average_with": {True: "mu", False: "beta1"},
    "decay_with": {True: "raw", False: "clipped"},
    "first_previous": {True: "zero", False: "gradient"},
    "eps_at": {True: "root", False: "start"},
}
REFEREE_VALUES_OF: dict[str, dict[str, Any]] = {"LAMB": {"bias_correction": {True: "inside", False: "none"}}}
NOT_FOR_THE_REFEREE = ("exclude",)  # it treats every tensor alike

# Optimizers with sums over a tensor or over all: kernels add them up in another order than the definition.
SUMMED = ("LAMB", "LARS", "NovoGrad", "StableAdamW", "MARS", "Prodigy", "DAdaptAdam", "Adafactor")
# Optimizers of whole matrices: products of stacks of another size, or of another layout, are added up in another order.
MATRIX = tuple(name for name in RULES if find(name).view != "element")


# Optimizers that are another one under a name of their own.
REFEREE_MODULES = {"AdamW8bit": "adamw", "AdamW4bit": "adamw"}


def for_referee(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """`options` as the referee has them."""
    given = {key: value for key, value in options.items() if key not in NOT_FOR_THE_REFEREE}
    if name == "RMSprop" and given.pop("variant", "torch") == "tensorflow":
        given |= {"eps_inside": True, "initial_square_avg": 1.0, "lr_in_momentum": True}
    named = {REFEREE_NAMES.get(name, {}).get(key, key): value for key, value in given.items()}
    values = {**REFEREE_VALUES, **REFEREE_VALUES_OF.get(name, {})}
    return {key: values[key][value] if key in values else value for key, value in named.items()}


def expected(
    name: str, options: dict[str, Any], params: list[Any], grads: list[list[Any]], bases: list[Any], maximize: bool
) -> list[Any]:
    """The trajectory's end by the referee, for arrays."""
    referee = import_module(f"tests.papers.{REFEREE_MODULES.get(name, name.lower())}")
    given = for_referee(name, options)
    extra: dict[str, Any] = {"maximize": maximize}
    if name == "Sophia":
        extra["hessians"] = [hessians(row) for row in grads]
    if name == "SparseAdam":  # it has rows
        params, grads = _each(params, grads, np.atleast_1d)
    if name in ("Shampoo", "SOAP"):
        params, grads = _each(params, grads, lambda x: x.reshape(len(x), -1) if x.ndim > 2 else x)
    if name == "SOAP":
        extra["basis"] = bases
    if name == "Adafactor" and given.pop("relative_step", True) and given.get("variant") == "shazeer":
        del given["lr"]
    if name != "Muon":
        return referee.trajectory(params, grads, **extra, **given)
    # matrices are Muon's, all others AdamW's
    inner = {key.removeprefix("adamw_"): given.pop(key) for key in list(given) if key.startswith("adamw_")}
    inner = {"lr": given["lr"], "weight_decay": given["weight_decay"], "betas": (0.9, 0.95), **inner}
    given.pop("ns_dtype", None)  # float64 here
    adamw = import_module("tests.papers.adamw")
    ends: list[Any] = [None] * len(params)
    for rule, arguments, mine in ((referee, given, True), (adamw, inner, False)):
        places = [i for i, p in enumerate(params) if (p.ndim >= 2) is mine]
        rows = [[row[i] for i in places] for row in grads]
        for i, end in zip(
            places, rule.trajectory([params[i] for i in places], rows, **extra, **arguments), strict=True
        ):
            ends[i] = end
    return ends


def _each(params: list[Any], grads: list[list[Any]], change: Any) -> tuple[list[Any], list[list[Any]]]:
    return [change(p) for p in params], [[None if g is None else change(g) for g in row] for row in grads]


def hessians(row: list[Any]) -> list[Any]:
    """For Sophia: an estimate for every tensor that has a gradient, at about every other step; negative ones, too.

    Made of the gradients' signs alone, so that scaled gradients have the same.
    """
    if row[0] is None or row[0].sum() < 0:
        return [None for _ in row]
    return [None if g is None else np.sign(g) * 1.5 + 0.5 for g in row]


SHAPES = ((24, 5), (5, 24), (11,), (), (4, 3, 3, 3), (300,))  # tall, wide, vector, number, convolution, uneven tail
# The basis of a matrix's longer side is rank deficient at first: its free part is the LAPACK's choice.
SHAPES_OF = {"SOAP": ((8, 8), (5, 5), (11,), (), (8, 2, 2, 2), (300,)), "Shampoo": (*SHAPES[:-1], (20,))}
STEPS = 20
LATE = {2: 3, 3: 1}  # tensor -> the step at which its first gradient comes


def backends(name: str) -> tuple[str, str]:
    """The definition, and what "auto" takes in its place."""
    return ("eager", "auto") if name in MATRIX else ("eager", "cpu")


def rows() -> list[Any]:
    """A parameter set per row. Each new kernel is compiled for about a second, so second rows are marked slow."""
    return [
        pytest.param(name, options, id=f"{name}-{i}", marks=[pytest.mark.slow] if i else [])
        for name, all_options in ROWS.items()
        for i, options in enumerate(all_options)
    ]
