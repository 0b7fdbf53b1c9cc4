"""Inputs or targets have raw units, far from 0 and 1."""

from __future__ import annotations

from stepwell.doctor.record import Record, median
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R19",
    name="unscaled-inputs",
    severity="warning",
    certainty="certain",
    looks_for="inputs or targets have raw units, far from 0 and 1",
    why="weights of the usual size see values of hundreds: the first outputs, the loss and the gradients are "
    "large, and one learning rate does not fit all columns",
    instead="subtract the mean and divide by the standard deviation, both of the training data",
    silent_when="inputs are integers (tokens), or within the usual range",
    example_bad="pixels from 0 to 255; a column of incomes next to a column of rates",
    example_good="x = (x - mean) / std",
    reference="",
)
TIER = 1
EARLIEST = 3
HOLDS = 1


def find(record: Record) -> Finding | None:
    seen = [one for one in record.batches if one.kind == "float" and one.size and one.finite and one.std > 0][:12]
    if len(seen) < 3:
        return None
    top = median([max(abs(one.low), abs(one.high)) for one in seen])
    std, mean = median([one.std for one in seen]), median([abs(one.mean) for one in seen])
    spread = median([one.spread for one in seen])
    goals = [one.target_std for one in record.batches if one.target_std is not None and one.labels is None][:4]
    if std > 4 or mean > 8 * max(std, 1) or top > 60 or (spread > 30 and std > 3):
        return said(
            CHECK,
            record,
            (
                f"inputs have mean {seen[0].mean:.3g}, standard deviation "
                f"{seen[0].std:.3g} and values from {seen[0].low:.3g} to "
                f"{seen[0].high:.3g}"
            ),
        )
    if goals and median([one for one in goals if one is not None]) > 25:
        return said(
            CHECK,
            record,
            f"targets have standard deviation {goals[0]:.3g}",
            instead="divide the targets by their standard deviation, and undo it for predictions",
        )
    return None


BAD = (
    Trace(batch={"mean": 120.0, "std": 70.0, "low": 0.0, "high": 255.0}),
    Trace(batch={"std": 4.1}),
    Trace(batch={"mean": -8.2}),
    Trace(batch={"high": 61.0}),
    Trace(batch={"std": 3.1, "spread": 31.0}),
    Trace(batch={"target_mean": 900.0, "target_std": 26.0}),
    Trace(batch={"std": 90.0}, steps=3),
    Trace(batch={"mean": 34.0, "std": 4.0}),
)
GOOD = (
    Trace(batch={"std": 4.0, "mean": 32.0, "low": -60.0, "high": 60.0, "spread": 30.0}),
    Trace(batch={"std": 3.0, "spread": 90.0}),  # one column is larger, and not very large
    Trace(batch={"kind": "integer", "std": 1e4, "high": 5e4}),  # tokens
    Trace(batch={"std": 1e4, "high": 5e4}, steps=2),
    Trace(batch={"std": 1e4, "finite": False}),  # R13
    Trace(batch={"std": 0.0, "mean": 100.0}),
    Trace(batch={"target_mean": 900.0, "target_std": 25.0}),
    Trace(batch={"target_mean": 9.0, "target_std": 90.0, "labels": {0: 32, 200: 32}}),  # numbers of classes
)
