"""Line 1: the backward pass, after a check of the loss."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from stepwell.engine.gradients import Factor
from stepwell.errors import UsageError, shown
from stepwell.step.model_and_optimizer import Trained
from stepwell.step.scaling import Scaler
from stepwell.step.synchronisation import Synchronisation


class Backward:
    """The backward passes of a Step."""

    def __init__(self, trained: Trained, scaler: Scaler, sync: Synchronisation) -> None:
        self._trained, self._scaler, self._sync = trained, scaler, sync

    def run(self, loss: Tensor, share: Factor, retain_graph: bool, released: bool = False) -> None:
        """Backward with the loss times its share, and scaled; UsageError where no parameter gets a gradient, unless
        gradients are released."""
        weighted = loss if isinstance(share, float) and share == 1.0 else loss * share
        try:
            with self._sync.during_backward():
                self._scaler.scale(weighted).backward(retain_graph=retain_graph)
        except RuntimeError as error:
            if "second time" not in str(error):
                raise
            raise UsageError(
                "Step: backward() has already run on this loss and freed its graph; compute the loss again for each "
                "step, or pass retain_graph=True to the first backward()"
            ) from error
        if not (self._sync.quiet or released):  # FSDP keeps what is not synchronised elsewhere
            self._trained.check_gradients()


def check_loss(loss: Any) -> None:
    """Raise UsageError for a loss that is not a scalar with a graph."""
    if not isinstance(loss, Tensor):
        raise UsageError(f"Step: loss is a {type(loss).__name__}; it must be a scalar tensor with its graph")
    if loss.is_meta or loss.is_sparse or loss.is_complex():
        raise UsageError(f"Step: loss={shown(loss)}; it must be a scalar of real numbers, such as loss.mean()")
    if loss.numel() != 1:
        raise UsageError(f"Step: loss has shape {tuple(loss.shape)}; it must be a scalar, such as loss.mean()")
    if not loss.requires_grad:
        raise UsageError(
            "Step: loss has no graph; was it detached, computed under no_grad, or without a parameter that requires "
            "a gradient?"
        )
