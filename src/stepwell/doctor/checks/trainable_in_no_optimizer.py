"""Parameters that the loss depends on are trainable and in no optimizer."""

from __future__ import annotations

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R03",
    name="trainable-in-no-optimizer",
    severity="error",
    certainty="certain",
    looks_for="parameters that the loss depends on are trainable and in no optimizer",
    why="their gradients are computed and never used: these layers stay at their random start",
    instead="give the optimizer all trainable parameters: optimizer = AdamW(model.parameters(), ...), made after "
    "the model is complete",
    silent_when="the parameters are frozen, or an optimizer that comes later has them",
    example_bad="optimizer = Adam(model.head.parameters())",
    example_good="optimizer = Adam(model.parameters())",
    reference="https://docs.pytorch.org/docs/stable/optim.html#constructing-it",
)
TIER = 0
EARLIEST = 2
HOLDS = 1


def find(record: Record) -> Finding | None:
    left = [
        n for n, one in enumerate(record.parameters)
        if one.trainable and one.optimizer is None and record.reached[n] >= 2
    ]  # fmt: skip
    if not left:
        return None
    return said(
        CHECK,
        record,
        f"the loss depends on {record.names(left)}, and no optimizer has {'it' if len(left) == 1 else 'them'}",
        left,
    )


BAD = (
    Trace(tensors={"first.*": {"optimizer": None, "reached": 2}}),
    Trace(tensors={"scale": {"optimizer": None, "reached": 40, "shape": (1,)}}),
)
GOOD = (
    Trace(tensors={"first.*": {"optimizer": None, "reached": 40, "trainable": False}}),
    Trace(tensors={"first.*": {"optimizer": None, "reached": 1}}),  # an optimizer may still come
    Trace(tensors={"first.*": {"optimizer": None, "reached": 0}}),
)
