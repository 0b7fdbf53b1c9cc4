"""Weights in a narrow format are not changed by most of their updates."""

from __future__ import annotations

from stepwell.doctor.record import Record, median
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R15",
    name="lost-updates",
    severity="error",
    certainty="certain",
    looks_for="weights in a narrow format are not changed by most of their updates",
    why="an update below half a unit of the last place is rounded away: bf16 keeps 8 bits, so that updates "
    "below 0.4 % of a weight are lost",
    instead='keep fp32 weights (autocast computes in bf16 all the same), or use weights="split", stochastic '
    "rounding or a higher rate",
    silent_when="weights are fp32, or gradients are 0",
    example_bad="model.bfloat16(); AdamW(model.parameters(), lr=1e-5)",
    example_good="with torch.autocast('cuda', torch.bfloat16): ...; fp32 weights",
    reference="https://arxiv.org/abs/2010.06192",
)
TIER = 2
EARLIEST = 8
HOLDS = 1


def find(record: Record) -> Finding | None:
    narrow = [
        n
        for n, one in enumerate(record.parameters)
        if str(one.dtype) in ("torch.bfloat16", "torch.float16") and one.trainable
    ]
    recent = [one for one in record.samples if any(one.unchanged[n] is not None for n in narrow)][-10:]
    if not narrow or len(recent) < 8:
        return None
    shares = [median([one.unchanged[n] or 0.0 for one in recent]) for n in narrow if record.parameters[n].numel >= 16]
    lost = sum(share > 0.5 for share in shares)
    if not shares or lost < 0.5 * len(shares):
        return None
    return said(
        CHECK,
        record,
        (
            f"in {lost} of {len(shares)} tensors more than half of the elements "
            f"({100 * median(shares):.0f} % in the median) do not change in an update"
        ),
    )


BAD = (
    Trace(tensors={"*": {"dtype": "bfloat16", "unchanged": 0.9}}),
    Trace(tensors={"*": {"dtype": "float16"}, "*.weight": {"unchanged": 0.51}}, steps=8),  # half of the tensors
)
GOOD = (
    Trace(tensors={"*": {"dtype": "bfloat16", "unchanged": 0.5}}),
    Trace(tensors={"*": {"dtype": "bfloat16", "unchanged": 0.9}}, steps=7),
    Trace(tensors={"*": {"unchanged": 0.9}}),  # fp32
    Trace(tensors={"*": {"dtype": "bfloat16"}, "first.*": {"unchanged": 0.9}}),  # two of five that are large enough
    Trace(tensors={"*": {"dtype": "bfloat16", "unchanged": lambda step: 0.9 if step <= 60 else 0.2}}),
)
