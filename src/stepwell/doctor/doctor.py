"""`Doctor`: watches a training run and says what is wrong with it, first things first."""

from __future__ import annotations

import atexit
import sys
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import torch
from torch import nn

from stepwell.doctor.chronicle import Chronicle, report
from stepwell.doctor.diagnosis import Diagnosis
from stepwell.doctor.processes import own_path, speaks
from stepwell.doctor.watch import Watch
from stepwell.doctor.writers import writer
from stepwell.errors import UsageError, shown
from stepwell.findings import Finding, text


class Doctor:
    """Watches one run.

        doctor = Doctor(model, optimizer)
        for x, y in loader:
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            doctor.loss(loss)
            loss.backward()
            optimizer.step()

    `doctor.loss` belongs after each loss, before or after its backward pass, once for each micro-batch. Findings are
    printed as they become certain, the gravest cause first and one at a time: what a higher cause explains is not said.
    The weights of the run are the same, bit for bit, with and without a doctor.

    Args:
        model: the model, or several.
        optimizer: its optimizer, or several: any of torch's, or one of this library. Or a `stepwell.Step`: the doctor
            hears the losses that it is given, and `doctor.loss` is not needed.
        journal: a file of JSON lines that everything is written to, for `stepwell doctor FILE`; None for none.
            Rank 1 writes to `FILE.rank1`.
        live: print findings to standard error. Of several processes (torch.distributed) only rank 0 prints.
        writers: "tensorboard", "wandb", "trackio", "mlflow", or objects of these tools: numbers and findings go there,
            under `doctor/`, with the count of updates as the step. A name counts on rank 0 only.
        stream: where findings are printed to, instead of standard error.
        probes: run a batch again, a few times in a run, to see whether the update lowers the loss of this batch.

    Raises UsageError for what is no model and no optimizer.
    """

    def __init__(
        self,
        model: nn.Module | Sequence[nn.Module],
        optimizer: Any,
        *,
        journal: str | Path | None = None,
        live: bool = True,
        probes: bool = True,
        writers: Iterable[Any] = (),
        stream: TextIO | None = None,
    ) -> None:
        models: list[Any] = list(model) if isinstance(model, (list, tuple)) else [model]
        optimizers = list(optimizer) if isinstance(optimizer, (list, tuple)) else [optimizer]
        for one in models:
            if not isinstance(one, nn.Module):
                raise UsageError(f"Doctor: model={shown(one)}; it must be a torch.nn.Module, or a list of them")
        steps = [one for one in optimizers if hasattr(one, "on_loss")]
        optimizers = [one.optimizer if hasattr(one, "on_loss") else one for one in optimizers]
        for one in optimizers:
            if not hasattr(one, "param_groups"):
                raise UsageError(
                    f"Doctor: optimizer={shown(one)}; it must be a torch.optim.Optimizer, or a list of them"
                )
        self._watch = Watch(models, optimizers, probes)
        self._diagnosis = Diagnosis(self._watch.record)
        self._live, self._stream = live and speaks(), stream
        self._closed = False
        self._looked = 0
        named = speaks()  # a name opens a run of the tool: one of all processes is enough
        made = [writer(one) for one in writers if named or not isinstance(one, str)]
        self._chronicle = Chronicle(own_path(journal), self._watch.record, models, optimizers, made)
        self._ends = [one.on_loss(self._of_step) for one in steps]
        atexit.register(_close, weakref.ref(self))
        self._forgotten = weakref.finalize(self, self._watch.close)  # a doctor that nobody keeps takes its hooks off

    @property
    def findings(self) -> list[Finding]:
        """What was found so far, in the order in which it was said."""
        return list(self._diagnosis.findings)

    @property
    def record(self) -> Any:
        """All that was measured, for checks of one's own."""
        return self._watch.record

    def loss(self, loss: torch.Tensor | float) -> None:
        """Tells the loss of a batch, as the tensor on which backward() is called."""
        frame = sys._getframe(1)
        self._tell(loss, f"{frame.f_code.co_filename}:{frame.f_lineno}")

    def _of_step(self, loss: torch.Tensor) -> None:
        self._tell(loss, "Step")

    def _tell(self, loss: torch.Tensor | float, place: str) -> None:
        if not self._closed:
            self._watch.loss(loss, place)
            self._look()

    def val(self, metric: torch.Tensor | float) -> None:
        """Tells a metric of a validation; lower is better."""
        if not self._closed:
            self._watch.val(float(metric.detach() if isinstance(metric, torch.Tensor) else metric))
            self._look(again=True)

    def batch(self, x: Any, y: Any = None) -> None:
        """Shows a batch, where the doctor cannot see it: the input is no argument of the model, or the target is of no
        known loss function."""
        if not self._closed:
            from stepwell.doctor import batches

            x = batches.first_tensor((x,)) if not isinstance(x, torch.Tensor) else x
            self._watch.given = (x, y if isinstance(y, torch.Tensor) else None)

    def close(self) -> None:
        """Ends the watch: every hook is taken off, and what only the end of a run shows is said."""
        if self._closed:
            return
        for end in self._ends:
            end()
        self._watch.close()
        self._watch.record.ended = True
        self._look(again=True)
        self._closed = True
        self._forgotten.detach()
        self._chronicle.end()

    def report(self, path: str | Path) -> Path:
        """Writes a page of the run so far: the findings, curves and layers. Returns its path."""
        return report(self, Path(path))

    def __enter__(self) -> Doctor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _look(self, again: bool = False) -> None:
        """Asks the checks: after each of the first 20 updates, then after every tenth, from 200 on after every 50th."""
        record = self._watch.record
        step = record.step
        due = step != self._looked and (step <= 20 or (step <= 200 and step % 10 == 0) or step % 50 == 0)
        if again or due:
            self._watch.unread.read()
        if not len(self._watch.unread):
            self._chronicle.due()
        if not (again or due or (record.not_finite is not None and not self._diagnosis.findings)):
            return
        self._looked = step
        for finding in self._diagnosis.look():
            if self._live:
                print(text(finding), file=self._stream or sys.stderr)
            self._chronicle.finding(finding)


def _close(doctor: weakref.ref[Doctor]) -> None:
    one = doctor()
    if one is not None:
        one.close()
