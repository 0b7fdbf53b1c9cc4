"""The loss rises far above where it began."""

from __future__ import annotations

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.trends import diverged
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R10",
    name="divergence",
    severity="error",
    certainty="certain",
    looks_for="the loss rises far above where it began",
    why="training destroys what the model knew",
    instead="lower the learning rate, warm it up, clip the gradients",
    silent_when="the loss is not bounded by design (GANs, reinforcement learning), or a higher cause was named",
    example_bad="loss 2.3, 2.1, 5.4, 40, 900",
    example_good="loss 2.3, 2.1, 1.9",
    reference="https://arxiv.org/abs/1506.01186",
)
TIER = 5
EARLIEST = 30
HOLDS = 3


def find(record: Record) -> Finding | None:
    seen = diverged(record)
    return said(CHECK, record, seen) if seen else None
