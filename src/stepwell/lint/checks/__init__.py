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
    "SW110": "graph_retaining_accumulation",
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
