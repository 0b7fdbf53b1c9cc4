"""The learning-rate range test: `find_lr` raises the rate while training and reads the best peak off the loss.

>>> found = find_lr(model, optimizer, loader, loss=lambda model, batch: loss_fn(model(batch[0]), batch[1]))
>>> found.suggestion, found.spread  # doctest: +SKIP
(0.0021, (0.0016, 0.0026))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stepwell.errors import loaded

if TYPE_CHECKING:
    from stepwell.finder.find import find_lr as find_lr
    from stepwell.finder.result import FoundLR as FoundLR
    from stepwell.finder.rules import RULES as RULES

__all__ = ["RULES", "FoundLR", "find_lr"]

# Loaded when first used: the checks of this room are listed without torch.
_WHERE = {"find_lr": "find", "FoundLR": "result", "RULES": "rules"}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name in _WHERE:
            return loaded(f"stepwell.finder.{_WHERE[name]}", name)
        raise AttributeError(f"module 'stepwell.finder' has no attribute {name!r}")
