"""The engine: turns an update rule into a `torch.optim.Optimizer`."""

from stepwell.engine.given_groups import as_groups
from stepwell.engine.optimizer import Optimizer
from stepwell.engine.options import (
    MatrixOptions,
    Options,
    OptionsButDecay,
    OptionsButState,
    Params,
    Unpack,
    hyperparameters,
)
from stepwell.engine.rule import OneOf, Range, RuleSignature, Slot

__all__ = [
    "MatrixOptions", "OneOf", "Optimizer", "Options", "OptionsButDecay", "OptionsButState", "Params", "Range",
    "RuleSignature", "Slot", "Unpack", "as_groups", "hyperparameters",
]  # fmt: skip
