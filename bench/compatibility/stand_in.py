"""Entries of torch's `optim_db` with our classes: torch's own entries for those it has, entries of ours for the others.

`optim_db` is the table from which torch's `test_optim.py` makes a case per optimizer. An entry of torch keeps its
inputs, schedulers, tolerances and skips; its class becomes ours. What ours do not have (complex numbers, `foreach` and
the like) is taken out of the entry: the cases that are then missing are counted by what they ask for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.testing._internal import common_optimizers as torchs
from torch.testing._internal.common_optimizers import (
    ErrorOptimizerInput,
    OptimizerErrorEnum,
    OptimizerInfo,
    OptimizerInput,
)

from stepwell.optimizers import TABLE, find

TORCH_ONLY = ("foreach", "fused", "capturable", "differentiable")

# Hyperparameters of the optimizers that torch does not have; those for which `USUAL` will do need no line.
# `test_optim.py` wants them to go downhill within 20 steps on a tiny problem, where the default rate of LARS and
# Schedule-Free SGD (1.0) is too high and the first length of D-Adaptation's step (1e-6) needs a growth of its own; and
# 0.003 is a rate that its hooks write (the default of MARS and SOAP).
MORE: dict[str, tuple[dict[str, Any], ...]] = {
    "Lion": ({}, {"lr": 0.01}, {"betas": (0.95, 0.98)}, {"cautious": True}, {"state": "bf16"}),
    "LAMB": ({}, {"lr": 0.01}, {"bias_correction": False}, {"exclude": "none", "weight_decay": 0.01}),
    "LARS": ({"lr": 0.01}, {"lr": 0.02}, {"lr": 0.01, "nesterov": True}, {"lr": 0.01, "exclude": "none"}),
    "NovoGrad": ({}, {"lr": 0.01}, {"grad_averaging": True}),
    "StableAdamW": ({}, {"lr": 0.01}, {"clip_threshold": 0.5}, {"raw_decay": True}),
    "Signum": ({}, {"lr": 0.01}, {"momentum": 0.5}, {"decoupled_weight_decay": False, "weight_decay": 0.1}),
    "AdaBelief": ({}, {"lr": 0.01}, {"amsgrad": True}, {"rectify": True}),
    "Adan": ({}, {"lr": 0.01}, {"betas": (0.9, 0.9, 0.9)}, {"no_prox": True, "weight_decay": 0.1}),
    "ADOPT": ({}, {"lr": 0.01}, {"clip_power": None}, {"decoupled_weight_decay": False, "weight_decay": 0.1}),
    "AdEMAMix": ({}, {"lr": 0.01}, {"alpha": 1.0}, {"beta3_warmup": 10, "alpha_warmup": 10}),
    "LaProp": ({}, {"lr": 0.01}, {"amsgrad": True}),
    "AdamAtan2": ({}, {"lr": 0.01}, {"a": 2.0, "b": 0.5}),
    "AdamW8bit": ({}, {"lr": 0.01}, {"amsgrad": True}),
    "AdamW4bit": ({}, {"lr": 0.01}, {"amsgrad": True}),
    "ScheduleFreeSGD": ({"lr": 0.01}, {"lr": 0.02, "momentum": 0.5}, {"lr": 0.01, "warmup_steps": 4}),
    "ScheduleFreeAdamW": ({}, {"lr": 0.01}, {"betas": (0.95, 0.99)}, {"warmup_steps": 4}),
    "Sophia": ({}, {"lr": 0.001}, {"rho": 0.1}),
    "MARS": ({"lr": 0.002}, {"lr": 0.01}, {"lr": 0.002, "gamma": 0.05}, {"lr": 0.002, "amsgrad": True}),
    "Prodigy": ({"d0": 1e-3}, {"d0": 1e-3, "d_coef": 2.0}, {"d0": 1e-3, "safeguard_warmup": True}),
    "DAdaptAdam": (
        {"d0": 1e-3, "growth_rate": 1.05},
        {"d0": 1e-3, "growth_rate": 1.05, "decouple": True},
        {"d0": 1e-3, "growth_rate": 1.05, "use_bias_correction": True},
    ),
    "Shampoo": ({}, {"lr": 0.02}, {"beta2": 0.9}, {"grafting": "adam"}),
    "SOAP": ({"lr": 0.002}, {"lr": 0.01}, {"lr": 0.002, "precondition_frequency": 2}),
}

USUAL: tuple[dict[str, Any], ...] = ({}, {"lr": 0.01})  # of an optimizer that is not in `MORE`


# Mistakes that torch takes with a warning, or finds in the first step: here they are refused at construction.
STRICTER = {
    "a param group cannot have duplicate parameters": "a tensor given twice is refused (torch warns)",
    "does not support complex parameters": "complex parameters are refused at construction (torch raises in `step`)",
}
# What torch refuses and these take.
WIDER = {"only support 2D parameters": "Muon takes kernels of convolutions, and updates what is no matrix as AdamW"}


def torch_names() -> list[str]:
    """The optimizers of torch's table that the package has, too."""
    return [info.name for info in torchs.optim_db if info.name in TABLE]


