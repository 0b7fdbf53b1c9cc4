"""Modules run in the forward pass, and the loss does not depend on their parameters."""

from __future__ import annotations

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R29",
    name="graph-cut",
    severity="error",
    certainty="certain",
    looks_for="modules run in the forward pass, and the loss does not depend on their parameters",
    why="detach(), no_grad() or .data inside the model cuts the graph: everything before the cut gets no gradient",
    instead="remove the detach() or torch.no_grad() between these modules and the loss; freeze modules by "
    "requires_grad_(False) where that is meant",
    silent_when="the parameters are frozen, or another loss depends on them",
    example_bad="x = self.encoder(x).detach(); return self.head(x)",
    example_good="x = self.encoder(x); return self.head(x)",
    reference="https://docs.pytorch.org/docs/stable/generated/torch.Tensor.detach.html",
)
TIER = 0
EARLIEST = 3
HOLDS = 1


def find(record: Record) -> Finding | None:
    if record.graphs < 3:
        return None
    cut = [
        n for n, one in enumerate(record.parameters)
        if one.trainable and one.optimizer is not None and record.reached[n] == 0 and ran(record, one.module)
        and not _has_gradient(record, n)
    ]  # fmt: skip
    if not cut or len(cut) == len(record.parameters):
        return None
    how = (
        "under torch.no_grad()"
        if all(record.ran.get(_module(record.parameters[n].module)) == "no_grad" for n in cut)
        else "and their output is detached"
    )
    return said(CHECK, record, f"the modules of {record.names(cut)} run {how}: the loss does not depend on them", cut)


def _module(name: str) -> str:
    first, _, rest = name.partition(".")
    return rest if first.isdigit() and rest else name


def ran(record: Record, module: str) -> bool:
    """Whether a module was called in the first steps."""
    return module in record.ran or _module(module) in record.ran


def _has_gradient(record: Record, number: int) -> bool:
    return any(one.grad[number] not in (None, 0.0) for one in record.samples)


BAD = (
    Trace(tensors={"first.*": {"reached": 0, "grad": None, "ran": "no_grad"}}, steps=3),
    Trace(tensors={"first.weight": {"reached": 0, "grad": 0.0}, "first.bias": {"reached": 0, "grad": None}}),
    Trace(tensors={"0.encoder.weight": {"reached": 0, "grad": None, "ran": None}}, ran={"encoder": "no_grad"}),
)
GOOD = (
    Trace(tensors={"first.*": {"reached": 0, "grad": None, "ran": None}}),  # never called: R02
    Trace(tensors={"first.*": {"reached": 0, "grad": None, "trainable": False}}),
    Trace(tensors={"first.*": {"reached": 0, "grad": None, "optimizer": None}}),
    Trace(tensors={"first.*": {"reached": 1, "grad": None}}),
    Trace(tensors={"first.*": {"reached": 0, "grad": lambda step: 0.1 if step == 9 else None}}),  # a loss not told
    Trace(tensors={"*": {"reached": 0, "grad": None}}),  # all of them: R30
    Trace(tensors={"first.*": {"reached": 0, "grad": None}}, steps=2),
)
