"""Trial updates, made as a Step makes them. The caller restores the weights afterwards, and the user's Step is
unchanged."""

from __future__ import annotations

import copy
from typing import Any

import torch

from stepwell.step.estimators import Hutchinson, receiver
from stepwell.step.step import Step


class Rehearsal(Step):
    """A Step for trial updates, over an optimizer that may already have a Step. The caller restores what a rehearsal
    changes (weights, optimizer, scaler) and ends with `leave`.

    Args:
        options: the options of a Step. An optimizer that uses estimates of the Hessian gets Hutchinson by default.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, **options: Any) -> None:
        if options.get("estimator") is None and receiver(optimizer) is not None:
            options["estimator"] = Hutchinson()
        super().__init__(optimizer, **options)
        self._clip_at_first = copy.deepcopy(self.clip)

    @classmethod
    def of(cls, step: Step) -> Rehearsal:
        """A rehearsal with the clipping, accumulation, scaler, model and estimator of a Step. That Step's schedule and
        averages are not advanced."""
        return cls(
            step.optimizer,
            clip=copy.deepcopy(step.clip),
            accumulate=step.accumulate,
            scaler=step.scaler,
            model=step.model,
            estimator=None if step.estimator is None else step.estimator.fresh(),
        )

    def restart(self) -> None:
        """Make the next update the first again."""
        self.clip = copy.deepcopy(self._clip_at_first)
        if self.estimator is not None:
            self.estimator.updates = 0
        self._begin_anew()

    def leave(self) -> None:
        """End the rehearsal: later passes of the model are synchronized between processes."""
        self._sync.before(last=True)
