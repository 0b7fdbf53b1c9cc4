"""Weights begin far too large, or all alike."""

from __future__ import annotations

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R45",
    name="bad-initial-scale",
    severity="error",
    certainty="certain",
    looks_for="weights begin far too large, or all alike",
    why="with weights that are ten times too large outputs and gradients explode from layer to layer; units "
    "that begin alike stay alike",
    instead="use torch's initialization, or kaiming_normal_ / xavier_uniform_ for the nonlinearity; random "
    "weights, not zeros, in all but a last layer",
    silent_when="fewer than half of the matrices are affected (a zero-initialized last layer is common), and none by a "
    "factor of 15",
    example_bad="nn.init.normal_(p, std=3.0); nn.init.zeros_(p)",
    example_good="nn.init.kaiming_normal_(p)",
    reference="https://arxiv.org/abs/1502.01852",
)
TIER = 1
EARLIEST = 1
HOLDS = 1


def find(record: Record) -> Finding | None:
    matrices = [
        n
        for n, one in enumerate(record.parameters)
        if one.scale is not None and one.trainable and min(one.shape) > 1  # a column of biases may begin at 0
    ]
    large = [n for n in matrices if (record.parameters[n].scale or 0) > 4]
    if large and len(large) >= 0.5 * len(matrices):
        most = max(record.parameters[n].scale or 0 for n in large)
        return said(
            CHECK,
            record,
            f"{len(large)} of {len(matrices)} weight matrices begin {most:.3g}/sqrt(fan-in) large (usual: 0.5 to 1.5)",
            large,
        )
    huge = [n for n in matrices if (record.parameters[n].scale or 0) > 15]
    if huge:
        return said(
            CHECK,
            record,
            (
                f"{record.names(huge)} begins "
                f"{record.parameters[huge[0]].scale:.3g}/sqrt(fan-in) "
                "large (usual: 0.5 to 1.5)"
            ),
            huge,
        )
    alike = [n for n in matrices if record.parameters[n].constant]
    if (len(alike) >= 2 and len(alike) >= 0.5 * len(matrices)) or (
        len(alike) == len(matrices) == 1 and record.parameters[alike[0]].kind != "Linear"
    ):
        return said(
            CHECK,
            record,
            f"{len(alike)} of {len(matrices)} weight matrices begin with all values alike: their units stay alike",
            alike,
        )
    return None


BAD = (
    Trace(tensors={"*.weight": {"scale": 4.1}}),
    Trace(tensors={"first.weight": {"scale": 5.0}, "last.weight": {"scale": 9.0}}),  # two of three
    Trace(tensors={"first.weight": {"scale": 15.1}}),
    Trace(tensors={"first.weight": {"constant": True}, "last.weight": {"constant": True}}),
    Trace(tensors={"first.*": {"kind": "Conv2d", "constant": True}, "middle.*": None, "last.*": None}),
)
GOOD = (
    Trace(tensors={"*.weight": {"scale": 4.0}}),
    Trace(tensors={"first.weight": {"scale": 15.0}}),
    Trace(tensors={"*.weight": {"scale": 30.0, "trainable": False}}),
    Trace(tensors={"last.weight": {"constant": True, "scale": 0.0}}),  # a last layer that begins at 0
    Trace(tensors={"first.*": {"constant": True}, "middle.*": None, "last.*": None}),  # a regression without a network
    Trace(
        tensors={"first.weight": {"constant": True}, "last.weight": {"constant": True}, "a.weight": {}, "b.weight": {}}
    ),
)
