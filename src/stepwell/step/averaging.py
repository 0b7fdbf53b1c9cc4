"""Line 9: which tensors are averaged, when, and once only, whatever ended a call."""

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
from stepwell.step.made import few
from stepwell.step.names import averaged
from stepwell.step.part import PutBack
from stepwell.step.trained import Trained


class Averaging:
    """The averages of a Step, or none.

    Attributes:
        at: the number of the update that the averages have taken in.
        swapped: the weights are their averages at the moment.
    """

    def __init__(self, average: Averages | None, trained: Trained) -> None:
        self.average = average
        self._trained = trained
        self.at = 0
        self.swapped = False
        self._before: Tensor | None = None  # some of the averages, before an update of them that has begun
        self._buffers: dict[str, Tensor] | None = None  # the model's, as they were at the update that is pending

    def start(self) -> None:
        """The run begins."""
        if self.average is not None:
            self.average.start(dict(self.weights()))

    def weights(self) -> list[tuple[str, Tensor]]:
        """What is averaged: the model's floating-point buffers, then the parameters (to which some may be added)."""
        return averaged(self._model_buffers(), self._trained.named())

    def _model_buffers(self) -> list[tuple[str, Tensor]]:
        model = self._trained.model
        if self.average is None or model is None or not self.average.takes_buffers:
            return []
        return [(name, buffer) for name, buffer in model.named_buffers() if buffer.is_floating_point()]

    def pend(self, outcome: Reading) -> None:
        """An update was made or skipped; where its outcome is not known yet, the next forward pass changes the buffers
        before `after_update`."""
        if outcome.waits and self.average is not None:
            self._buffers = {name: buffer.detach().clone() for name, buffer in averaged(self._model_buffers(), [])}

    def after_update(self, number: int) -> None:
        """Take in the weights after update `number`, unless an interrupted call has done so."""
        if self.average is not None and self.at != number:
            self._take_in(self.average, number)
        self.at = number

    def _take_in(self, average: Averages, number: int) -> None:
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
        """The update is counted: no later call asks whether it was taken in."""
        self._before = None

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The weights are the averages inside."""
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
    """What the arguments `ema` and `average` of a Step ask for, or UsageError."""
    if ema is not None and average is not None:
        raise UsageError(f"Step: ema={shown(ema)} and average={shown(average)} are both given; give one")
    name, given = ("ema", ema) if average is None else ("average", average)
    if given is None or isinstance(given, Averages):
        return given
    return Average(fraction("Step", name, given, do="such as 0.999, the decay; or give Average(...), SWA(...)"))
