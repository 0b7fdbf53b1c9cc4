"""The engine: makes an update rule into a `torch.optim.Optimizer`."""

from stepwell.engine.optimizer import Optimizer, as_groups
from stepwell.engine.rule import OneOf, Range, RuleSignature, Slot

__all__ = ["OneOf", "Optimizer", "Range", "RuleSignature", "Slot", "as_groups"]
