"""The loss compares (n, 1) with (n,), which torch expands to (n, n)."""

from __future__ import annotations

import math

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R39",
    name="shapes-broadcast-in-the-loss",
    severity="error",
    certainty="certain",
    looks_for="the loss compares (n, 1) with (n,), which torch expands to (n, n)",
    why="every output is compared with every target: the best answer is the mean of all targets",
    instead="give both the same shape: output.squeeze(1), or target.unsqueeze(1)",
    silent_when="the shapes are equal, or one side is a single number",
    example_bad="F.mse_loss(model(x), y)  # (n, 1) and (n,)",
    example_good="F.mse_loss(model(x).squeeze(1), y)",
    reference="https://docs.pytorch.org/docs/stable/notes/broadcasting.html",
)
TIER = 0
EARLIEST = 0
HOLDS = 1


def find(record: Record) -> Finding | None:
    for one in record.series:
        facts = one.facts
        if facts is not None and facts.broadcast is not None:
            a, b = facts.broadcast
            if 1 in (math.prod(a), math.prod(b)):
                continue  # one number is compared with all
            if (a != b and len(a) != len(b)) or (a != b and 1 in (*a, *b)):
                return said(
                    CHECK, record, f"the loss compares the shapes {a} and {b}, which are expanded to one another"
                )
    return None


BAD = (
    Trace(facts={"function": "mse_loss", "broadcast": ((64, 1), (64,))}),
    Trace(facts={"broadcast": ((64, 1), (64, 10))}, losses=2),
)
GOOD = (
    Trace(facts={"function": "mse_loss", "broadcast": None}),
    Trace(facts={"function": "mse_loss", "broadcast": ((64, 1), (64, 1))}),
    Trace(facts={"function": "mse_loss", "broadcast": ((64, 1), ())}),  # every output is compared with one number
    Trace(facts={"function": "mse_loss", "broadcast": ((64,), (1,))}),
)
