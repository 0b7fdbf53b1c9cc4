"""The model trains in eval mode."""

from __future__ import annotations

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R05",
    name="eval-mode-in-training",
    severity="error",
    certainty="certain",
    looks_for="the model trains in eval mode",
    why="dropout does nothing, and batch norm normalizes by stored statistics that never follow the weights",
    instead="call model.train() before training, and again after each evaluation",
    silent_when="some modules are in training mode (a frozen backbone in eval mode is normal), or none acts "
    "differently in the two modes",
    example_bad="model.eval(); for x, y in loader: loss.backward(); optimizer.step()",
    example_good="model.train(); for x, y in loader: loss.backward(); optimizer.step()",
    reference="https://docs.pytorch.org/docs/stable/notes/autograd.html#evaluation-mode-nn-module-eval",
)
TIER = 0
EARLIEST = 0
HOLDS = 1


def find(record: Record) -> Finding | None:
    if record.eval_in_training < 3:
        return None
    return said(
        CHECK,
        record,
        (
            f"{record.eval_in_training} losses in a row come from a model in eval mode; "
            f"{len(record.sensitive)} of its modules act{'s' if len(record.sensitive) == 1 else ''} differently "
            f"in training ({', '.join(record.sensitive[:3])})"
        ),
    )


BAD = (
    Trace(eval_in_training=3, sensitive=("norm", "drop")),
    Trace(eval_in_training=100, sensitive=("1",)),
)
GOOD = (
    Trace(eval_in_training=2, sensitive=("norm", "drop")),
    Trace(eval_in_training=0, sensitive=("norm", "drop")),
)
