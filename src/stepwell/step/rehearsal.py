"""Updates that somebody puts back afterwards, made as a Step makes them, which is left as it was."""

from __future__ import annotations

import copy
from typing import Any

import torch

from stepwell.step.estimators import Hutchinson, receiver
from stepwell.step.step import Step


class Rehearsal(Step):
    """A Step for updates that do not count, over an optimizer that may have a Step already. What it changes outside of
    itself (weights, optimizer, scaler) is put back by the caller, who ends with `leave`.

    Args:
        options: those of a Step. An optimizer that takes estimates of the Hessian gets them from Hutchinson by default.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, **options: Any) -> None:
        if options.get("estimator") is None and receiver(optimizer) is not None:
            options["estimator"] = Hutchinson()
        super().__init__(optimizer, **options)
        self._clip_at_first = copy.deepcopy(self.clip)

    @classmethod
    def of(cls, step: Step) -> Rehearsal:
        """With the clipping, the accumulation, the scaler, the model and the estimator of a Step, whose schedule and
        averages rest."""
        return cls(
            step.optimizer,
            clip=copy.deepcopy(step.clip),
            accumulate=step.accumulate,
            scaler=step.scaler,
            model=step.model,
            estimator=None if step.estimator is None else step.estimator.fresh(),
        )

    def restart(self) -> None:
        """The next update is the first one again."""
        self.clip = copy.deepcopy(self._clip_at_first)
        if self.estimator is not None:
            self.estimator.updates = 0
        self._begin_anew()

    def leave(self) -> None:
        """Other passes of the model follow: they are synchronised between processes."""
        self._sync.before(last=True)
