"""The loss rises far above where it began."""

from __future__ import annotations

import math

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
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
    silent_when="there are several losses (GANs), the first losses are not above 0, or a higher cause was named",
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


BAD = (
    Trace(loss=lambda step: 2.3 * 1.03**step),
    Trace(loss=lambda step: 1.0 if step <= 85 else 3.1),
    Trace(loss=lambda step: 1.0 if step <= 20 else 3.1, steps=40),
)
GOOD = (
    Trace(loss=lambda step: 1.0 if step <= 85 else 3.0),
    Trace(loss=lambda step: 1.0 if step <= 95 else 90.0),  # five high values of a hundred
    Trace(loss=lambda step: 2.3 * 1.03**step, losses=2),  # a GAN
    Trace(loss=lambda step: 1.3**step, steps=39),
    Trace(loss=lambda step: -1.0 / step),  # a loss below 0, as those of policies
    Trace(loss=lambda step: 1.0 if step <= 60 else math.inf),
)
