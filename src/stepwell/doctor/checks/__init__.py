"""The checks, one per file, in the order of causes: what stands higher explains what stands lower.

A new one needs its file and a line here.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

# code -> the file; a code, once published, never changes its meaning
TABLE = {
    "R01": "stale_gradients",
    "R27": "gradients_cleared",
    "R30": "loss_without_graph",
    "R28": "frozen_at_random",
    "R03": "trainable_in_no_optimizer",
    "R29": "graph_cut",
    "R02": "parameter_never_updated",
    "R31": "optimizer_replaced_in_training",
    "R33": "schedule_before_optimizer",
    "R04": "schedule_never_stepped",
    "R32": "schedule_too_fast",
    "R07": "same_order_in_each_epoch",
    "R05": "eval_mode_in_training",
    "R34": "training_mode_in_evaluation",
    "R06": "accumulation_not_divided",
    "R35": "cross_entropy_of_probabilities",
    "R36": "nll_without_log_softmax",
    "R37": "bce_without_sigmoid",
    "R38": "squared_error_on_classes",
    "R39": "shapes_broadcast_in_the_loss",
    "R40": "betas_swapped",
    "R42": "target_in_the_input",
    "R13": "not_finite_input",
    "R44": "half_precision_overflow",
    "R43": "loss_not_finite",
    "R45": "bad_initial_scale",
    "R19": "unscaled_inputs",
    "R46": "labels_constant",
    "R20": "data_not_shuffled",
    "R14": "scaler_in_trouble",
    "R41": "momentum_near_one",
    "R48": "weight_decay_too_strong",
    "R21": "exploding_gradients",
    "R11": "warmup_needed",
    "R08": "learning_rate_too_high",
    "R15": "lost_updates",
    "R12": "learning_rate_zero",
    "R16": "epsilon_rules",
    "R09": "learning_rate_too_low",
    "R24": "dead_units",
    "R22": "vanishing_gradients",
    "R23": "clipping_always",
    "R18": "batch_too_small",
    "R47": "labels_unrelated",
    "R26": "overfitting",
    "R17": "initial_loss",
    "R10": "divergence",
    "R25": "plateau",
}


@cache
def load() -> tuple[ModuleType, ...]:
    """The modules of all checks, in the order of causes."""
    return tuple(import_module(f"{__name__}.{name}") for name in TABLE.values())


def __getattr__(name: str) -> Any:
    if name == "CHECKS":
        return tuple(module.CHECK for module in load())
    raise AttributeError(name)
