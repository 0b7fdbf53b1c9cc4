"""Nll_loss is given values that are not log-probabilities."""

from __future__ import annotations

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R36",
    name="nll-without-log-softmax",
    severity="error",
    certainty="certain",
    looks_for="nll_loss is given values that are not log-probabilities",
    why="nll_loss only picks a value: without log_softmax it rewards making the right value large without bound",
    instead="use cross_entropy on logits, or apply log_softmax before nll_loss",
    silent_when="the rows of the input are normalized (their logsumexp is 0)",
    example_bad="F.nll_loss(model(x), y)  # logits",
    example_good="F.nll_loss(torch.log_softmax(model(x), 1), y)",
    reference="https://docs.pytorch.org/docs/stable/generated/torch.nn.NLLLoss.html",
)
TIER = 0
EARLIEST = 0
HOLDS = 1


def find(record: Record) -> Finding | None:
    for one in record.series:
        facts = one.facts
        if facts is None or facts.function != "nll_loss" or facts.before.startswith("log_softmax"):
            continue
        if facts.logsumexp is not None and facts.logsumexp > 0.02:
            return said(
                CHECK,
                record,
                (
                    f"the input of nll_loss comes from {facts.before or 'elsewhere'}, and "
                    f"its rows have logsumexp up to {facts.logsumexp:.3g} instead of 0"
                ),
            )
    return None


BAD = (
    Trace(facts={"function": "nll_loss", "before": "linear", "logsumexp": 0.03}),
    Trace(facts={"function": "nll_loss", "before": "", "logsumexp": 7.0}, losses=2),
    Trace(facts={"function": "nll_loss", "before": "softmax", "logsumexp": 1.6}),
)
GOOD = (
    Trace(facts={"function": "nll_loss", "before": "log_softmax", "logsumexp": 0.0}),
    Trace(facts={"function": "nll_loss", "before": "log_softmax of linear", "logsumexp": 0.1}),  # fp16
    Trace(facts={"function": "nll_loss", "before": "log", "logsumexp": 0.02}),
    Trace(facts={"function": "nll_loss", "before": "linear", "logsumexp": None}),
    Trace(facts={"function": "cross_entropy", "before": "linear", "logsumexp": 7.0}),
)
