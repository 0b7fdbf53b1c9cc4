"""Lightning counts the updates that pass through its wrapper of an optimizer; `max_steps` and its checkpoints use that
count. A Step calls the inner optimizer and notifies the wrapper. Hooks that notify the wrapper themselves are detected:
no update is counted twice."""

from __future__ import annotations

import gc
import sys
import weakref
from typing import Any

import torch

_MODULES = ("pytorch_lightning.core.optimizer", "lightning.pytorch.core.optimizer")


def unwrapped(optimizer: Any) -> Any:
    """The optimizer that Lightning's `self.optimizers()` wraps, or the given optimizer."""
    return optimizer._optimizer if _is_wrapper(optimizer) else optimizer


class Counted:
    """The counter of the trainer that runs an optimizer, if any."""

    def __init__(self) -> None:
        self._wrapper: Any = None  # a weak reference
        self._before = 0

    def begin(self, optimizer: torch.optim.Optimizer) -> None:
        """Called when an update starts."""
        if self._wrapper is None:
            self._wrapper = _wrapper_of(optimizer)
        progress = self._progress()
        self._before = 0 if progress is None else progress.total.completed

    def end(self) -> None:
        """Called when the update was made."""
        progress = self._progress()
        if progress is not None and progress.total.completed == self._before:
            wrapper = self._wrapper()
            wrapper._on_before_step()
            wrapper._on_after_step()

    def _progress(self) -> Any:
        """The trainer's count of updates; only inside a training step of manual optimization."""
        loop = getattr(getattr(self._wrapper(), "_on_after_step", None), "__self__", None)
        return getattr(loop, "optim_step_progress", None)


def _is_wrapper(one: Any) -> bool:
    kinds = [sys.modules[name].LightningOptimizer for name in _MODULES if name in sys.modules]
    return bool(kinds) and issubclass(type(one), tuple(kinds))


def _wrapper_of(optimizer: torch.optim.Optimizer) -> Any:
    """Lightning keeps only the reference from the wrapper to the optimizer, so this searches all objects, once."""
    if any(name in sys.modules for name in _MODULES):
        for one in gc.get_objects():
            if _is_wrapper(one) and one._optimizer is optimizer:
                return weakref.ref(one)
    return lambda: None
