"""The gradients of an update are added to those of the updates before, because nothing resets them."""

from __future__ import annotations

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R01",
    name="stale-gradients",
    severity="error",
    certainty="certain",
    looks_for="the gradients of an update are added to those of the updates before, because nothing resets them",
    why="the gradient grows into a sum over all batches so far: the steps point to the past and become longer "
    "and longer",
    instead="call optimizer.zero_grad() once for each update, before the backward pass",
    silent_when="several backward passes belong to one update (accumulation): only gradients that an update has used "
    "count",
    example_bad="loss.backward(); optimizer.step()  # and never zero_grad()",
    example_good="optimizer.zero_grad(); loss.backward(); optimizer.step()",
    reference="https://docs.pytorch.org/tutorials/recipes/recipes/zeroing_out_gradients.html",
)
TIER = 0
EARLIEST = 0
HOLDS = 1


def find(record: Record) -> Finding | None:
    if record.stale < 2:
        return None
    return said(
        CHECK, record, f"{record.stale} updates in a row used gradients that the update before had used already: "
        "nothing resets them",
    )  # fmt: skip


BAD = (Trace(stale=2, steps=3), Trace(stale=99, norm=lambda step: 0.1 * step))
GOOD = (Trace(stale=1), Trace(stale=0, backwards=4, facts={"factor": 4.0}))
