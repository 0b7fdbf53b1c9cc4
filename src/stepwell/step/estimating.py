"""The estimator of a Step: bound to its optimizer, and to the new optimizer after a switch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stepwell.errors import UsageError
from stepwell.step.accumulation import Weight
from stepwell.step.estimators import Estimator, Logits, receiver
from stepwell.step.part import PutBack, copy_kept


class Estimating:
    """The estimator of a Step, if any.

    Attributes:
        estimator: the estimator of the current optimizer, or None.
    """

    def __init__(self, group: Any) -> None:
        self.estimator: Estimator | None = None
        self._given: Estimator | None = None  # kept while an optimizer is trained with that has no use for it
        self._group = group

    def start(self, estimator: Any, optimizer: torch.optim.Optimizer) -> None:
        """Set the estimator that was given, or raise UsageError."""
        self.estimator = self._given = _bound(estimator, optimizer, self._group)

    def bind(self, optimizer: torch.optim.Optimizer) -> Estimator | None:
        """Bind the estimator to another optimizer and return it, or None if that optimizer does not use one."""
        return _rebound(self._given, optimizer, self._group)

    def check(self, logits: Any) -> None:
        """Raise UsageError for logits that are missing or not used."""
        if self.estimator is not None:
            self.estimator.check(logits)
        elif logits is not None:
            raise UsageError("Step: logits have no effect without an estimator; omit them")

    def take(self, loss: Tensor, logits: Logits | None, weight: Weight, scaler: Any) -> None:
        """Add a micro-batch, before its backward pass."""
        if self.estimator is not None:
            self.estimator.take(loss, logits, weight, scaler)

    def hand_over(self, found_inf: Tensor) -> None:
        """Pass the estimate to the optimizer, if the update has one."""
        if self.estimator is not None:
            self.estimator.hand_over(found_inf)

    def drop(self) -> None:
        """Drop the micro-batches of an update that is not made."""
        if self.estimator is not None:
            self.estimator.drop()

    # As a part

    def state_dict(self) -> dict[str, Any] | None:
        return None if self.estimator is None else self.estimator.state_dict()

    def check_state(self, state: Any) -> None:
        if self.estimator is not None:
            self.estimator.check_state(state)

    def load_state_dict(self, state: Any) -> None:
        if self.estimator is not None:
            self.estimator.load_state_dict(state)

    def kept(self) -> PutBack:
        return (lambda: None) if self.estimator is None else copy_kept(self.estimator)


def checked_estimator(estimator: Any) -> Estimator | None:
    """The estimator to set, or UsageError."""
    if estimator is not None and not isinstance(estimator, Estimator):
        raise UsageError(
            f"Step: estimator is a {type(estimator).__name__}; it must be an estimator of stepwell.step, or None"
        )
    return estimator


def _bound(estimator: Any, optimizer: torch.optim.Optimizer, group: Any) -> Estimator | None:
    """`estimator`, bound to `optimizer`; UsageError if the optimizer needs one and has none, or does not use one."""
    wanted = receiver(optimizer)
    if estimator is None:
        if wanted is not None:
            raise UsageError(
                f"Step: {type(wanted).__name__} needs estimates of the Hessian; pass estimator=GaussNewtonBartlett() "
                "(classification, language models) or estimator=Hutchinson() (any loss)"
            )
        return None
    if not isinstance(estimator, Estimator):
        raise UsageError(
            f"Step: estimator is a {type(estimator).__name__}; it must be GaussNewtonBartlett(every=10) or "
            "Hutchinson(every=10) of stepwell.step"
        )
    if wanted is None:
        raise UsageError(f"Step: {type(optimizer).__name__} does not use estimates of the Hessian; omit estimator")
    estimator.bind(optimizer, group)
    return estimator


def _rebound(estimator: Estimator | None, optimizer: torch.optim.Optimizer, group: Any) -> Estimator | None:
    """The estimator for the new optimizer, or None if that optimizer does not use one."""
    wanted = receiver(optimizer)
    if estimator is None and wanted is not None:
        raise UsageError(
            f"Step: {type(wanted).__name__} needs estimates of the Hessian, and this Step has no estimator; make a new "
            "Step for it, with stepwell.switch(step.optimizer, ...) and an estimator"
        )
    if estimator is None or wanted is None:
        return None
    estimator.rebind(optimizer, group)
    return estimator
