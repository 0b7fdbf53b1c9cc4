"""The types of the common arguments of all optimizers: parameters, and the options documented in `stepwell.Optimizer`.

Signatures contain `**options: Unpack[Options]`, so that editors and type checkers know the options. Some optimizers
have one of the options as an explicit argument, and take the other options here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, TypeAlias, TypedDict

from torch import Tensor, nn
from typing_extensions import Unpack

# What torch takes, and a model.
Params: TypeAlias = nn.Module | Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]
State: TypeAlias = Literal["fp32", "bf16", "int8", "int4"]
Weights: TypeAlias = Literal["native", "stochastic", "split"]
Backend: TypeAlias = Literal["auto", "eager", "cpu", "gpu"]


class _Common(TypedDict, total=False):
    maximize: bool
    weights: Weights
    cautious: bool
    seed: int
    backend: Backend
    state_device: Literal["cpu"] | None
    # Torch's own, which ask for nothing where they are None or False.
    foreach: Literal[False] | None
    fused: Literal[False] | None
    capturable: Literal[False] | None
    differentiable: Literal[False] | None


class _WithDecay(_Common, total=False):
    decoupled_weight_decay: bool


class OptionsButDecay(_Common, total=False):
    """The options of an optimizer with an explicit argument `decoupled_weight_decay`."""

    state: State


class OptionsButState(_WithDecay, total=False):
    """The options of an optimizer with an explicit argument `state`."""


class Options(_WithDecay, total=False):
    """The options of every optimizer (see `stepwell.Optimizer`)."""

    state: State


class MatrixOptions(Options, total=False):
    """The options of an optimizer of whole matrices."""

    process_group: Any


class NoOptions(TypedDict):
    """The options of an optimizer without options."""


__all__ = [
    "Backend",
    "MatrixOptions",
    "NoOptions",
    "Options",
    "OptionsButDecay",
    "OptionsButState",
    "Params",
    "State",
    "Unpack",
    "Weights",
]


def hyperparameters(arguments: dict[str, Any]) -> dict[str, Any]:
    """The hyperparameters among `locals()` of a constructor whose every argument is one, but for `params` and
    `options`: `super().__init__(params, hyperparameters(locals()), options)`, before any other local is set."""
    return {name: value for name, value in arguments.items() if name not in ("self", "params", "options", "__class__")}
