"""Line 9: which tensors are averaged, and when. Each update is averaged exactly once, even after an interrupted
call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from stepwell.anatomy.batch_norm import statistics_kept
from stepwell.arguments import fraction
from stepwell.engine.reading import Reading
from stepwell.errors import UsageError, shown
from stepwell.step.averages import Average, Averages
from stepwell.step.current_update import few
from stepwell.step.model_and_optimizer import Trained
from stepwell.step.names import averaged
from stepwell.step.part import PutBack


class Averaging:
    """The averages of a Step, or none.

    Attributes:
        at: the number of the last update that was averaged.
        swapped: whether the averages are swapped in.
    """

    def __init__(self, average: Averages | None, trained: Trained) -> None:
        self.average = average
        self._trained = trained
        self.at = 0
        self.swapped = False
        self._before: Tensor | None = None  # some of the averages, before an update of them that has begun
        self._buffers: dict[str, Tensor] | None = None  # the model's, as they were at the update that is pending

    def start(self) -> None:
        """Called at the start of the run."""
        if self.average is not None:
            self.average.start(dict(self.weights()))

    def weights(self) -> list[tuple[str, Tensor]]:
        """The tensors that are averaged: the model's floating-point buffers, then the parameters (more may be added
        later)."""
        return averaged(self._model_buffers(), self._trained.named())

    def _model_buffers(self) -> list[tuple[str, Tensor]]:
        model = self._trained.model
        if self.average is None or model is None or not self.average.takes_buffers:
            return []
        return [(name, buffer) for name, buffer in model.named_buffers() if buffer.is_floating_point()]

    def pend(self, outcome: Reading) -> None:
        """Called when an update was made or skipped. If the outcome is not known yet, the buffers are copied, because
        the next forward pass changes them before `after_update`."""
        if outcome.waits and self.average is not None:
            self._buffers = {name: buffer.detach().clone() for name, buffer in averaged(self._model_buffers(), [])}

    def after_update(self, number: int) -> None:
        """Add the weights after update `number`, unless an interrupted call has already added them."""
        if self.average is not None and self.at != number:
            self._add(self.average, number)
        self.at = number

    def _add(self, average: Averages, number: int) -> None:
        last = average.averages[-1] if average.averages else None
        if self._before is not None and last is not None and not torch.equal(few(last), self._before):
            return
        self._before = few(last).clone() if last is not None and last.device.type == "cpu" else None
        weights = dict(self.weights())
        if self._buffers is not None:
            weights.update({name: one for name, one in self._buffers.items() if name in weights})
            self._buffers = None
        average.update(weights, number)

    def counted(self) -> None:
        """Called when the update is counted: no later call asks whether it was averaged."""
        self._before = None

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Context manager: use the averages as weights inside."""
        assert self.average is not None
        with self.average.swapped_in(dict(self.weights())), statistics_kept(self._trained.model):
            self.swapped = True
            try:
                yield
            finally:
                self.swapped = False

    # As a part

    def state_dict(self) -> dict[str, Any] | None:
        return None if self.average is None else self.average.state_dict()

    def check_state(self, state: Any) -> None:
        if self.average is not None:
            self.average.check(state, dict(self.weights()))

    def load_state_dict(self, state: Any) -> None:
        if self.average is not None:
            self.average.load_state_dict(state, dict(self.weights()))

    def kept(self) -> PutBack:
        state = self.state_dict()  # no copy: what is loaded goes into other tensors
        return lambda: self.load_state_dict(state)


def averages_from(ema: Any, average: Any) -> Averages | None:
    """The average that the arguments `ema` and `average` of a Step describe, or UsageError."""
    if ema is not None and average is not None:
        raise UsageError(f"Step: ema={shown(ema)} and average={shown(average)} are both given; give one")
    name, given = ("ema", ema) if average is None else ("average", average)
    if given is None or isinstance(given, Averages):
        return given
    return Average(fraction("Step", name, given, do="such as 0.999, the decay; or give Average(...), SWA(...)"))
