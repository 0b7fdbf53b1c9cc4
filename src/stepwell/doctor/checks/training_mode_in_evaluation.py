"""The model is evaluated in training mode."""

from __future__ import annotations

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R34",
    name="training-mode-in-evaluation",
    severity="warning",
    certainty="certain",
    looks_for="the model is evaluated in training mode",
    why="dropout still drops and batch norm uses, and updates, the statistics of the validation batches: the "
    "metric is noisy and wrong",
    instead="call model.eval() before the evaluation, and model.train() after it",
    silent_when="no module acts differently in the two modes, or forward passes without gradients are part of training",
    example_bad="with torch.no_grad(): val = criterion(model(x), y)  # in training mode",
    example_good="model.eval(); with torch.no_grad(): val = criterion(model(x), y); model.train()",
    reference="https://docs.pytorch.org/docs/stable/notes/autograd.html#evaluation-mode-nn-module-eval",
)
TIER = 0
EARLIEST = 0
HOLDS = 1


def find(record: Record) -> Finding | None:
    if record.training_in_evaluation < 2 and not (record.ended and record.training_in_evaluation):
        return None
    return said(
        CHECK,
        record,
        (
            f"{record.training_in_evaluation} of {record.evaluations} evaluations ran the model in "
            f"training mode; {len(record.sensitive)} of its modules "
            f"act{'s' if len(record.sensitive) == 1 else ''} differently then ({', '.join(record.sensitive[:3])})"
        ),
    )


BAD = (
    Trace(training_in_evaluation=2, evaluations=2, sensitive=("drop",)),
    Trace(training_in_evaluation=1, evaluations=1, sensitive=("norm", "drop"), ended=True),
)
GOOD = (
    Trace(training_in_evaluation=1, evaluations=9, sensitive=("drop",)),  # one forward pass without gradients
    Trace(training_in_evaluation=0, evaluations=9, sensitive=("drop",), ended=True),
)
