"""The checks, one per file. A new one needs its file and a line here."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

# code -> the file; a code, once published, never changes its meaning
TABLE = {
    "SW101": "missing_zero_grad",
    "SW102": "zero_grad_outside_batch_loop",
    "SW103": "zero_grad_between",
    "SW104": "missing_step",
    "SW105": "missing_backward",
    "SW106": "backward_argument",
    "SW107": "needless_retain_graph",
    "SW108": "discarded_result",
    "SW109": "detached_loss",
    "SW110": "graph_retaining_accumulation",
    "SW111": "accumulation_not_normalized",
    "SW112": "accumulation_boundary",
    "SW113": "accumulation_tail",
    "SW114": "lbfgs_without_closure",
    "SW115": "sam_without_second_pass",
    "SW116": "call_without_parentheses",
    "SW117": "step_that_the_loss_misses",
    "SW118": "left_over_gradients",
    "SW119": "graph_of_old_weights",
    "SW201": "scheduler_before_optimizer",
    "SW202": "scheduler_never_stepped",
    "SW203": "scheduler_horizon_mismatch",
    "SW204": "plateau_without_metric",
    "SW205": "plateau_wrong_mode",
    "SW206": "scheduler_epoch_argument",
    "SW207": "get_lr_misuse",
    "SW208": "optimizer_rebuilt_in_loop",
    "SW301": "clip_misplaced",
    "SW302": "clip_without_unscale",
    "SW303": "clip_wrong_parameters",
    "SW304": "clip_inside_accumulation",
    "SW305": "scaler_without_update",
    "SW306": "step_without_scaler",
    "SW307": "unscale_twice",
    "SW308": "backward_under_autocast",
    "SW309": "scaler_with_bfloat16",
    "SW401": "eval_without_no_grad",
    "SW402": "eval_mode_not_restored",
    "SW403": "eval_without_no_grad_unseen_caller",
    "SW404": "eval_missing",
    "SW405": "functional_dropout_always_on",
    "SW406": "generator_not_detached",
    "SW407": "generator_graph_wasted",
    "SW408": "softmax_before_cross_entropy",
    "SW409": "logits_into_nll_or_bce",
    "SW501": "resume_incomplete",
    "SW502": "whole_module_pickled",
    "SW503": "sampler_without_set_epoch",
    "SW504": "target_network_in_optimizer",
    "SW505": "average_before_step",
    "SW506": "target_forward_with_grad",
    "SW507": "copy_onto_itself",
    "SW508": "schedule_not_resumed",
    "SW601": "parameter_in_two_groups",
    "SW602": "module_in_no_optimizer",
    "SW603": "optimizer_before_model_change",
    "SW604": "implausible_constant",
    "SW605": "unusual_epsilon",
    "SW606": "legacy_api",
    "SW607": "deprecated_amp",
    "SW608": "layer_made_in_forward",
    "SW609": "modules_in_plain_list",
    "SW610": "requires_grad_of_a_module",
    "SW901": "adam_with_coupled_decay",
    "SW902": "sgd_momentum_without_nesterov",
    "SW903": "lr_far_from_usual",
    "SW904": "same_lr_across_families",
    "SW905": "adam_on_transformer",
    "SW906": "decay_on_norm_bias_embedding",
    "SW907": "lr_not_scaled",
    "SW908": "no_warmup_for_transformer",
    "SW909": "no_clipping_for_recurrent",
    "SW910": "clip_by_value",
    "SW911": "checkpoint_without_optimizer",
    "SW912": "one_optimizer_for_everything",
}


@cache
def load() -> tuple[ModuleType, ...]:
    """The modules of all checks, in the order of their codes."""
    return tuple(import_module(f"{__name__}.{name}") for name in TABLE.values())


def __getattr__(name: str) -> Any:
    if name == "CHECKS":
        return tuple(module.CHECK for module in load())
    raise AttributeError(name)
