"""The loss depends on no parameter of the model."""

from __future__ import annotations

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R30",
    name="loss-without-graph",
    severity="error",
    certainty="certain",
    looks_for="the loss depends on no parameter of the model",
    why="backward() computes nothing for the model: the weights do not move",
    instead="call backward() on the loss itself: not on loss.item(), loss.detach(), or a new tensor made from the loss",
    silent_when="the graph was freed before the doctor saw the loss",
    example_bad="loss = torch.tensor(loss.item(), requires_grad=True); loss.backward()",
    example_good="loss = criterion(model(x), y); loss.backward()",
    reference="https://docs.pytorch.org/docs/stable/notes/autograd.html",
)
TIER = 0
EARLIEST = 0
HOLDS = 1


def find(record: Record) -> Finding | None:
    detached = max((one.detached for one in record.series), default=0)
    if detached >= 2 and record.step and not any(record.backwards[-2:]):  # else a copy of the loss was told
        return said(
            CHECK, record, f"{detached} losses in a row depend on no parameter of the model: their graph is cut"
        )
    empty = [one for one in record.samples if all(value is None for value in one.grad)]
    if record.step >= 3 and len(empty) >= 3 and len(empty) == len(record.samples) and record.cleared == 0:
        return said(
            CHECK, record, f"no parameter of the model had a gradient in any of the first {len(empty)} updates: what "
            "backward() is called on has lost its graph",
        )  # fmt: skip
    return None


BAD = (
    Trace(detached=2, backwards=0, told=1),
    Trace(tensors={"*": {"grad": None}}),
    Trace(tensors={"*": {"grad": None}}, steps=3),
)
GOOD = (
    Trace(detached=1, backwards=0, told=1),
    Trace(detached=9),  # a copy of the loss is told: gradients come
    Trace(tensors={"*": {"grad": None}}, steps=2),
    Trace(tensors={"*": {"grad": None}}, cleared=3),  # the gradients were there: R27
    Trace(tensors={"*": {"grad": lambda step: 0.01 if step > 4 else None}}),
    Trace(tensors={"*.weight": {"grad": None}}),
)
