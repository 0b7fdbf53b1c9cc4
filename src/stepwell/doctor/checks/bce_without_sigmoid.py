"""Binary_cross_entropy is given values that are no probabilities of a sigmoid."""

from __future__ import annotations

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R37",
    name="bce-without-sigmoid",
    severity="error",
    certainty="certain",
    looks_for="binary_cross_entropy is given values that are no probabilities of a sigmoid",
    why="values outside 0 and 1 raise, and clamped ones have no gradient",
    instead="use binary_cross_entropy_with_logits on the raw output",
    silent_when="the input comes from sigmoid, softmax, or a product of probabilities",
    example_bad="F.binary_cross_entropy(model(x).clamp(0, 1), y)",
    example_good="F.binary_cross_entropy_with_logits(model(x), y)",
    reference="https://docs.pytorch.org/docs/stable/generated/torch.nn.BCEWithLogitsLoss.html",
)
TIER = 0
EARLIEST = 0
HOLDS = 1


def find(record: Record) -> Finding | None:
    for one in record.series:
        facts = one.facts
        if facts is None:
            continue
        if facts.function == "binary_cross_entropy" and facts.before in (
            "clamp",
            "relu",
            "addmm",
            "linear",
            "hardtanh",
            "clamp_min",
            "abs",
            "tanh",
        ):
            return said(
                CHECK, record, f"the input of binary_cross_entropy comes from {facts.before}, and not from a sigmoid"
            )
        if facts.function == "binary_cross_entropy_with_logits" and facts.before in ("sigmoid", "softmax"):
            return said(
                CHECK,
                record,
                (
                    "the input of binary_cross_entropy_with_logits is the "
                    f"output of {facts.before}: sigmoid is applied twice"
                ),
                instead="give the loss the raw output",
            )
    return None


BAD = (
    Trace(facts={"function": "binary_cross_entropy", "before": "clamp"}),
    Trace(facts={"function": "binary_cross_entropy", "before": "linear"}),
    Trace(facts={"function": "binary_cross_entropy_with_logits", "before": "sigmoid"}),
    Trace(facts={"function": "binary_cross_entropy_with_logits", "before": "softmax"}, losses=2),
)
GOOD = (
    Trace(facts={"function": "binary_cross_entropy", "before": "sigmoid"}),
    Trace(facts={"function": "binary_cross_entropy", "before": "mul"}),  # of two probabilities
    Trace(facts={"function": "binary_cross_entropy", "before": ""}),
    Trace(facts={"function": "binary_cross_entropy_with_logits", "before": "linear"}),
    Trace(facts={"function": "mse_loss", "before": "sigmoid"}),
)
