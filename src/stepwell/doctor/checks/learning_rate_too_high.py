"""Updates overshoot: the loss of a batch is higher after the update that this batch has made."""

from __future__ import annotations

import math

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
BAD = (
    Trace(lr=0.3, loss=lambda step: 1.4 if step < 4 else 1.7, tensors={"*": {"update": 0.09}}),  # the loss rose
    Trace(lr=0.3, loss=lambda step: 1.4 if step < 4 else 0.5, tensors={"*": {"update": 0.12}}),  # hardly fell
    Trace(lr=0.1, loss=lambda step: 1.4 if step < 4 else 1.0, tensors={"*": {"update": 0.03}}, along={0.0: 1.0, 1.0: 1.2}),
    Trace(lr=0.5, loss=lambda step: 1.4 * 1.4**step if step < 40 else math.nan, not_finite={"step": 40, "origin": "loss"}),
    Trace(lr=0.1, loss=1.4, along=_FLAT, tensors={"*": {"update": 0.03}}),  # no better than the frequencies
    Trace(lr=0.2, steps=60, loss=1.4, along=_FLAT, tensors={"*": {"update": 0.07}}),
    Trace(lr=0.3, optimizer=("AdamW", "SGD"), losses=2, loss=1.4, along={0.0: 1.0, 1.0: 1.2},
          tensors={"*": {"update": 0.03, "optimizer": 1}}),
)  # fmt: skip
GOOD = (
    Trace(
        lr=0.1, tensors={"*": {"update": 0.12}}, loss=lambda step: 1.4 if step < 4 else 0.34
    ),  # it falls all the same
    Trace(lr=0.1, tensors={"*": {"update": 0.12}}, steps=39, loss=lambda step: 1.4 if step < 4 else 1.0),
    Trace(optimizer="Adagrad", lr=0.1, tensors={"*": {"update": 0.12}}, loss=lambda step: 1.4 if step < 4 else 1.0),
    Trace(along={0.0: 1.0, 1.0: 1.2}, loss=1.4, tensors={"*": {"update": 0.009}}),  # small updates: noise of the loss
    Trace(along=lambda step: {0.0: 1.0, 1.0: 1.2 if step < 5 else 0.9}, loss=1.0, tensors={"*": {"update": 0.013}}),
    Trace(loss=lambda step: 1.0 if step < 50 else math.nan, not_finite={"step": 50, "origin": "loss"}),
    Trace(loss=lambda step: 1.4**step, not_finite={"step": 100, "origin": "input"}),
    Trace(loss=1.4, along=_FLAT, tensors={"*": {"update": 0.011}}),
)
