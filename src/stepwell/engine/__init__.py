"""The engine: makes an update rule into a `torch.optim.Optimizer`."""

from stepwell.engine.optimizer import Optimizer
from stepwell.engine.rule import OneOf, Range, Slot

__all__ = ["OneOf", "Optimizer", "Range", "Slot"]
