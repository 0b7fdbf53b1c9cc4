"""Gradients grow without bound, or differ by orders of magnitude between layers, the first ones largest."""

from __future__ import annotations

import math

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.doctor.trends import exploding
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R21",
    name="exploding-gradients",
    severity="error",
    certainty="certain",
    looks_for="gradients grow without bound, or differ by orders of magnitude between layers, the first ones largest",
    why="one such gradient throws the weights far away, and the loss becomes NaN",
    instead="clip the gradient norm near its usual value, and look at the initialization, normalization layers "
    "and residual connections",
    silent_when="the learning rate explains it (R08), or the norm stays within a thousand times its first values",
    example_bad="a recurrent network whose recurrent weights have a spectral norm of 2",
    example_good="clip_grad_norm_(parameters, 1.0), orthogonal recurrent weights",
    reference="https://arxiv.org/abs/1211.5063",
)
TIER = 2
EARLIEST = 4
HOLDS = 1


def find(record: Record) -> Finding | None:
    seen = exploding(record)
    return said(CHECK, record, seen) if seen else None


BAD = (
    Trace(norm=101.0, tensors={"first.weight": {"grad": 2.0}, "last.weight": {"grad": 0.19}}),
    Trace(norm=lambda step: 0.02 if step < 9 else 21.0),
    Trace(norm=lambda step: 0.1 * 3.0**step if step < 12 else math.nan),
    Trace(norm=lambda step: 0.009 if step < 9 else 10.1, tensors={"*": {"update": 0.015}}),
)
GOOD = (
    Trace(norm=100.0, tensors={"first.weight": {"grad": 2.0}, "last.weight": {"grad": 0.1}}),
    Trace(norm=500.0, tensors={"first.weight": {"grad": 2.0}, "last.weight": {"grad": 0.21}}),
    Trace(norm=lambda step: 0.02 if step < 9 else 19.9),
    Trace(norm=lambda step: 0.009 if step < 9 else 9.9),
    Trace(norm=lambda step: 0.02 if step < 9 else 21.0, tensors={"*": {"update": 0.016}}),  # the updates are too long
    Trace(norm=lambda step: 0.02 if step < 90 else 21.0),  # late in the run
)
