"""Momentum or the first beta is so close to 1 that a run of this length averages over all of its gradients."""

from __future__ import annotations

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R41",
    name="momentum-near-one",
    severity="error",
    certainty="certain",
    looks_for="momentum or the first beta is so close to 1 that a run of this length averages over all of its "
    "gradients",
    why="an average over 1,000 steps turns a thousand steps too late: the weights overshoot and swing",
    instead="use momentum 0.9 (up to 0.95 for large batches)",
    silent_when="the value is below 0.995, or the optimizer is one of several averages (AdEMAMix, Adan)",
    example_bad="SGD(params, lr=0.1, momentum=0.999)",
    example_good="SGD(params, lr=0.1, momentum=0.9)",
    reference="https://distill.pub/2017/momentum/",
)
TIER = 2
EARLIEST = 1
HOLDS = 1


def find(record: Record) -> Finding | None:
    for number, groups in enumerate(record.groups):
        if not groups or record.optimizers[number] in ("AdEMAMix", "Adan"):
            continue
        betas = groups[0].get("betas")
        momentum = groups[0].get("momentum", betas[0] if isinstance(betas, tuple) and betas else 0)
        if isinstance(momentum, (int, float)) and momentum >= 0.995:
            return said(
                CHECK,
                record,
                (
                    f"{record.optimizers[number]} averages gradients with "
                    f"{momentum}: over {1 / (1 - min(momentum, 0.99999)):.0f} "
                    "updates"
                ),
            )
    return None


BAD = (
    Trace(optimizer="SGD", options={"momentum": 0.995}),
    Trace(optimizer="SGD", options={"momentum": 1}),
    Trace(optimizer="Adam", options={"betas": (0.999, 0.9)}),
)
GOOD = (
    Trace(optimizer="SGD", options={"momentum": 0.994}),
    Trace(optimizer="Adam", options={"betas": (0.994, 0.999)}),
    Trace(optimizer="AdEMAMix", options={"betas": (0.999, 0.9, 0.9999)}),
    Trace(optimizer="SGD", options={"momentum": 0}),
)
