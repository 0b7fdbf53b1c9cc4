"""Backward passes compute gradients, and the optimizer finds none."""

from __future__ import annotations

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R27",
    name="gradients-cleared",
    severity="error",
    certainty="certain",
    looks_for="backward passes compute gradients, and the optimizer finds none",
    why="every update is empty: the weights do not move, or move by momentum and decay alone",
    instead="call optimizer.zero_grad() before the backward pass, not between backward() and step()",
    silent_when="no backward pass came to the parameters of this optimizer",
    example_bad="loss.backward(); optimizer.zero_grad(); optimizer.step()",
    example_good="optimizer.zero_grad(); loss.backward(); optimizer.step()",
    reference="https://docs.pytorch.org/docs/stable/optim.html#taking-an-optimization-step",
)
TIER = 0
EARLIEST = 0
HOLDS = 1


def find(record: Record) -> Finding | None:
    if record.cleared < 2:
        return None
    return said(
        CHECK, record, f"in {record.cleared} updates in a row a backward pass came to the parameters, and their "
        "gradients were gone, or all 0, when the optimizer stepped",
    )  # fmt: skip


BAD = (Trace(cleared=2, tensors={"*": {"grad": None}}), Trace(cleared=20, tensors={"*": {"grad": 0.0}}))
GOOD = (Trace(cleared=1), Trace(cleared=0, tensors={"*": {"grad": None}}))
