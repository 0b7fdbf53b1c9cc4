"""A squared error compares raw outputs with classes."""

from __future__ import annotations

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R38",
    name="squared-error-on-classes",
    severity="warning",
    certainty="certain",
    looks_for="a squared error compares raw outputs with classes",
    why="the gradient vanishes for confident mistakes and punishes confident right answers: classification "
    "learns slowly and badly",
    instead="use cross_entropy (or binary_cross_entropy_with_logits) on the raw outputs",
    silent_when="the targets are no classes (not one-hot, not 0 and 1 only), or the outputs are probabilities",
    example_bad="F.mse_loss(model(x), F.one_hot(y, 10).float())",
    example_good="F.cross_entropy(model(x), y)",
    reference="https://arxiv.org/abs/2006.07322",
)
TIER = 0
EARLIEST = 12
HOLDS = 2


def find(record: Record) -> Finding | None:
    for one in record.series:
        facts = one.facts
        if facts is None or facts.function not in ("mse_loss", "l1_loss", "smooth_l1_loss") or not facts.one_hot:
            continue
        if facts.before not in ("softmax", "sigmoid", "tanh", "hardsigmoid"):
            return said(CHECK, record, f"{facts.function} compares raw outputs with targets that are 0 and 1 only")
    return None


BAD = (
    Trace(facts={"function": "mse_loss", "before": "linear", "one_hot": True}),
    Trace(facts={"function": "smooth_l1_loss", "before": "", "one_hot": True}, losses=2),
    Trace(facts={"function": "l1_loss", "before": "relu", "one_hot": True}),
)
GOOD = (
    Trace(facts={"function": "mse_loss", "before": "softmax", "one_hot": True}),  # the Brier score
    Trace(facts={"function": "mse_loss", "before": "hardsigmoid", "one_hot": True}),
    Trace(facts={"function": "mse_loss", "before": "linear", "one_hot": False}),
    Trace(facts={"function": "binary_cross_entropy_with_logits", "before": "linear", "one_hot": True}),
)
