"""The contract table: every optimizer, with every hyperparameter off its default. A new optimizer adds its rows."""

from typing import Any

import pytest

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
    ],
    "Adagrad": [
        {"lr": 0.05, "lr_decay": 0.1, "weight_decay": 0.2, "initial_accumulator_value": 0.3, "eps": 1e-3},
        {"lr": 0.05, "weight_decay": 0.2, "eps": 1e-3, "decoupled_weight_decay": True},
    ],
    "Lion": [
        {"lr": 0.02, "betas": (0.7, 0.95), "weight_decay": 0.2},
    ],
    "LAMB": [
        {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "exclude_vectors": False},
        {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "exclude_vectors": False,
         "max_weight_norm": 2.0, "bias_correction": False},
    ],
    "LARS": [
        {"lr": 0.5, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.2, "trust_coefficient": 0.1, "eps": 1e-3,
         "exclude_vectors": False},
        {"lr": 0.5, "momentum": 0.8, "weight_decay": 0.2, "nesterov": True, "trust_coefficient": 0.1, "eps": 1e-3,
         "momentum_after_scaling": False, "exclude_vectors": False},
    ],
    "NovoGrad": [
        {"lr": 0.02, "betas": (0.7, 0.8), "eps": 1e-3, "weight_decay": 0.2},
        {"lr": 0.02, "betas": (0.7, 0.8), "eps": 1e-3, "weight_decay": 0.2, "grad_averaging": True},
    ],
    "StableAdamW": [
        {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "clip_threshold": 0.5},
        {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "raw_decay": True},
    ],
}  # fmt: skip

# Optimizers with sums over a tensor: kernels add them up in another order than the definition.
SUMMED = ("LAMB", "LARS", "NovoGrad", "StableAdamW")

# What an option of ours is for the referee, by value.
REFEREE_VALUES: dict[str, Any] = {
    ("LAMB", "exclude_vectors"): {},
    ("LARS", "exclude_vectors"): {},
    ("LAMB", "bias_correction"): {"bias_correction": "none"},
    ("StableAdamW", "raw_decay"): {"decay_with": "raw"},
}

# Options of ours that the referee calls otherwise.
REFEREE_NAMES: dict[str, dict[str, str]] = {
    "RMSprop": {"eps_inside": "eps_inside_sqrt"},
    "StableAdamW": {"clip_threshold": "clip_thresh"},
}

SHAPES = ((24, 5), (5, 24), (11,), (), (4, 3, 3, 3), (300,))  # tall, wide, vector, number, convolution, uneven tail
STEPS = 20
LATE = {2: 3, 3: 1}  # tensor -> the step at which its first gradient comes


def rows() -> list[Any]:
    return [
        pytest.param(name, options, id=f"{name}-{i}")
        for name, all_options in ROWS.items()
        for i, options in enumerate(all_options)
    ]
