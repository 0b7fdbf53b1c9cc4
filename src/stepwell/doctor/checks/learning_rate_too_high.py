"""Updates overshoot: the loss of a batch is higher after the update that this batch has made."""

from __future__ import annotations

import math
from typing import Any

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.doctor.trends import too_high
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R08",
    name="learning-rate-too-high",
    severity="error",
    certainty="certain",
    looks_for="updates overshoot: the loss of a batch is higher after the update that this batch has made",
    why="each step jumps over the valley: the loss swings, stays high or becomes NaN",
    instead="divide the learning rate by 3 to 30 (or run find_lr), and warm it up",
    silent_when="the loss falls all the same, or the weights are not finite for another reason",
    example_bad="Adam(params, lr=0.1)",
    example_good="Adam(params, lr=1e-3)",
    reference="https://arxiv.org/abs/2102.06604",
)
TIER = 2
EARLIEST = 4
HOLDS = 2


def find(record: Record) -> Finding | None:
    for number in range(len(record.optimizers)):
        seen = too_high(record, number)
        if seen:
            rate = max(record.lr[number][-1]) if record.lr[number] else 0.0
            return said(CHECK, record, f"at lr {rate:.3g} {seen}")
    return None


_FLAT = {0.0: 1.0, 1.0: 1.0}
_RISES = {0.0: 1.0, 1.0: 1.2}


def _changes(share: float, loss: Any = 1.4, last: float | None = None, **more: Any) -> Trace:
    """A run whose updates change the weights by a share (from step 10 on by the last one), all of them 0.1 at first."""

    def update(step: int) -> float:
        return 0.1 * (share if step < 10 or last is None else last)

    return Trace(lr=0.1, loss=loss, tensors={"*": {"update": update}}, **more)


BAD = (
    _changes(0.41, lambda step: 1.4 if step < 4 else 1.7, 0.01, steps=60),  # the loss rose
    _changes(0.51, lambda step: 1.4 if step < 4 else 0.36, steps=40),  # the loss fell, and not by much
    _changes(0.11, along=lambda step: _RISES if step > 12 else _FLAT),  # four of six probes
    Trace(loss=lambda step: 1.4**step if step < 40 else math.nan, not_finite={"step": 40, "origin": "loss"}),
    _changes(0.121, steps=80, along=_FLAT),  # no better than the frequencies of the labels
    _changes(0.31, lambda step: 1.4 if step < 4 else 1.13, steps=10),
    Trace(
        optimizer=("AdamW", "SGD"), losses=2, loss=1.4, along=_RISES, tensors={"*": {"update": 0.02, "optimizer": 1}}
    ),
)
GOOD = (
    _changes(0.9, lambda step: 1.4 if step < 4 else 0.34),  # the loss falls all the same
    _changes(0.9, lambda step: 1.4 if step < 4 else 1.0, steps=39),
    _changes(0.9, lambda step: 1.4 if step < 4 else 1.0, optimizer="Adagrad"),
    _changes(0.49, lambda step: 1.4 if step < 4 else 0.8),
    _changes(0.39, lambda step: 1.4 if step < 4 else 1.7, 0.01, steps=60),
    _changes(0.41, lambda step: 1.4 if step < 4 else 1.66, 0.01, steps=60),
    _changes(0.099, along=_RISES),  # small updates: the noise of the loss
    _changes(0.3, lambda step: 1.4 if step < 4 else 0.41, along=_RISES),
    _changes(0.11, along=lambda step: _RISES if step > 20 else _FLAT),  # three of six probes
    Trace(loss=lambda step: 1.0 if step < 50 else math.nan, not_finite={"step": 50, "origin": "loss"}),
    Trace(loss=lambda step: 1.4**step, not_finite={"origin": "input"}),
    _changes(0.119, along=_FLAT),
    _changes(0.121, steps=79, along=_FLAT),
    _changes(0.29, steps=60),
    _changes(0.31, lambda step: 1.4 if step < 4 else 1.1, steps=60),
    _changes(0.31, steps=9),
    _changes(0.31, losses=2),  # two losses that pull against each other
)
