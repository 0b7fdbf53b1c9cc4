"""A scheduler was stepped before the first update."""

from __future__ import annotations

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R33",
    name="schedule-before-optimizer",
    severity="warning",
    certainty="certain",
    looks_for="a scheduler was stepped before the first update",
    why="the first value of the schedule is skipped, and every later one comes a step too early",
    instead="call scheduler.step() after optimizer.step(), or at the end of the epoch",
    silent_when="the scheduler belongs to no optimizer of this run",
    example_bad="for epoch in range(9): scheduler.step(); train_epoch()",
    example_good="for epoch in range(9): train_epoch(); scheduler.step()",
    reference="https://docs.pytorch.org/docs/stable/optim.html#how-to-adjust-learning-rate",
)
TIER = 0
EARLIEST = 1
HOLDS = 1


def find(record: Record) -> Finding | None:
    early = [one for one in record.schedules if one.before_first_step]
    if not early:
        return None
    return said(
        CHECK, record, f"{early[0].kind} was stepped before the first update of {record.optimizers[early[0].optimizer]}"
    )


BAD = (
    Trace(schedule={"kind": "StepLR", "calls": 1, "horizon": 30, "before_first_step": True}),
    Trace(schedule={"kind": "LambdaLR", "optimizer": 1, "before_first_step": True}, optimizer=("SGD", "Adam")),
)
GOOD = (
    Trace(schedule={"kind": "StepLR", "calls": 1, "horizon": 30}),
    Trace(schedule=None),
)
