"""Whether an update that started was made, even if the call was interrupted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from stepwell.engine.reading import Reading
from stepwell.step.model_and_optimizer import Trained
from stepwell.step.outside_calls import Beside, watch
from stepwell.step.trainer import Counted


class Made:
    """The update of the current call of a Step.

    Attributes:
        outcome: the result of an update that has started, until the update is pending.
        unrecorded: the flag of that update, until the scaler has received it.
    """

    def __init__(self, trained: Trained, beside: Beside) -> None:
        self._trained, self._beside = trained, beside
        self.outcome: Reading | None = None
        self.unrecorded: Tensor | None = None
        self._sample: tuple[Tensor, Tensor] | None = None  # some weights, and what they were before that update
        self.watch_optimizer()

    def watch_optimizer(self) -> None:
        """Watch the current optimizer from now on."""
        self._watch = watch(self._trained.optimizer, self._beside)
        self._counted = Counted()

    def expect(self, outcome: Reading, found_inf: Tensor | None, named: Sequence[tuple[str, Tensor]]) -> None:
        """Called before the update of these parameters."""
        if self._watch is not None:
            self._watch.happened = False
        last = named[-1][1] if named else None  # the weights that move last
        plain = last is not None and last.device.type == "cpu" and type(last) in (Tensor, torch.nn.Parameter)
        self._sample = (last, few(last).clone()) if last is not None and plain else None
        self.unrecorded = found_inf
        self.outcome = outcome

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Context manager around the update: marks calls of `optimizer.step` as the Step's own, and records whether the
        update was made."""
        optimizer = self._trained.optimizer
        self._counted.begin(optimizer)
        if self._watch is not None:
            self._watch.begin(optimizer)
        try:
            yield
        finally:
            if self._watch is not None:
                self._watch.end()
        self._counted.end()

    def happened(self) -> bool:
        """Whether the expected update was made: a hook saw its end, or the last weights changed."""
        if self.outcome is None:
            return False
        if self._watch is not None and self._watch.happened:
            return True
        return self._sample is not None and not torch.equal(few(self._sample[0]), self._sample[1])

    def counted(self) -> None:
        """Called when the update is pending."""
        self.outcome = self._sample = None

    def drop(self) -> None:
        """Called when no update has started."""
        self.outcome = self.unrecorded = self._sample = None


def few(tensor: Tensor) -> Tensor:
    """Some of the weights, to tell whether an update was made."""
    return tensor.detach().reshape(-1)[:64]
