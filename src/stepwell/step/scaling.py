"""One `GradScaler` for a Step, for several Steps, or for a Step together with a plain loop.

    scale     An accumulation keeps the scale of its first micro-batch until its update: all micro-batches are
              divided by the factor that they were multiplied with, even if the scaler changes its scale meanwhile.
    update    The scaler is updated once per round of the Steps that share it: when every Step that made an update in
              one of the last two rounds has made another. A gradient of any of these Steps that is not finite lowers
              the scale.

While a plain loop is between `unscale_` and `scaler.update()`, its own `scaler.update()` ends the round.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import OptState

from stepwell.engine.gradients import Factor
from stepwell.errors import UsageError
from stepwell.step.part import PutBack, copy_kept, try_state


class Scaling:
    """One Step's share in a GradScaler."""

    def __init__(self, scaler: torch.amp.GradScaler) -> None:
        self._scaler: Any = scaler
        self._held: Tensor | None = None  # the scale of this accumulation
        self.recorded: Tensor | None = None  # the flag that came last: an interrupted call hands it over again
        self._round = _ROUNDS.setdefault(scaler, _Round())
        self._round.expected.add(self)
        self._round.before.add(self)

    def scale(self, loss: Tensor) -> Tensor:
        """The loss times the scale of this accumulation."""
        if self._held is not None:
            return loss * self._held.to(loss.device, non_blocking=True)
        scaled = self._scaler.scale(loss)  # makes the scale where there is none yet
        self._held = self._scaler._scale.clone()
        return scaled

    def inverse(self) -> Tensor:
        """The factor that unscales the gradients of this accumulation."""
        scale = self._scaler._scale if self._held is None else self._held
        return scale.double().reciprocal().float()

    def drop(self) -> None:
        """Make the next micro-batch the first of an accumulation."""
        self._held = None

    def record(self, optimizer: Any, found_inf: Tensor) -> None:
        """Record an update that was made or skipped: line 7."""
        self._round.record(self, self._scaler, optimizer, found_inf)

    def normal_skips(self) -> int:
        """How many updates in a row a fresh scaler may skip until its scale is 1."""
        scale, factor, count = float(self._scaler._init_scale), float(self._scaler.get_backoff_factor()), 0
        while scale > 1 and count < 64:
            scale, count = scale * factor, count + 1
        return count


class Scaler:
    """The GradScaler of a Step, if any.

    Attributes:
        given: the scaler.
        scaling: the Step's share in it.
    """

    def __init__(self, scaler: Any) -> None:
        self.given = checked_scaler(scaler)
        self.scaling: Scaling | None = None

    def join(self) -> None:
        """Share the scaler: its rounds wait for this Step from now on."""
        if self.given is not None:
            self.scaling = Scaling(self.given)

    def scale(self, loss: Tensor) -> Tensor:
        return loss if self.scaling is None else self.scaling.scale(loss)

    def unscaled(self, factor: Factor) -> Factor:
        """The factor, multiplied by the factor that unscales the gradients of this accumulation."""
        return factor if self.scaling is None else factor * self.scaling.inverse()

    def record(self, optimizer: Any, found_inf: Tensor) -> None:
        """Record an update that was made or skipped: line 7."""
        if self.scaling is not None:
            self.scaling.record(optimizer, found_inf)

    def drop(self) -> None:
        """Make the next micro-batch the first of an accumulation."""
        if self.scaling is not None:
            self.scaling.drop()

    # As a part

    def state_dict(self) -> dict[str, Any] | None:
        return None if self.given is None else self.given.state_dict()

    def check_state(self, state: Any) -> None:
        if self.given is not None:
            try_state("scaler", self.given, state)

    def load_state_dict(self, state: Any) -> None:
        if self.given is not None:
            self.given.load_state_dict(state)

    def kept(self) -> PutBack:
        return (lambda: None) if self.given is None else copy_kept(self.given)


def checked_scaler(scaler: Any) -> Any:
    """The scaler, None for a scaler that is not enabled, or UsageError."""
    if scaler is None:
        return None
    if not isinstance(scaler, torch.amp.GradScaler):
        raise UsageError(f"Step: scaler is a {type(scaler).__name__}; it must be a torch.amp.GradScaler")
    return scaler if scaler.is_enabled() else None


class _Round:
    """The updates that Steps made since the last update of a scaler."""

    def __init__(self) -> None:
        self.expected: weakref.WeakSet[Scaling] = weakref.WeakSet()  # who ends a round by having come
        self.before: weakref.WeakSet[Scaling] = weakref.WeakSet()  # who came in the round before
        self.came: weakref.WeakSet[Scaling] = weakref.WeakSet()
        self._states: Any = None  # the scaler's; it makes new ones with every update
        self._mine: set[int] = set()  # the entries in them that Steps have made

    def record(self, one: Scaling, scaler: Any, optimizer: Any, found_inf: Tensor) -> None:
        self._look(scaler)
        if one.recorded is not found_inf:
            self._take(one, scaler, optimizer, found_inf)
        if id(optimizer) not in scaler._per_optimizer_states:  # an interrupted call had come so far as to end the round
            return
        self.came.add(one)
        if self.expected <= self.came:
            self._end(scaler)

    def _take(self, one: Scaling, scaler: Any, optimizer: Any, found_inf: Tensor) -> None:
        if one in self.came:  # the others are slower
            self._end(scaler)
            self._look(scaler)
        state = scaler._per_optimizer_states[id(optimizer)]
        found = state["found_inf_per_device"]
        earlier = found.get(found_inf.device)  # where the round was left to a plain loop
        # a copy: the scaler adds the others to the first of them, in place
        found[found_inf.device] = found_inf.clone() if earlier is None else torch.maximum(earlier, found_inf)
        state["stage"] = OptState.STEPPED
        self._mine.add(id(optimizer))
        one.recorded = found_inf

    def _look(self, scaler: Any) -> None:
        if scaler._per_optimizer_states is not self._states:
            self._mine.clear()
            self.came.clear()
            self._states = scaler._per_optimizer_states  # last: an interrupted call comes here again

    def _end(self, scaler: Any) -> None:
        both = [one for one in self.came if one in self.before]
        self.expected, self.before = weakref.WeakSet(both), weakref.WeakSet(self.came)
        others = [state for key, state in scaler._per_optimizer_states.items() if key not in self._mine]
        if any(state["stage"] is not OptState.READY or state["found_inf_per_device"] for state in others):
            self.came.clear()
            return
        scaler.update()


_ROUNDS: weakref.WeakKeyDictionary[Any, _Round] = weakref.WeakKeyDictionary()
