"""The learning rate is 0 for many updates."""

from __future__ import annotations

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
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
        still = 0
        for row in rates[:60]:
            still = still + 1 if max(row) == 0 else 0
            if still >= 20:
                return said(
                    CHECK,
                    record,
                    f"the learning rate of {record.optimizers[number]} was 0 for the first {still} updates and more",
                )
    return None
