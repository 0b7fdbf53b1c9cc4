"""Updates overshoot: the loss of a batch is higher after the update that this batch has made."""

from __future__ import annotations

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.trends import too_high
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R08",
    name="learning-rate-too-high",
    severity="error",
    certainty="certain",
    looks_for="updates overshoot: the loss of a batch is higher after the update that this batch has made",
    why="each step jumps over the valley: the loss swings, stays high or becomes NaN",
    instead="divide the learning rate by 3 to 30 (or run find_lr), and warm it up",
    silent_when="the loss falls all the same, or the weights are not finite for another reason",
    example_bad="Adam(params, lr=0.1)",
    example_good="Adam(params, lr=1e-3)",
    reference="https://arxiv.org/abs/2102.06604",
)
TIER = 2
EARLIEST = 4
HOLDS = 2


def find(record: Record) -> Finding | None:
    for number in range(len(record.optimizers)):
        seen = too_high(record, number)
        if seen:
            rate = max(record.lr[number][-1]) if record.lr[number] else 0.0
            return said(CHECK, record, f"at lr {rate:.3g} {seen}")
    return None
