"""Switching to another optimizer in the middle of a run: what is carried to the new optimizer, and switches by a
checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from stepwell.engine.update import innermost
from stepwell.errors import UsageError, nearest, shown
from stepwell.optimizers import TABLE
from stepwell.step.averaging import Averaging
from stepwell.step.bound_schedules import Bound
from stepwell.step.current_update import Made
from stepwell.step.estimating import Estimating
from stepwell.step.model_and_optimizer import Trained, checked_optimizer
from stepwell.step.part import PutBack
from stepwell.switching import begun, rate_for, switch


class Switching:
    """The switches of a Step. The checkpoint stores the class of the optimizer that the run was switched to. It is
    loaded before the other parts are checked, because these must fit that optimizer."""

    def __init__(
        self, trained: Trained, bound: Bound, averaging: Averaging, estimating: Estimating, made: Made
    ) -> None:
        self._trained, self._bound, self._averaging = trained, bound, averaging
        self._estimating, self._made = estimating, made

    def switch(self, to: str | type[Any], lr: Any, carry: bool, options: Mapping[str, Any]) -> None:
        """Continue with a new optimizer, whose next update uses the rate `lr`."""
        rate = self._bound.rate_of_new(rate_for(to, lr, options))
        optimizer = switch(self._trained.optimizer, to, lr=rate, carry=carry, **options)
        initial = self._bound.initial_of(optimizer)
        self._take(checked_optimizer(optimizer))
        self._bound.initial = initial
        self._trained.switched = _name_of(optimizer)
        self._bound.write()

    def _take(self, optimizer: torch.optim.Optimizer) -> None:
        """Continue with `optimizer`. The averages are reordered: Muon has its own order of parameters."""
        averaging, trained = self._averaging, self._trained
        names, before = [name for name, _ in averaging.weights()], [id(tensor) for _, tensor in averaging.weights()]
        estimator = self._estimating.bind(optimizer)
        old, trained.optimizer = trained.optimizer, optimizer
        try:
            if averaging.average is not None:
                order = [before.index(id(tensor)) for _, tensor in averaging.weights()]
                averaging.average.follow(order, names, [name for name, _ in averaging.weights()])
        except BaseException:
            trained.optimizer = old
            self._estimating.bind(old)
            raise
        self._estimating.estimator = estimator
        self._made.watch_optimizer()

    # As a part

    def state_dict(self) -> str | None:
        return self._trained.switched

    def check_state(self, state: Any) -> None:
        if not isinstance(state, (str, type(None))):
            raise UsageError(f"Step: 'switched' is {shown(state)} in the checkpoint; it must be a name, or None")
        known = (*TABLE, self._trained.switched, _name_of(self._trained.optimizer))  # the latter may be a user's own
        if state is not None and state not in known:
            raise UsageError(
                f"Step: the checkpoint was saved after a switch to an unknown optimizer, {shown(state)}; "
                f"{nearest(state, TABLE)}"
            )
        if state is None and self._trained.switched is not None:
            raise UsageError(
                f"Step: the checkpoint was saved before the switch to {self._trained.switched}; make a new Step with "
                "the optimizer that the run began with"
            )

    def load_state_dict(self, state: Any) -> None:
        """Switch the optimizer if the checkpoint was saved after a switch."""
        if state == self._trained.switched:
            return
        if state != _name_of(self._trained.optimizer):
            self._take(begun(self._trained.optimizer, state))
        self._trained.switched = state

    def kept(self) -> PutBack:
        optimizer, switched = self._trained.optimizer, self._trained.switched

        def put_back() -> None:
            if self._trained.optimizer is not optimizer:
                self._take(optimizer)
            self._trained.switched = switched

        return put_back


def _name_of(optimizer: Any) -> str:
    """The class name of the optimizer that makes the updates, inside its wrappers."""
    return type(innermost(optimizer)).__name__
