"""A new optimizer of the same kind steps on the same parameters, again and again."""

from __future__ import annotations

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R31",
    name="optimizer-replaced-in-training",
    severity="error",
    certainty="certain",
    looks_for="a new optimizer of the same kind steps on the same parameters, again and again",
    why="momentum, second moments and the counter of steps start again each time: Adam makes its first, full- "
    "size step every time",
    instead="make the optimizer once, before the loop",
    silent_when="the optimizer is replaced once or twice in a run (another phase)",
    example_bad="for x, y in loader: optimizer = Adam(model.parameters()); ...",
    example_good="optimizer = Adam(model.parameters()); for x, y in loader: ...",
    reference="https://docs.pytorch.org/docs/stable/optim.html",
)
TIER = 0
EARLIEST = 0
HOLDS = 1


def find(record: Record) -> Finding | None:
    if record.remade < 3:
        return None
    return said(
        CHECK,
        record,
        f"{record.remade} times in {record.step} updates a new {record.optimizers[0]} took the place of the one before",
    )


BAD = (Trace(remade=3, steps=4), Trace(remade=99, optimizer="Adam"))
GOOD = (Trace(remade=2), Trace(remade=0))
