"""The learning-rate range test: `find_lr` raises the rate while training and reads the best peak off the loss.

>>> found = find_lr(model, optimizer, loader, loss=lambda model, batch: criterion(model(batch[0]), batch[1]))
>>> found.suggestion, found.spread
(0.0021, (0.0016, 0.0026))
"""

from stepwell.finder.find import find_lr
from stepwell.finder.found import FoundLR
from stepwell.finder.rules import RULES

__all__ = ["RULES", "FoundLR", "find_lr"]
