"""Calls of `optimizer.step` outside a Step, and whether an update was made, observed through torch's hooks on `step`.

There is one pair of hooks per optimizer, however many Steps it has, and they run before all other hooks. The hooks are
functions of this module, so in a copy or a pickle of the optimizer they do nothing.
"""

from __future__ import annotations

import warnings
import weakref
from typing import Any

from torch.optim import Optimizer

from stepwell.errors import UsageError
from stepwell.schedules.written import forget
from stepwell.step.accumulation import Shares
from stepwell.step.model_and_optimizer import Trained


class Watch:
    """The hooks of one optimizer.

    Attributes:
        updating: whether a Step is inside its update, so that the call of `step` is its own.
        happened: whether the last update that started has been made.
        told: objects that are notified of a step that no Step called.
    """

    def __init__(self) -> None:
        self.updating = False
        self.happened = False
        self.told: weakref.WeakSet[Beside] = weakref.WeakSet()
        self._handles: list[Any] = []

    def begin(self, optimizer: Optimizer) -> None:
        """Called when a Step starts an update."""
        after: Any = optimizer._optimizer_step_post_hooks
        kept = all(handle.id in (handle.hooks_dict_ref() or ()) for handle in self._handles)
        if not self._handles or not kept or self._handles[1].id not in after:
            self._register(optimizer)  # a loaded or copied optimizer may have lost them, and another one has none
        after.move_to_end(self._handles[1].id, last=False)  # before one that may raise
        self.happened = False
        self.updating = True

    def end(self) -> None:
        self.updating = False

    def _register(self, optimizer: Optimizer) -> None:
        self._handles = [
            optimizer.register_step_pre_hook(before_step),
            optimizer.register_step_post_hook(after_step),
            optimizer.register_load_state_dict_post_hook(after_load),
        ]


class Beside:
    """The reaction of a Step to `optimizer.step()` calls that no Step made."""

    def __init__(self, trained: Trained, shares: Shares) -> None:
        self._trained, self._shares = trained, shares
        self._warned = False

    def notice(self, optimizer: Optimizer) -> None:
        """`optimizer.step()` is about to run, and no Step called it."""
        if optimizer is not self._trained.optimizer:  # before a switch
            return
        if self._shares.number:
            raise UsageError(
                f"Step: optimizer.step() after {self._shares} would apply a partial update; the Step "
                "calls the optimizer itself: remove optimizer.step(), or call flush()"
            )
        rates = [group.get("lr") for group in optimizer.param_groups]
        if self._warned or all(rate is not None and float(rate) == 0 for rate in rates):  # torch.distributed.checkpoint
            return  # makes the state of an optimizer by a step at lr 0
        self._warned = True
        warnings.warn(
            "Step: optimizer.step() was called outside the Step, which calls the optimizer itself: remove the call "
            "(schedule, "
            "averages and number count only the Step's updates)",
            UserWarning,
            stacklevel=4,
        )


def watch(optimizer: Optimizer, beside: Beside) -> Watch | None:
    """The watch of an optimizer; None if the optimizer has no hooks (some wrappers of trainers)."""
    if not hasattr(optimizer, "_optimizer_step_post_hooks"):
        return None
    if optimizer not in _WATCHES:
        _WATCHES[optimizer] = Watch()
        _WATCHES[optimizer]._register(optimizer)
    found = _WATCHES[optimizer]
    found.told.add(beside)
    return found


def before_step(optimizer: Any, args: Any, kwargs: Any) -> None:
    """Before every `step` of a watched optimizer."""
    found = _WATCHES.get(optimizer)
    if found is not None and not found.updating:
        for one in list(found.told):
            one.notice(optimizer)


def after_step(optimizer: Any, args: Any, kwargs: Any) -> None:
    """After every `step` of a watched optimizer."""
    found = _WATCHES.get(optimizer)
    if found is not None:
        found.happened = True


def after_load(optimizer: Any) -> None:
    """After every `load_state_dict` of a watched optimizer: the values in its groups were not set by hand."""
    forget(optimizer)


before_step.reads_no_gradient = True  # type: ignore[attr-defined]  # see `update.has_hooks_before`
after_step.reads_no_gradient = True  # type: ignore[attr-defined]  # see `update.gathered`

_WATCHES: weakref.WeakKeyDictionary[Any, Watch] = weakref.WeakKeyDictionary()
