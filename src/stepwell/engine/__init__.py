"""The engine: turns an update rule into a `torch.optim.Optimizer`."""

from stepwell.engine.given_groups import as_groups
from stepwell.engine.optimizer import Optimizer
from stepwell.engine.options import Options, OptionsButDecay, OptionsButState, Params, Unpack, hyperparameters
from stepwell.engine.rule import OneOf, Range, RuleSignature, Slot

__all__ = [
    "OneOf", "Optimizer", "Options", "OptionsButDecay", "OptionsButState", "Params", "Range", "RuleSignature", "Slot",
    "Unpack", "as_groups", "hyperparameters",
]  # fmt: skip
