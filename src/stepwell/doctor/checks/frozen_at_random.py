"""Parameters with fresh random values are frozen (requires_grad=False)."""

from __future__ import annotations

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R28",
    name="frozen-at-random",
    severity="warning",
    certainty="certain",
    looks_for="parameters with fresh random values are frozen (requires_grad=False)",
    why="a random layer that never learns distorts what the others see; pretrained layers are frozen, new ones are not",
    instead="set requires_grad=True for these parameters, unless random features are meant",
    silent_when="the values do not look like those of an initialization (pretrained, loaded), or the frozen "
    "parameters are in no optimizer",
    example_bad="for p in model.conv2.parameters(): p.requires_grad = False  # and the model is new",
    example_good="for p in model.backbone.parameters(): p.requires_grad = False  # pretrained",
    reference="https://docs.pytorch.org/docs/stable/notes/autograd.html#setting-requires-grad",
)
TIER = 0
EARLIEST = 30
HOLDS = 1


def find(record: Record) -> Finding | None:
    parameters = record.parameters
    moved = {n for sample in record.samples for n, update in enumerate(sample.update) if update}
    beside = {one.module for one in parameters if one.trainable}  # a bias that learns beside a frozen weight
    frozen = [
        n
        for n, one in enumerate(parameters)
        if not one.trainable and one.fresh and n not in moved and (one.optimizer is not None or one.module in beside)
    ]
    trained = [n for n, one in enumerate(parameters) if one.trainable]
    if not frozen or not trained:
        return None
    return said(
        CHECK, record, f"{record.names(frozen)} {'is' if len(frozen) == 1 else 'are'} frozen at random values "
        "(those of torch's initialization)",
        frozen,
    )  # fmt: skip


BAD = (
    Trace(tensors={"first.*": {"trainable": False, "fresh": True}}),
    Trace(tensors={"middle.weight": {"trainable": False}}),
    Trace(tensors={"middle.weight": {"trainable": False, "optimizer": None}}),  # its bias learns
)
GOOD = (
    Trace(tensors={"first.*": {"trainable": False, "fresh": False}}),  # trained before
    Trace(tensors={"first.*": {"trainable": False, "fresh": None}}),
    Trace(tensors={"first.*": {"trainable": False, "optimizer": None}}),
    Trace(tensors={"*": {"trainable": False}}),
)
