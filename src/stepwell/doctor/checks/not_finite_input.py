"""The input contains NaN or infinity."""

from __future__ import annotations

import math

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R13",
    name="not-finite-input",
    severity="error",
    certainty="certain",
    looks_for="the input contains NaN or infinity",
    why="one such value makes the loss, all gradients and then all weights NaN",
    instead="find the rows (torch.isfinite(x).all()) and repair or drop them before training",
    silent_when="the inputs are finite",
    example_bad="a missing value read as nan",
    example_good="x = torch.nan_to_num(x), or the row is dropped",
    reference="",
)
TIER = 1
EARLIEST = 0
HOLDS = 1


def find(record: Record) -> Finding | None:
    bad = record.not_finite
    if bad is not None and bad.origin == "input":
        return said(
            CHECK, record, f"the input of the batch at update {bad.step} contains NaN or infinity, and so does its loss"
        )
    return None


BAD = (
    Trace(not_finite={"step": 1, "origin": "input"}),
    Trace(not_finite={"step": 57, "origin": "input"}, loss=lambda step: 1.0 if step < 57 else math.nan),
)
GOOD = (
    Trace(not_finite={"step": 1, "origin": "loss"}),
    Trace(not_finite={"step": 57, "origin": "weight", "where": "first.weight"}),
    Trace(batch={"low": -1e6}),
)
