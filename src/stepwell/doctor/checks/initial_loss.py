"""The first loss is far from that of a model that knows nothing."""

from __future__ import annotations

import math

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R17",
    name="initial-loss",
    severity="note",
    certainty="certain",
    looks_for="the first cross-entropy is far from log(classes), which a model without any knowledge has",
    why="a higher loss says that the model begins sure of itself and wrong: the first updates only undo this; a much "
    "lower one says that the answer can be seen in the input, or that the weights are trained already",
    instead="begin the last layer with small weights and the bias at the frequencies of the classes; for a low loss, "
    "look for the target in the input",
    silent_when="the model is fine-tuned, or the loss has weights or label smoothing",
    example_bad="10 classes, and a first loss of 14 instead of log(10) = 2.3",
    example_good="10 classes, and a first loss of 2.4",
    reference="https://karpathy.github.io/2019/04/25/recipe/",
)
TIER = 5
EARLIEST = 2
HOLDS = 1


def find(record: Record) -> Finding | None:
    main = record.main
    if main is None or len(record.series) > 1 or main.facts is None or not main.values:
        return None
    classes, first = main.facts.classes, main.values[0]
    if main.facts.function not in ("cross_entropy", "nll_loss") or classes < 2 or not math.isfinite(first):
        return None
    if any(one.fresh is False or not one.trainable for one in record.parameters if len(one.shape) > 1):
        return None  # weights that were trained before
    usual = math.log(classes)
    if 0.5 * usual <= first <= 2 * usual:
        return None
    return said(
        CHECK,
        record,
        f"the first loss is {first:.3g}; a model that knows nothing about {classes} classes has log({classes}) = "
        f"{usual:.3g}",
    )


BAD = (
    Trace(loss=lambda step: 14.0 * 0.9**step),
    Trace(loss=lambda step: 2.78, facts={"function": "nll_loss", "before": "log_softmax"}),
    Trace(loss=lambda step: 0.69 / step),
    Trace(loss=1.4, facts={"classes": 2}),
    Trace(loss=0.1, tensors={"*.bias": {"trainable": False}}),
)
GOOD = (
    Trace(loss=lambda step: 2.77 / step),  # twice log(4)
    Trace(loss=lambda step: 0.7 / step),
    Trace(loss=lambda step: 0.1 / step, tensors={"first.weight": {"fresh": False}}),  # trained before
    Trace(loss=lambda step: 0.1 / step, tensors={"first.weight": {"trainable": False}}),
    Trace(loss=lambda step: 14.0 / step, facts={"function": "mse_loss"}),
    Trace(loss=lambda step: 14.0 / step, facts={"classes": 1}),
    Trace(loss=lambda step: math.inf),
    Trace(loss=14.0, losses=2),
)
