"""Parameters are in the optimizer, and no loss ever depends on them."""

from __future__ import annotations

from stepwell.doctor.checks.graph_cut import ran
from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R02",
    name="parameter-never-updated",
    severity="warning",
    certainty="certain",
    looks_for="parameters are in the optimizer, and no loss ever depends on them",
    why="a layer that is made and not called, or whose output is not used, does not learn: often a line of "
    "forward() is missing",
    instead="use the module in forward(), or remove it",
    silent_when="the module runs (R29), is one of several experts or branches of which each batch uses some, or is "
    "frozen",
    example_bad="self.conv3 = nn.Conv2d(...)  # and forward() never calls it",
    example_good="every module that __init__ makes is called in forward()",
    reference="https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html",
)
TIER = 0
EARLIEST = 5
HOLDS = 1


def find(record: Record) -> Finding | None:
    if record.graphs < 5:
        return None
    unused = [
        n for n, one in enumerate(record.parameters)
        if one.trainable and one.optimizer is not None and record.reached[n] == 0 and not ran(record, one.module)
        and all(sample.grad[n] in (None, 0.0) for sample in record.samples if sample.optimizer == one.optimizer)
    ]  # fmt: skip
    if not unused:
        return _without_slope(record)
    if len(unused) == len(record.parameters):
        return None
    if record.step < 60 and not record.ended and any(_has_sisters(record, n) for n in unused):
        return None  # experts and branches have their turn later
    return said(
        CHECK,
        record,
        (
            f"no loss of {record.graphs} depends on {record.names(unused)}: the "
            f"forward pass does not use {'it' if len(unused) == 1 else 'them'}"
        ),
        unused,
    )


def _without_slope(record: Record) -> Finding | None:
    """A part whose gradients are exactly 0 in every update: its output is multiplied by 0 on the way."""
    samples = list(record.samples_of())
    if len(samples) < 15 or any(worst > 0.9 for _, _, worst in record.dead):
        return None  # dead units have no gradients either
    parts: dict[str, list[int]] = {}
    for n, one in enumerate(record.parameters):
        if one.trainable and one.optimizer == 0 and one.kind not in ("Embedding", "EmbeddingBag"):
            parts.setdefault(one.module, []).append(n)
    zero = {
        part for part, numbers in parts.items()
        if len(numbers) > 1 and all(sample.grad[n] == 0.0 for sample in samples for n in numbers)
    }  # fmt: skip
    if not zero or len(zero) == len(parts):
        return None
    numbers = [n for part in sorted(zero) for n in parts[part]]
    return said(
        CHECK,
        record,
        f"the gradients of {record.names(numbers)} are exactly 0 in all {len(samples)} updates that were looked at",
        numbers,
    )


def _has_sisters(record: Record, number: int) -> bool:
    """Whether the module is one of a numbered list, of which others are used."""
    parts = record.parameters[number].module.split(".")
    digits = [place for place, part in enumerate(parts) if part.isdigit() and place > 0]
    for place in digits:
        stem = parts[:place]
        for other, one in enumerate(record.parameters):
            theirs = one.module.split(".")
            if (
                theirs[:place] == stem
                and len(theirs) > place
                and theirs[place] != parts[place]
                and record.reached[other]
            ):
                return True
    return False


_UNUSED = {"reached": 0, "grad": None, "ran": None}
BAD = (
    Trace(tensors={"last.*": {"grad": 0.0}}),
    Trace(tensors={"middle.*": _UNUSED}),
    Trace(tensors={"extra": {**_UNUSED, "grad": 0.0}}),
    Trace(tensors={"experts.0.weight": {}, "experts.1.weight": _UNUSED}, steps=60),
    Trace(tensors={"experts.0.weight": {}, "experts.1.weight": _UNUSED}, steps=20, ended=True),
    Trace(tensors={"block.0.weight": _UNUSED, "block.1.weight": _UNUSED}, steps=20),  # none of the list has a turn
    Trace(tensors={"blocks.0.weight": {}, "experts.1.weight": _UNUSED}, steps=5),
    Trace(tensors={"0.weight": {}, "1.weight": _UNUSED}, steps=20),  # the layers of a Sequential are no experts
    Trace(tensors={"heads.left.weight": {}, "heads.right.weight": _UNUSED}, steps=20),
)
GOOD = (
    Trace(tensors={"experts.0.weight": {}, "experts.1.weight": _UNUSED}, steps=59),  # has its turn later
    Trace(tensors={"middle.*": {**_UNUSED, "trainable": False}}),
    Trace(tensors={"middle.*": {**_UNUSED, "optimizer": None}}),
    Trace(tensors={"middle.*": {**_UNUSED, "reached": 1}}),
    Trace(tensors={"middle.*": {**_UNUSED, "grad": lambda step: 0.1 if step == 9 else None}}),  # of a loss not told
    Trace(tensors={"middle.*": {**_UNUSED, "ran": "grad"}}),  # the module runs: R29
    Trace(tensors={"*": _UNUSED}),
    Trace(tensors={"middle.*": _UNUSED}, steps=4),
)
