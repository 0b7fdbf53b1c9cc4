"""The learning rate is 0 for many updates."""

from __future__ import annotations

import math

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R12",
    name="learning-rate-zero",
    severity="error",
    certainty="certain",
    looks_for="the learning rate is 0 for many updates",
    why="nothing is learned while the rate is 0",
    instead="look at the schedule: its warmup, its horizon, the factor that a LambdaLR returns",
    silent_when="the rate is 0 at the end of a decay",
    example_bad="LambdaLR(optimizer, lambda epoch: 0 if epoch == 0 else 1)  # stepped once for each epoch",
    example_good="a warmup that begins above 0",
    reference="",
)
TIER = 2
EARLIEST = 20
HOLDS = 1


def find(record: Record) -> Finding | None:
    for number, rates in enumerate(record.lr):
        early = [max(row) for row in rates[:60]]
        still, last = 0, math.inf  # zeros in a row, and the rate before them
        for rate in early:
            still, last = (still + 1, last) if rate == 0 else (0, rate)
            if still >= 20 and last > 0.5 * max(early):  # a decay that is over has left a small one
                return said(
                    CHECK,
                    record,
                    f"the learning rate of {record.optimizers[number]} was 0 for {still} updates in a row, among the "
                    f"first {len(early)}",
                )
    return None


BAD = (
    Trace(lr=0.0),
    Trace(lr=lambda step: 0.0 if step <= 20 else 1e-3),
    Trace(lr=lambda step: 1e-3 if step <= 40 else 0.0),  # a factor that LambdaLR rounds to 0
    Trace(lr=lambda step: 1e-3 if step == 1 else 5.1e-4 if step == 2 else 0.0),
)
GOOD = (
    Trace(lr=lambda step: 0.0 if step <= 19 else 1e-3),
    Trace(lr=lambda step: 0.0 if step <= 15 or 20 < step <= 35 else 1e-3),  # restarts
    Trace(lr=lambda step: max(0.0, 1e-3 * (1 - step / 40)), steps=60),  # a decay that is over
    Trace(lr=lambda step: 1e-3 if step <= 41 else 0.0),
    Trace(lr=lambda step: 1e-3 if step == 1 else 5e-4 if step == 2 else 0.0),
)
