"""A scheduler is attached to the optimizer, and nothing steps it."""

from __future__ import annotations

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R04",
    name="schedule-never-stepped",
    severity="warning",
    certainty="certain",
    looks_for="a scheduler is attached to the optimizer, and nothing steps it",
    why="the learning rate stays at its first value, which for a warmup or one-cycle schedule is a tiny one",
    instead="call scheduler.step() after each update, or after each epoch, as the schedule counts",
    silent_when="the run is not over and the schedule may count epochs",
    example_bad="scheduler = OneCycleLR(optimizer, 0.1, total_steps=1000)  # and no scheduler.step()",
    example_good="optimizer.step(); scheduler.step()",
    reference="https://docs.pytorch.org/docs/stable/optim.html#how-to-adjust-learning-rate",
)
TIER = 0
EARLIEST = 20
HOLDS = 1


def find(record: Record) -> Finding | None:
    still = [one for one in record.schedules if one.calls == 0 and not one.before_first_step]
    if not still:
        return None
    per_update = still[0].kind in ("OneCycleLR", "CyclicLR")
    if not ((record.ended and record.step >= 20) or record.step >= (20 if per_update else 400)):
        return None
    return said(
        CHECK,
        record,
        (
            f"{still[0].kind} is attached to "
            f"{record.optimizers[still[0].optimizer]}, and was not stepped "
            f"once in {record.step} updates"
        ),
    )


BAD = (
    Trace(schedule={"kind": "OneCycleLR", "calls": 0, "horizon": 1000}, steps=20),
    Trace(schedule={"kind": "CyclicLR", "calls": 0, "optimizer": 1}, optimizer=("SGD", "SGD")),
    Trace(schedule={"kind": "StepLR", "calls": 0, "horizon": 30}, steps=400),
    Trace(schedule={"kind": "StepLR", "calls": 0, "horizon": 30}, steps=20, ended=True),
)
GOOD = (
    Trace(schedule={"kind": "OneCycleLR", "calls": 1, "horizon": 1000}, steps=20),
    Trace(schedule={"kind": "OneCycleLR", "calls": 0, "horizon": 1000}, steps=19),
    Trace(schedule={"kind": "StepLR", "calls": 0, "horizon": 30}, steps=399),  # the first epoch may be long
    Trace(schedule={"kind": "StepLR", "calls": 0, "horizon": 30}, steps=19, ended=True),
    Trace(schedule={"kind": "StepLR", "calls": 0, "before_first_step": True}, steps=400),  # R33
)
