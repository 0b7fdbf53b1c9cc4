"""Weight decay makes most of the update."""

from __future__ import annotations

from typing import Any

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
    silent_when="decay is off, or takes less than 5 % off a weight in an update while the loss falls all the same",
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


def _shrinks(by: float, decay: float, optimizer: str = "Adam", lr: float = 1e-3, loss: Any = 1.4) -> Trace:
    """A run whose weights are multiplied by a number in each update."""
    weight = {"weight": lambda step: 0.1 * by**step, "grad": 0.001, "update": 0.001}
    return Trace(optimizer=optimizer, lr=lr, options={"weight_decay": decay}, loss=loss, tensors={"*.weight": weight})


BAD = (
    Trace(optimizer="SGD", lr=0.1, options={"weight_decay": 0.5}, loss=1.4),  # 5 % off in each update
    Trace(optimizer="AdamW", lr=0.05, options={"weight_decay": 1.0}, loss=1.4, steps=3),
    _shrinks(0.99, 0.028),  # 0.52 of the update
    _shrinks(0.9948, 0.1),  # 0.59 of the weights are left
    _shrinks(0.99, 0.1, "SGD", 0.1),
    _shrinks(0.99, 0.5, "AdamW", 0.05),
    _shrinks(0.987, 0.1, loss=lambda step: 1.4 * 0.98**step),  # the loss falls, and 0.27 of the weights are left
)
GOOD = (
    Trace(optimizer="SGD", lr=0.1, options={"weight_decay": 0.49}, loss=1.4),
    Trace(optimizer="SGD", lr=0.2, options={"weight_decay": 0.4}, loss=1.4),
    Trace(optimizer="AdamW", lr=0.049, options={"weight_decay": 1.0}, loss=1.4),
    _shrinks(0.99, 0.0),
    _shrinks(0.99, 0.024),  # 0.49 of the update
    _shrinks(0.995, 0.1),  # 0.61 of the weights are left
    _shrinks(0.99, 0.5, "AdamW", 0.001),  # decay alone has not done that
    _shrinks(0.989, 0.1, loss=lambda step: 1.4 * 0.98**step),  # the loss falls all the same
)
