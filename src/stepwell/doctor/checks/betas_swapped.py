"""The first beta of an Adam-type optimizer is larger than the second."""

from __future__ import annotations

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R40",
    name="betas-swapped",
    severity="error",
    certainty="certain",
    looks_for="the first beta of an Adam-type optimizer is larger than the second",
    why="the average of gradients remembers a thousand steps and their scale only ten: the step is far too "
    "slow to turn and badly scaled",
    instead="set betas=(0.9, 0.999): the first one is of the gradient, the second one of its square",
    silent_when="both betas are below 0.98, or the optimizer uses its betas otherwise (Lion, Adan)",
    example_bad="Adam(params, betas=(0.999, 0.9))",
    example_good="Adam(params, betas=(0.9, 0.999))",
    reference="https://arxiv.org/abs/1412.6980",
)
TIER = 0
EARLIEST = 1
HOLDS = 1


def find(record: Record) -> Finding | None:
    for number, groups in enumerate(record.groups):
        betas = groups[0].get("betas") if groups else None
        name = record.optimizers[number]
        if (
            isinstance(betas, tuple)
            and len(betas) == 2
            and "Adam" in name
            and betas[0] > betas[1]
            and betas[0] >= 0.98
            and betas[1] < 0.98
        ):
            return said(CHECK, record, f"{name} has betas={betas}", instead=f"set betas=({betas[1]}, {betas[0]})")
    return None


BAD = (
    Trace(optimizer="Adam", options={"betas": (0.999, 0.9)}),
    Trace(optimizer="NAdam", options={"betas": (0.98, 0.979)}),
    Trace(optimizer=("SGD", "AdamW"), options={"betas": (0.99, 0.95)}),
)
GOOD = (
    Trace(optimizer="Adam", options={"betas": (0.979, 0.9)}),
    Trace(optimizer="Adam", options={"betas": (0.99, 0.98)}),
    Trace(optimizer="Adam", options={"betas": (0.98, 0.99)}),
    Trace(optimizer="Lion", options={"betas": (0.99, 0.9)}),
    Trace(optimizer="Adan", options={"betas": (0.98, 0.92, 0.99)}),
    Trace(optimizer="SGD"),
)
