"""The loss of a batch keeps falling at many times the update that this batch makes."""

from __future__ import annotations

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.trends import too_low
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R09",
    name="learning-rate-too-low",
    severity="warning",
    certainty="certain",
    looks_for="the loss of a batch keeps falling at many times the update that this batch makes",
    why="the run would take a hundred times as long as it needs",
    instead="multiply the learning rate by 10, or run find_lr",
    silent_when="the learning rate is being warmed up, or at the end of its decay, or a longer step does not lower "
    "the loss",
    example_bad="Adam(params, lr=1e-6)",
    example_good="Adam(params, lr=1e-3)",
    reference="https://arxiv.org/abs/1506.01186",
)
TIER = 3
EARLIEST = 30
HOLDS = 2


def find(record: Record) -> Finding | None:
    for number in range(len(record.optimizers)):
        seen = too_low(record, number)
        if seen:
            rate = max(record.lr[number][-1]) if record.lr[number] else 0.0
            return said(CHECK, record, f"at lr {rate:.3g} {seen}")
    return None
