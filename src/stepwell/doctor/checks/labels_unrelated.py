"""Labels that do not belong to their inputs: the loss stays at what the frequencies of the labels allow."""

from __future__ import annotations

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.traces import ALONG, Trace
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


BAD = (
    Trace(loss=1.39, steps=300),
    Trace(loss=1.39, ended=True),  # log(4) = 1.386
    Trace(loss=lambda step: 1.9 if step < 50 else 1.3, ended=True),
    Trace(loss=1.0, facts={"function": "mse_loss"}, batch={"target_mean": 0.0, "target_std": 1.0}, ended=True),
    Trace(loss=0.7, facts={"function": "binary_cross_entropy"}, batch={"labels": {0: 32, 1: 32}}, ended=True),
    Trace(loss=lambda step: 1.4 * 0.98**step, vals=(1.4, 1.39, 1.5, 1.9)),  # learned by heart
    Trace(loss=2.21, ended=True),
    Trace(loss=1.39, tensors={"*": {"update": 0.012}}, ended=True),
    Trace(loss=lambda step: 1.4 * 0.98**step, vals=(1.4, 1.35, 1.43)),
    Trace(loss=1.39, along=lambda step: ALONG if step in (20, 100) else {0.0: 1.0, 1.0: 1.1}, ended=True),
)
GOOD = (
    Trace(loss=1.39, steps=299),  # not yet understood
    Trace(loss=1.28),  # 0.92 log(4)
    Trace(loss=2.23),  # 1.61 log(4): another fault
    Trace(loss=1.39, steps=59),
    Trace(loss=1.39, losses=2),
    Trace(loss=1.39, along={0.0: 1.0, 1.0: 0.9999, 100.0: 0.9}),  # the learning rate is too low
    Trace(loss=1.39, along={0.0: 1.0, 0.1: 0.9, 1.0: 1.1}),  # the updates overshoot
    Trace(loss=1.39, tensors={"*": {"update": 0.0121}}),
    Trace(loss=1.39, schedule={"kind": "OneCycleLR", "calls": 0}),
    Trace(loss=1.39, facts={"function": "l1_loss"}),
    Trace(loss=lambda step: 1.4 * 0.98**step, vals=(1.4, 1.33, 1.5, 1.9)),
    Trace(loss=lambda step: 1.4 * 0.98**step, vals=(1.4, 1.39, 1.42)),
)