def our_names() -> list[str]:
    """The optimizers that torch does not have and that take parameters, which wrappers do not."""
    return [name for name in TABLE if name not in torch_names() and find(name).facts.kind != "wrapper"]


def of_torch(info: OptimizerInfo) -> OptimizerInfo:
    """Torch's entry with our class."""
    return OptimizerInfo(
        find(info.name),
        optim_inputs_func=_plain(info.optim_inputs_func),
        scheduler_inputs=info.scheduler_inputs,
        supported_impls=(),
        not_og_supported_flags=("maximize",) if "maximize" in info.not_og_supported_flags else (),
        supports_sparse=info.supports_sparse,
        has_capturable_arg=False,
        only_supports_sparse_grads=info.only_supports_sparse_grads,
        metadata_for_sparse=info.metadata_for_sparse,
        supports_complex=False,
        step_requires_closure=info.step_requires_closure,
        supports_param_groups=info.supports_param_groups,
        supports_multiple_devices=info.supports_multiple_devices,
        decorators=info.decorators,
        optim_error_inputs_func=_by_type(info.optim_error_inputs_func, stricter=info.name != "LBFGS"),  # it is torch's
    )


def of_ours(name: str) -> OptimizerInfo:
    """An entry for an optimizer that torch does not have: its defaults, other learning rates, options of its own."""

    def inputs(device: Any, dtype: Any = None) -> list[OptimizerInput]:
        given = MORE.get(name, USUAL)
        first = given[0]
        undecayed = [{"weight_decay": 0.0, **one} for one in given]  # the default of some is not 0
        variants = [*undecayed, {**first, "weight_decay": 0.1}, {**first, "weight_decay": 0.1, "maximize": True}]
        if name not in ("Prodigy", "DAdaptAdam"):
            variants.append({**undecayed[0], "lr": torch.tensor(0.001)})
        return [OptimizerInput(params=None, kwargs=dict(one), desc=repr(one)) for one in variants]

    return OptimizerInfo(
        find(name),
        optim_inputs_func=inputs,
        supported_impls=(),
        not_og_supported_flags=("maximize",),
        supports_complex=False,
        optim_error_inputs_func=_by_type(torchs.get_error_inputs_for_all_optims),
    )


def _plain(inputs: Callable[..., Iterable[OptimizerInput]]) -> Callable[..., list[OptimizerInput]]:
    """Without the inputs that ask for an implementation."""

    def some(*arguments: Any, **options: Any) -> list[OptimizerInput]:
        return [one for one in inputs(*arguments, **options) if not set(TORCH_ONLY) & set(one.kwargs)]

    return some


def _by_type(
    inputs: Callable[..., Iterable[ErrorOptimizerInput]], stricter: bool = True
) -> Callable[..., list[ErrorOptimizerInput]]:
    """The same mistakes, of which the type of the error is looked at and not its words, which are ours (and see
    `STRICTER`, `WIDER`); without those that ask for an implementation."""

    def some(*arguments: Any, **options: Any) -> list[ErrorOptimizerInput]:
        found = []
        for one in inputs(*arguments, **options):
            given = one.optimizer_error_input
            if set(TORCH_ONLY) & set(given.kwargs) or given.desc in WIDER:
                continue
            one.error_regex = ""
            if stricter and given.desc in STRICTER:
                one.error_on, one.error_type = OptimizerErrorEnum.CONSTRUCTION_ERROR, ValueError
            found.append(one)
        return found

    return some


def put_in(classes: str) -> None:
    """Make torch's table and `torch.optim` hold these classes, before torch's tests are imported.

    Args:
        classes: "torch" (nothing is changed), "ours" (torch's optimizers as we have them) or "more" (those torch has
            not; the classic tests, which are of SGD and the like, are not run again).
    """
    if classes == "ours":
        torchs.optim_db[:] = [of_torch(info) for info in torchs.optim_db if info.name in TABLE]
        for name in torch_names():
            setattr(torch.optim, name, find(name))
    elif classes == "more":
        torchs.optim_db[:] = [of_ours(name) for name in our_names()]
