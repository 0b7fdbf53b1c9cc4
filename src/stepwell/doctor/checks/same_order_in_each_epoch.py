"""A distributed sampler gives every epoch in the same order."""

from __future__ import annotations

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R07",
    name="same-order-in-each-epoch",
    severity="warning",
    certainty="certain",
    looks_for="a DistributedSampler that shuffles has gone through its data three times, and its epoch is still 0",
    why="the order depends on the seed and the epoch only: without set_epoch() every epoch has the same batches in the "
    "same order",
    instead="call sampler.set_epoch(epoch) at the head of the loop over epochs",
    silent_when="the sampler does not shuffle, or set_epoch() was called",
    example_bad="for epoch in range(9):\n    for x, y in loader: ...",
    example_good="for epoch in range(9):\n    sampler.set_epoch(epoch)\n    for x, y in loader: ...",
    reference="https://docs.pytorch.org/docs/stable/data.html#torch.utils.data.distributed.DistributedSampler",
)
TIER = 0
EARLIEST = 10
HOLDS = 1


def find(record: Record) -> Finding | None:
    sampler, size = record.sampler, max((one.size for one in record.batches), default=0)
    if sampler is None or sampler.epoch or not sampler.shuffles or not size:
        return None
    epochs = record.step * size / max(sampler.samples, 1)
    if epochs < 3:
        return None
    return said(
        CHECK,
        record,
        f"after {record.step} updates of {size} samples ({epochs:.1f} times the {sampler.samples} of this process) the "
        "epoch of the sampler is 0",
    )


BAD = (
    Trace(sampler={"samples": 2133}),
    Trace(sampler={"samples": 64}, batch={"size": 16}),
)
GOOD = (
    Trace(sampler={"samples": 2134}),  # 2.999 epochs
    Trace(sampler={"samples": 64, "epoch": 1}),
    Trace(sampler={"samples": 64, "shuffles": False}),
    Trace(sampler={"samples": 64}, batch=None),
    Trace(sampler=None),
)
