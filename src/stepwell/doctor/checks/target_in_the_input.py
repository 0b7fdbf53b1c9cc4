"""The input contains the target."""

from __future__ import annotations

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R42",
    name="target-in-the-input",
    severity="error",
    certainty="certain",
    looks_for="the input contains the target",
    why="the model copies instead of learning, and knows nothing once the target is missing",
    instead="remove the target from the input: shift the targets of a language model by one, drop the column",
    silent_when="floating-point inputs are the target as a whole (autoencoders), or the two agree in some batches only",
    example_bad="loss = F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())",
    example_good="loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())",
    reference="",
)
TIER = 0
EARLIEST = 4
HOLDS = 1


def find(record: Record) -> Finding | None:
    columns = [one.copied for one in record.batches if one.target_size][-4:]
    if len(columns) < 4 or None in columns or len(set(columns)) != 1:
        return None
    column = columns[-1]
    where = (
        "the whole input is the target, position by position"
        if column == -1
        else f"column {column} of the input is the target, in all of the last {len(columns)} batches looked at"
    )
    return said(CHECK, record, where)


BAD = (
    Trace(batch={"copied": 3}),
    Trace(batch={"copied": -1, "kind": "integer"}),
    Trace(batch={"copied": lambda step: None if step <= 80 else 0}),
    Trace(batch={"copied": lambda step: None if step == 88 else 3}),
    Trace(batch={"copied": 0}, steps=4),
)
GOOD = (
    Trace(batch={"copied": None}),
    Trace(batch={"copied": lambda step: None if step == 90 else 3}),  # in one of the last batches not
    Trace(batch={"copied": lambda step: step % 8}),  # another column each time
    Trace(batch={"copied": 3}, steps=3),
)
