"""The first updates are too long, and later ones of the same learning rate are not."""

from __future__ import annotations

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.traces import ALONG, Trace
from stepwell.doctor.trends import needs_warmup
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R11",
    name="warmup-needed",
    severity="warning",
    certainty="certain",
    looks_for="the first updates are too long, and later ones of the same learning rate are not",
    why="the second moments of Adam know nothing yet and the first steps have full size: transformers are "
    "thrown far from their start and take long to come back",
    instead="raise the learning rate from 0 over the first 2 to 10 % of the updates",
    silent_when="the learning rate rises at the start, or a longer update would lower the loss in the first probes",
    example_bad="AdamW(params, lr=3e-3)  # from the first step, for a transformer",
    example_good="LinearLR(optimizer, 0.01, total_iters=200), then a decay",
    reference="https://arxiv.org/abs/2002.04745",
)
TIER = 2
EARLIEST = 20
HOLDS = 1


def find(record: Record) -> Finding | None:
    seen = needs_warmup(record)
    return said(CHECK, record, seen) if seen else None


_SHORT = {0.0: 1.0, 0.3: 0.99, 1.0: 0.97, 3.0: 1.2}
BAD = (
    Trace(attention=True, along=_SHORT),
    Trace(attention=True, along=lambda step: ALONG if step == 12 else _SHORT, optimizer="NAdam"),
    Trace(attention=True, along=_SHORT, lr=lambda step: 1e-3 if step > 20 else 7.1e-4),
)
GOOD = (
    Trace(attention=True),
    Trace(attention=True, along=_SHORT, lr=lambda step: 1e-3 * min(1.0, step / 40)),
    Trace(attention=True, along=_SHORT, optimizer="SGD"),
    Trace(attention=True, along=_SHORT, steps=19),
    Trace(attention=True, along=lambda step: ALONG if step in (7, 12) else _SHORT),
    Trace(attention=True, along=lambda step: {0.0: 1.0, 1.0: 0.9, 10.0: 0.8} if step == 12 else _SHORT),
    Trace(attention=False, along=_SHORT),
    Trace(attention=True, along=_SHORT, lr=lambda step: 1e-3 if step > 20 else 6.9e-4),
)
