"""The engine: makes an update rule into a `torch.optim.Optimizer`."""

from stepwell.engine.optimizer import Optimizer
from stepwell.engine.rule import Range, Slot

__all__ = ["Optimizer", "Range", "Slot"]
