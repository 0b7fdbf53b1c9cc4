"""The loss does not fall any more."""

from __future__ import annotations

import math

from stepwell.doctor.record import Record, median
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R25",
    name="plateau",
    severity="note",
    certainty="certain",
    looks_for="the loss of the last fifth of a long run is where the fifth before was, far above 0",
    why="more of the same costs time and brings nothing; a lower learning rate is what most often helps",
    instead="lower the learning rate (by a factor of 3 to 10, or by a schedule that ends at 0), then look at the data "
    "and at the size of the model",
    silent_when="the run is shorter than 300 updates, the loss still falls, or the rate falls to 0 already",
    example_bad="the loss is 1.31 at update 400 and at update 500, at a constant rate",
    example_good="the loss is 1.31 at update 400 and 1.22 at update 500",
    reference="https://arxiv.org/abs/1907.08610",
)
TIER = 6
EARLIEST = 300
HOLDS = 3


def find(record: Record) -> Finding | None:
    main = record.main
    if main is None or len(record.series) > 1 or not record.lr or not record.lr[0]:
        return None
    values = [value for value in main.values if math.isfinite(value)]
    if any(one.calls == 0 for one in record.schedules):
        return None  # a schedule that nobody steps is the reason
    fifth = len(values) // 5
    if fifth < 60 or len(values) < len(main.values):
        return None
    before, last, start = values[-2 * fifth : -fifth], values[-fifth:], median(values[:10])
    rates = [max(row) for row in record.lr[0]]
    if rates[-1] < 0.3 * max(rates) or start <= 0 or median(last) < 0.1 * start:
        return None
    slopes = [(b - a) / (fifth + j - i) for i, a in enumerate(before[::7]) for j, b in enumerate(last[::7])]
    noise = median([abs(value - median(last)) for value in last])
    gain = -median(slopes) * fifth  # of one more fifth, as the slope of Theil and Sen says
    if gain > 0.01 * abs(median(last)) or abs(median(last) - median(before)) > max(0.5 * noise, 0.01 * median(last)):
        return None
    return said(
        CHECK,
        record,
        f"the median loss was {median(before):.4g} in the fifth before, and is {median(last):.4g} in the last {fifth} "
        f"updates, at lr {rates[-1]:.3g}",
    )


BAD = (
    Trace(steps=400, loss=lambda step: max(1.3, 2.3 - 0.01 * step)),
    Trace(steps=300, loss=lambda step: 1.3 + 0.1 * math.sin(2.4 * step)),
    Trace(steps=500, loss=lambda step: max(1.3, 2.3 - 0.01 * step), lr=lambda step: 1e-3 if step < 300 else 3.1e-4),
    Trace(steps=400, loss=lambda step: 0.14 if step > 40 else 1.3),
)
GOOD = (
    Trace(steps=500, loss=lambda step: 1.58 - 0.0007 * step),  # 1.30 at update 400, 1.23 at update 500
    Trace(steps=299, loss=1.3),
    Trace(steps=400, loss=1.3, lr=lambda step: 1e-3 * (1 - step / 401)),  # the rate falls to 0
    Trace(steps=400, loss=lambda step: 0.12 if step > 40 else 1.3),  # close to 0
    Trace(steps=400, loss=1.3, losses=2),
    Trace(steps=400, loss=lambda step: -1.3),
    Trace(steps=400, loss=lambda step: 1.3 if step < 320 else 1.6),  # rises: another fault
    Trace(
        steps=400, loss=lambda step: 1.6 - 4e-4 * step + 0.4 * (step * 37 % 101 / 101)
    ),  # 2 % in a fifth, below the noise
    Trace(steps=400, loss=lambda step: 1.3 if step != 200 else math.nan),
    Trace(steps=500, loss=1.3, lr=lambda step: 1e-3 if step < 300 else 2.9e-4),
)
