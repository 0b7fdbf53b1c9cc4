"""Epsilon is larger than the gradients that it is added to."""

from __future__ import annotations

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R16",
    name="epsilon-rules",
    severity="note",
    certainty="certain",
    looks_for="epsilon of an adaptive optimizer is several times the size of the gradients of most tensors",
    why="the update is then lr / eps times the gradient: the optimizer acts as SGD does, with a rate that nobody chose",
    instead="use a smaller eps, or scale the loss up; some recipes want it so (EfficientNet's RMSprop has eps 1e-3)",
    silent_when="gradients are larger than eps, or eps is at its default and the loss is nearly 0",
    example_bad="Adam(parameters, eps=1e-3), where gradients are 1e-5",
    example_good="Adam(parameters, eps=1e-8), where gradients are 1e-5",
    reference="https://arxiv.org/abs/1910.05446",
)
TIER = 2
EARLIEST = 10
HOLDS = 2


def find(record: Record) -> Finding | None:
    eps = record.groups[0][0].get("eps") if record.groups and record.groups[0] else None
    if not isinstance(eps, (int, float)) or eps <= 1e-7:
        return None
    recent = list(record.samples_of())[-8:]
    if len(recent) < 6:
        return None
    ruled = [n for n, one in enumerate(record.parameters) if one.trainable and one.optimizer == 0
             and all((sample.grad[n] or 0.0) < 0.3 * eps for sample in recent)]  # fmt: skip
    total = sum(one.trainable and one.optimizer == 0 for one in record.parameters)
    if not total or len(ruled) < 0.5 * total:
        return None
    largest = max((sample.grad[n] or 0.0 for sample in recent for n in ruled), default=0.0)
    return said(
        CHECK,
        record,
        f"eps is {eps:g}, and the gradients of {len(ruled)} of {total} tensors have an RMS of at most {largest:.2g}",
        ruled,
    )


BAD = (
    Trace(options={"eps": 1e-3}, tensors={"*": {"grad": 1e-5}}),
    Trace(options={"eps": 1e-6}, tensors={"*.bias": {"grad": 2.9e-7}}),  # half of the tensors
    Trace(options={"eps": 1}, lr=1.0),
    Trace(options={"eps": 1.1e-7}, tensors={"*": {"grad": 0.0}}),
)
GOOD = (
    Trace(options={"eps": 1e-8}, tensors={"*": {"grad": 1e-12}}),  # the default, at a loss of nearly 0
    Trace(options={"eps": 1e-7}, tensors={"*": {"grad": 0.0}}),
    Trace(options={"eps": 1e-6}, tensors={"*": {"grad": 3.1e-7}}),
    Trace(options={"eps": 1e-3}, tensors={"*": {"grad": lambda step: 1e-5 if step % 40 else 1.0}}),
    Trace(options={"eps": 1e-3}, tensors={"first.*": {"grad": 1e-5}}),  # a third of the tensors
    Trace(optimizer="SGD", tensors={"*": {"grad": 1e-12}}),
    Trace(options={"eps": 1e-6}, tensors={"first.*": {"trainable": False}, "last.*": {"trainable": False}}),
    Trace(options={"eps": 1e-6}, optimizer=("Adam", "Adam"), tensors={"[fl]*": {"optimizer": 1, "grad": 0.0}}),
)
