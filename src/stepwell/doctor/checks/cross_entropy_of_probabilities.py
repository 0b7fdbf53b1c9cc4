"""Cross entropy is given probabilities."""

from __future__ import annotations

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R35",
    name="cross-entropy-of-probabilities",
    severity="error",
    certainty="certain",
    looks_for="cross entropy is given probabilities",
    why="cross_entropy applies log_softmax itself: on numbers between 0 and 1 the loss cannot come near 0, "
    "and gradients are tiny",
    instead="return the logits from the model, and apply softmax outside of the loss only",
    silent_when="the input of the loss comes from anything but softmax",
    example_bad="F.cross_entropy(torch.softmax(model(x), 1), y)",
    example_good="F.cross_entropy(model(x), y)",
    reference="https://docs.pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html",
)
TIER = 0
EARLIEST = 0
HOLDS = 1


def find(record: Record) -> Finding | None:
    for one in record.series:
        facts = one.facts
        if facts is not None and facts.function == "cross_entropy" and facts.before in ("softmax", "sigmoid"):
            return said(CHECK, record, f"the input of cross_entropy is the output of {facts.before}")
    return None


BAD = (
    Trace(facts={"before": "softmax"}),
    Trace(facts={"before": "sigmoid"}, losses=2),
)
GOOD = (
    Trace(facts={"before": "linear"}),
    Trace(facts={"before": ""}),
    Trace(facts={"function": "mse_loss", "before": "softmax"}),
    Trace(facts={"function": "nll_loss", "before": "log_softmax"}),
)
