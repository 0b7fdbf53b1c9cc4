"""Weight decay makes most of the update."""

from __future__ import annotations

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.doctor.trends import decay_share
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R48",
    name="weight-decay-too-strong",
    severity="error",
    certainty="certain",
    looks_for="weight decay makes most of the update",
    why="the weights are pulled to 0 faster than the loss can push them out: the model forgets, and ends at "
    "predicting the mean",
    instead="use a weight decay of 1e-4 (SGD), 0.01 to 0.1 (AdamW); the product lr * weight_decay * updates "
    "should stay near 1",
    silent_when="the loss falls all the same, or decay is off",
    example_bad="SGD(params, lr=0.1, weight_decay=0.5)",
    example_good="SGD(params, lr=0.1, weight_decay=5e-4)",
    reference="https://arxiv.org/abs/1711.05101",
)
TIER = 2
EARLIEST = 3
HOLDS = 2


def find(record: Record) -> Finding | None:
    found = decay_share(record)
    if found is None or found[0] < 0.5:
        return None
    share, shrunk, decay, rate = found
    if share == 1.0:
        return said(
            CHECK,
            record,
            f"weight decay {decay:g} at lr {rate:.3g} takes {100 * (1 - shrunk):.0f} % off every weight in each update",
        )
    return said(
        CHECK,
        record,
        (
            f"weight decay {decay:g} at lr {rate:.3g} makes {100 * share:.0f} % of the update "
            f"of the median matrix, whose weights have shrunk to {100 * shrunk:.0f} %"
        ),
    )


_SHRINKS = {"*.weight": {"weight": lambda step: 0.1 * 0.99**step, "grad": 0.001, "update": 0.001}}
BAD = (
    Trace(optimizer="SGD", lr=0.1, options={"weight_decay": 0.5}, loss=1.4),  # 5 % off in each update
    Trace(optimizer="AdamW", lr=0.05, options={"weight_decay": 1.0}, loss=1.4, steps=3),
    Trace(optimizer="Adam", lr=1e-3, options={"weight_decay": 0.1}, loss=1.4, tensors=_SHRINKS),
    Trace(optimizer="SGD", lr=0.1, options={"weight_decay": 0.1}, loss=1.4, tensors=_SHRINKS),
    Trace(optimizer="AdamW", lr=0.05, options={"weight_decay": 0.5}, loss=1.4, tensors=_SHRINKS),
)
GOOD = (
    Trace(optimizer="SGD", lr=0.1, options={"weight_decay": 0.49}, loss=1.4),
    Trace(optimizer="AdamW", lr=0.049, options={"weight_decay": 1.0}, loss=1.4),
    Trace(optimizer="Adam", options={"weight_decay": 0.0}, loss=1.4, tensors=_SHRINKS),
    Trace(optimizer="Adam", options={"weight_decay": 0.02}, loss=1.4, tensors=_SHRINKS),  # less than the gradient
    Trace(optimizer="Adam", options={"weight_decay": 0.1}, loss=lambda step: 1.4 * 0.98**step,
          tensors={"*.weight": {"weight": lambda step: 0.1 * 0.992**step, "grad": 0.001}}),  # the loss falls
    Trace(optimizer="Adam", options={"weight_decay": 0.1}, loss=1.4,
          tensors={"*.weight": {"weight": lambda step: 0.1 * 0.995**step, "grad": 0.001}}),  # 0.61 are left
)  # fmt: skip
