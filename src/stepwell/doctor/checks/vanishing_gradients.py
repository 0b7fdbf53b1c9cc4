"""Gradients of the first layers are thousands of times smaller than those of the last."""

from __future__ import annotations

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.doctor.trends import vanishing
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R22",
    name="vanishing-gradients",
    severity="warning",
    certainty="certain",
    looks_for="gradients of the first layers are thousands of times smaller than those of the last",
    why="the first layers do not learn: the network behaves like a shallow one behind random features",
    instead="use normalization layers and residual connections, ReLU-type units instead of sigmoid, and He "
    "initialization",
    silent_when="there are fewer than three matrices, or the updates of all layers are tiny (R09)",
    example_bad="twenty layers of sigmoid",
    example_good="the same with ReLU, He initialization and residual connections",
    reference="https://proceedings.mlr.press/v9/glorot10a.html",
)
TIER = 3
EARLIEST = 20
HOLDS = 2


def find(record: Record) -> Finding | None:
    seen = vanishing(record)
    return said(CHECK, record, seen) if seen else None


BAD = (
    Trace(tensors={"first.weight": {"grad": 1e-6}, "*.bias": {"grad": 1e-6}}),
    Trace(tensors={"first.weight": {"grad": 0.0}}),
    Trace(tensors={"embedding.weight": {"kind": "Embedding"}, "first.weight": {"grad": 1e-6}}),
    Trace(tensors={"first.weight": {"grad": 4e-6}, "*": {"update": 2.1e-5}}, steps=20),
)
GOOD = (
    Trace(tensors={"first.weight": {"grad": 6e-6}}),
    Trace(tensors={"first.weight": {"grad": 1e-6}, "*": {"update": 1.9e-5}}),  # updates that are tiny everywhere
    Trace(tensors={"first.*": {"grad": 1e-6, "kind": "Embedding"}}),
    Trace(tensors={"first.weight": {"grad": 1e-6}, "middle.*": None}),  # two matrices
    Trace(tensors={"first.weight": {"grad": 1e-6}}, steps=3),
)
