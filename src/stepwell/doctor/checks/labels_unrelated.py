"""Labels that do not belong to their inputs: the loss stays at what the frequencies of the labels allow."""

from __future__ import annotations

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.trends import unrelated
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R47",
    name="labels-unrelated",
    severity="warning",
    certainty="likely",
    looks_for="the loss stays at what the frequency of the labels alone allows, although each update lowers the "
    "loss of the batch that made it",
    why="labels that were shuffled, or shifted against their inputs, can only be learned by heart",
    instead="print some inputs next to their labels as the loss gets them; look for an index or a shuffle that was "
    "applied to one of the two",
    silent_when="the loss falls below the entropy of the labels, or the learning rate explains the standstill",
    example_bad="y = y[torch.randperm(n)]",
    example_good="x, y = x[order], y[order]",
    reference="https://arxiv.org/abs/1611.03530",
)
TIER = 4
EARLIEST = 100
HOLDS = 2


def find(record: Record) -> Finding | None:
    seen = unrelated(record)
    return said(CHECK, record, seen) if seen else None
