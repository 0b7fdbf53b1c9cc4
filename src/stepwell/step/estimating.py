"""The estimator of a Step: bound to its optimizer, and to the next one after a switch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stepwell.errors import UsageError
from stepwell.step.accumulation import Weight
from stepwell.step.estimators import Estimator, Logits, receiver
from stepwell.step.part import PutBack, copy_kept


class Estimating:
    """The estimator of a Step, or none.

    Attributes:
        estimator: that of the optimizer which is trained with now.
    """

    def __init__(self, group: Any) -> None:
        self.estimator: Estimator | None = None
        self._given: Estimator | None = None  # kept while an optimizer is trained with that has no use for it
        self._group = group

    def start(self, estimator: Any, optimizer: torch.optim.Optimizer) -> None:
        """Take what was given, or raise UsageError."""
        self.estimator = self._given = _bound(estimator, optimizer, self._group)

    def bind(self, optimizer: torch.optim.Optimizer) -> Estimator | None:
        """Bind the estimator to another optimizer and return it, or None where that has no use for it."""
        return _rebound(self._given, optimizer, self._group)

    def check(self, logits: Any) -> None:
        """Raise UsageError for logits that are missing or of no use."""
        if self.estimator is not None:
            self.estimator.check(logits)
        elif logits is not None:
            raise UsageError("Step: logits have no effect without an estimator; leave them out")

    def take(self, loss: Tensor, logits: Logits | None, weight: Weight, scaler: Any) -> None:
        """Take in a micro-batch before its backward pass."""
        if self.estimator is not None:
            self.estimator.take(loss, logits, weight, scaler)

    def hand_over(self, found_inf: Tensor) -> None:
        """Give the optimizer the estimate, if the update has one."""
        if self.estimator is not None:
            self.estimator.hand_over(found_inf)

    def drop(self) -> None:
        """Forget the micro-batches of an update that is not made."""
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
    """What is set in the place of an estimator, or UsageError."""
    if estimator is not None and not isinstance(estimator, Estimator):
        raise UsageError(f"Step: estimator is a {type(estimator).__name__}; give one of stepwell.step, or None")
    return estimator


def _bound(estimator: Any, optimizer: torch.optim.Optimizer, group: Any) -> Estimator | None:
    """`estimator`, bound to `optimizer`; UsageError if one is missing, or given for nothing."""
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
            f"Step: estimator is a {type(estimator).__name__}; give GaussNewtonBartlett(every=10) or "
            "Hutchinson(every=10) of stepwell.step"
        )
    if wanted is None:
        raise UsageError(
            f"Step: {type(optimizer).__name__} has no use for estimates of the Hessian; leave estimator out"
        )
    estimator.bind(optimizer, group)
    return estimator


def _rebound(estimator: Estimator | None, optimizer: torch.optim.Optimizer, group: Any) -> Estimator | None:
    """`estimator` for another optimizer of the same run; None where it has no use."""
    wanted = receiver(optimizer)
    if estimator is None and wanted is not None:
        raise UsageError(
            f"Step: {type(wanted).__name__} needs estimates of the Hessian and this Step makes none; make a Step of "
            "its own for it, with stepwell.switch(step.optimizer, ...) and an estimator"
        )
    if estimator is None or wanted is None:
        return None
    estimator.rebind(optimizer, group)
    return estimator
