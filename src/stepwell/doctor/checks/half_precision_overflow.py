"""Values in fp16 overflow, or their gradients vanish, and no scaler is used."""

from __future__ import annotations

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R44",
    name="half-precision-overflow",
    severity="error",
    certainty="certain",
    looks_for="values in fp16 overflow, or their gradients vanish, and no scaler is used",
    why="fp16 ends at 65,504 and loses gradients below 6e-8: losses become inf or nan, and small gradients 0",
    instead="use bfloat16, or torch.amp.GradScaler with autocast and fp32 weights",
    silent_when="a scaler scales the loss, or nothing is in fp16",
    example_bad="model.half(); loss.backward(); optimizer.step()",
    example_good="with torch.autocast('cuda', dtype=torch.bfloat16): loss = ...",
    reference="https://docs.pytorch.org/docs/stable/notes/amp_examples.html",
)
TIER = 1
EARLIEST = 0
HOLDS = 1


def find(record: Record) -> Finding | None:
    if not record.half or record.scaled:
        return None
    if record.not_finite is not None and record.not_finite.origin != "input":
        return said(
            CHECK,
            record,
            (
                f"values are computed in fp16 without a scaler, and at update {record.not_finite.step} "
                f"the first one is not finite ({f'{record.not_finite.origin} {record.not_finite.where}'.strip()})"
            ),
        )
    zero = [
        one
        for one in record.samples
        if (some := [g for g in one.grad if g is not None]) and sum(g == 0.0 for g in some) > 0.5 * len(some)
    ]
    if len(zero) >= 5:
        return said(CHECK, record, "values are computed in fp16 without a scaler, and most gradients are exactly 0")
    return None


BAD = (
    Trace(half=True, not_finite={"step": 3, "origin": "gradient", "where": "last.weight"}),
    Trace(half=True, not_finite={"step": 12, "origin": "loss"}),
    Trace(half=True, tensors={"first.*": {"grad": 0.0}, "middle.*": {"grad": 0.0}}),
    Trace(half=True, tensors={"*": {"grad": lambda step: 0.0 if step <= 5 else 0.01}}),
)
GOOD = (
    Trace(half=True, scaled=True, not_finite={"step": 3, "origin": "loss"}),
    Trace(half=False, not_finite={"step": 3, "origin": "loss"}),
    Trace(half=True, not_finite={"step": 3, "origin": "input"}),
    Trace(half=True, tensors={"*": {"grad": lambda step: 0.0 if step <= 4 else 0.01}}),
    Trace(half=True, tensors={"*.bias": {"grad": 0.0}}),  # half of the gradients
)
