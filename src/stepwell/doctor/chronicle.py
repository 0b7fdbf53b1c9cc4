"""Hands on what the doctor measures: to the journal, and to the trackers of other tools."""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from stepwell.doctor.journal import Journal
from stepwell.doctor.record import Record, Sample
from stepwell.findings import Finding, text

if TYPE_CHECKING:
    from stepwell.doctor.doctor import Doctor

EARLY = 20  # updates that are written one by one
TOGETHER = 16  # later ones: between two updates the caches hold the model, and each visit here begins cold
SECONDS = 1.0  # that an update may wait


class Chronicle:
    """Writes each update once. `journal` keeps what it wrote, for the page."""

    def __init__(
        self, path: str | Path | None, record: Record, models: Sequence[nn.Module], optimizers: Sequence[Any],
        writers: Sequence[Any] = (),
    ) -> None:  # fmt: skip
        self.record, self.writers = record, list(writers)
        self.journal = Journal(path)
        self._step = self._vals = 0
        self._times: list[float] = []  # when the updates that wait were made
        device = next((parameter.device for model in models for parameter in model.parameters()), "cpu")
        self.journal.start(
            {
                "models": [type(model).__name__ for model in models],
                "optimizers": [
                    {"name": name, "groups": groups}
                    for name, groups in zip(record.optimizers, record.first_groups, strict=True)
                ],
                "parameters": [one.name for one in record.parameters],
                "shapes": [list(one.shape) for one in record.parameters],
                "torch": torch.__version__,
                "device": str(device),
                **({"left_out": list(record.left_out)} if record.left_out else {}),
            }
        )

    def due(self) -> None:
        """Writes the updates since the last call, where they are many or have waited long."""
        now, step = time.monotonic(), self.record.step
        self._times += [now] * (step - self._step - len(self._times))
        if step <= EARLY or len(self._times) >= TOGETHER or (self._times and now - self._times[0] >= SECONDS):
            self.steps()

    def steps(self) -> None:
        """Writes the updates since the last call."""
        record, times = self.record, self._times
        self._times = []
        for at in times + [time.monotonic()] * (record.step - self._step - len(times)):
            self._step += 1
            values = self._values(self._step)
            self.journal.step(values, at)
            numbers = {key: value for key, value in values.items() if isinstance(value, float)}
            for index, rate in enumerate(values.get("lr", ())):
                numbers["lr" if index == 0 else f"lr.{index}"] = rate
            for writer in self.writers:
                writer.step(self._step, numbers)
        while self._vals < len(record.vals):
            step, value = record.vals[self._vals]
            self._vals += 1
            self.journal.val(step, value)
            for writer in self.writers:
                writer.step(step, {"val": value})

    def finding(self, finding: Finding) -> None:
        self.steps()
        self.journal.finding(self.record.step, finding)
        for writer in self.writers:
            writer.finding(self.record.step, text(finding), finding.severity)

    def end(self) -> None:
        self.steps()
        self.journal.end(self.record.step)
        for writer in self.writers:
            writer.close()

    def _values(self, step: int) -> dict[str, Any]:
        record = self.record
        values: dict[str, Any] = {"step": step}
        main = record.main
        if main is not None:
            losses = main.values[bisect_left(main.steps, step) : bisect_right(main.steps, step)]
            if losses:
                values["loss"] = sum(losses) / len(losses)
        if record.lr and len(record.lr[0]) >= step:
            values["lr"] = list(record.lr[0][step - 1])
        sample = self._sample(step)
        if sample is not None:
            values["grad_norm"] = float(sample.norm)
            values |= {"grad": sample.grad, "weight": sample.weight, "update": sample.update}
        return values

    def _sample(self, step: int) -> Sample | None:
        return next(
            (one for one in reversed(self.record.samples[-16:]) if one.step == step and one.optimizer == 0), None
        )


def report(doctor: Doctor, path: Path) -> Path:
    """The page of a doctor's run so far."""
    from stepwell.doctor.page import write

    doctor._chronicle.steps()
    return write(doctor._chronicle.journal.run(), path)
