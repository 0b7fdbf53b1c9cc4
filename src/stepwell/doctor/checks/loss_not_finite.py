"""The loss or its gradient is not finite at weights that are."""

from __future__ import annotations

import math

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.doctor.trends import grown
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R43",
    name="loss-not-finite",
    severity="error",
    certainty="certain",
    looks_for="the loss or its gradient is not finite at weights that are",
    why="log(0), sqrt at 0 (whose slope is infinite), a division by 0 or an overflow of exp in the loss: one "
    "batch makes all weights NaN",
    instead="compute in a stable form: cross_entropy or logsigmoid for log(softmax) and log(sigmoid), sqrt(x + "
    "1e-12), clamp before log and division",
    silent_when="the input is not finite (R13), or weights had grown without bound before (R08, R21)",
    example_bad="torch.log(torch.sigmoid(x)).mean(); (a - b).pow(2).sum(1).sqrt()",
    example_good="F.logsigmoid(x).mean(); ((a - b).pow(2).sum(1) + 1e-12).sqrt()",
    reference="https://docs.pytorch.org/docs/stable/notes/autograd.html#gradients-for-non-differentiable-functions",
)
TIER = 1
EARLIEST = 0
HOLDS = 1


def find(record: Record) -> Finding | None:
    bad = record.not_finite
    if bad is None or bad.origin == "input" or grown(record):
        return None
    operations = f"; the graph of the loss contains {', '.join(bad.hard)}" if bad.hard else ""
    first = f" (first in {bad.where})" if bad.where else ""
    if bad.origin == "gradient":
        return said(
            CHECK,
            record,
            f"at update {bad.step} the loss is finite and its gradient is not{first}{operations}",
        )
    if bad.origin == "loss":
        return said(
            CHECK,
            record,
            (
                f"at update {bad.step} inputs, weights and outputs are finite and "
                f"the loss is not: the loss function makes it so{operations}"
            ),
        )
    if bad.origin == "weight" and bad.hard:
        return said(
            CHECK,
            record,
            (
                f"at update {bad.step} the weight {bad.where} is not finite, "
                f"after finite losses: a gradient was not{operations}"
            ),
        )
    if bad.origin == "unknown":
        return said(
            CHECK,
            record,
            f"at update {bad.step} inputs and weights are finite and the loss is not{operations}",
        )
    if bad.origin == "module":
        return said(
            CHECK,
            record,
            f"at update {bad.step} the first output that is not finite is that of {bad.where}{operations}",
        )
    return None


_LATE = lambda step: 1.4 if step < 50 else math.nan  # noqa: E731  # data, written as the traces are
BAD = (
    Trace(not_finite={"step": 3, "origin": "gradient", "where": "first.weight", "hard": ("sqrt",)}),
    Trace(not_finite={"step": 3, "origin": "gradient"}),  # each part is finite, and their norm overflows
    Trace(loss=_LATE, not_finite={"step": 50, "origin": "unknown"}),
    Trace(loss=_LATE, not_finite={"step": 50, "origin": "loss", "hard": ("log", "div")}),
    Trace(loss=_LATE, not_finite={"step": 50, "origin": "weight", "where": "last.bias", "hard": ("sqrt",)}),
    Trace(loss=_LATE, not_finite={"step": 50, "origin": "module", "where": "act (Softplus)"}),
    Trace(loss=lambda step: 1.4 if step < 49 else 6.9 if step < 50 else math.nan, not_finite={"origin": "loss"}),
    Trace(loss=_LATE, not_finite={"origin": "loss"}, norm=lambda step: 0.1 if step <= 3 else 9.9),
    Trace(loss=_LATE, not_finite={"origin": "loss"}, tensors={"*": {"update": 0.049}}),
)
GOOD = (
    Trace(loss=_LATE, not_finite={"step": 50, "origin": "input"}),
    Trace(loss=_LATE, not_finite={"step": 50, "origin": "weight", "where": "last.bias"}),
    Trace(loss=lambda step: 1.4 if step < 49 else 7.1 if step < 50 else math.nan, not_finite={"origin": "loss"}),
    Trace(loss=_LATE, not_finite={"origin": "loss"}, along={0.0: 1.0, 1.0: 1.1}),  # the updates overshoot
    Trace(loss=_LATE, not_finite={"origin": "loss"}, norm=lambda step: 0.1 if step <= 3 else 10.1),
    Trace(loss=_LATE, not_finite={"origin": "loss"}, tensors={"*": {"update": lambda step: 0.051 * (step > 98)}}),
    Trace(loss=1.4),
    Trace(loss=_LATE, not_finite={"origin": "loss"}, tensors={"*": {"update": lambda step: 0.051 * (step < 5)}}),
)
