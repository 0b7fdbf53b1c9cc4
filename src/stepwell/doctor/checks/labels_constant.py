"""All labels are the same."""

from __future__ import annotations

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.doctor.trends import now_of, start_of
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R46",
    name="labels-constant",
    severity="error",
    certainty="certain",
    looks_for="all labels are the same",
    why="the model learns to answer one class, the loss falls to 0 and nothing is learned",
    instead="look at the labels that the loss gets: an index, a column or a default value takes their place",
    silent_when="labels differ in some batch, or batches are too small to tell",
    example_bad="y = torch.full((n,), 3)",
    example_good="labels of all classes in every few batches",
    reference="",
)
TIER = 1
EARLIEST = 4
HOLDS = 1


def find(record: Record) -> Finding | None:
    seen = [one for one in record.batches if one.target_size and (one.labels is not None or one.target_std is not None)]
    if len(seen) < 4 or any(one.copied == -1 for one in seen):
        return None
    if sum(one.target_size for one in seen) < 40:
        return None
    classes = record.main.facts.classes if record.main is not None and record.main.facts is not None else 0
    if record.step < 40 and classes > 1 and not record.ended:
        return None  # sorted data begin so, too
    kinds = {label for one in seen if one.labels is not None for label in one.labels}
    columns = any((one.target_std or 0) > 1e-6 for one in seen)  # each row says which of its columns is meant
    if kinds == {0} and (columns or now_of(record) > 0.25 * abs(start_of(record))):
        return None  # a contrast of the first column with all others: what has constant labels falls to 0
    if all(one.labels is not None for one in seen) and len(kinds) == 1 and len(record.series) == 1:
        return said(
            CHECK,
            record,
            f"all {sum(one.target_size for one in seen)} labels of {len(seen)} batches are {next(iter(kinds))}",
        )
    means = [one.target_mean for one in seen if one.target_mean is not None]
    together = len(means) == len(seen) and len(record.series) == 1 and max(means) - min(means) < 1e-6
    if together and all(one.alike and (one.target_std or 0) > 1e-6 for one in seen):
        return said(CHECK, record, f"all rows of the targets of {len(seen)} batches are the same")
    if (
        len(means) == len(seen)
        and all((one.target_std or 0) < 1e-7 for one in seen)
        and max(means) - min(means) < 1e-7
        and len(record.series) == 1
    ):
        return said(CHECK, record, f"all targets of {len(seen)} batches are {means[0]:.6g}")
    return None


BAD = (
    Trace(batch={"labels": {3: 64}}),
    Trace(batch={"labels": {0: 1}, "size": 1}, steps=88),  # forty batches of one
    Trace(batch={"target_mean": 0.25, "target_std": 0.0}),
    Trace(batch={"labels": {2: 64}}, steps=40),
    Trace(batch={"labels": {0: 64}}, steps=40, loss=lambda step: 1.4 * 0.9**step),
    Trace(batch={"target_mean": 0.25, "target_std": 0.1, "alike": True}),
    Trace(batch={"target_mean": lambda step: 0.5 + 5e-8 * (step % 2), "target_std": 5e-8}),
)
GOOD = (
    Trace(batch={"labels": {0: 64}}, loss=lambda step: 1.4 - 0.005 * step),  # the first of many, as in a contrast
    Trace(batch={"labels": {0: 64}}, steps=39),  # sorted data begin so
    Trace(batch={"target_mean": lambda step: 0.01 * step, "target_std": 0.1, "alike": True}),
    Trace(batch={"labels": lambda step: {3: 64} if step != 9 else {3: 63, 1: 1}}),
    Trace(batch={"labels": {0: 1}, "size": 1}, steps=87),
    Trace(batch={"labels": {3: 64}}, steps=3),
    Trace(batch={"labels": {1: 64}}, losses=2),  # the real batches of a GAN
    Trace(batch={"target_mean": 0.25, "target_std": 1e-6}),
    Trace(batch={"target_mean": lambda step: 0.1 * step, "target_std": 0.0}),
    Trace(batch={"target_mean": 0.0, "target_std": 0.0, "copied": -1}),
    Trace(batch={"target_mean": 0.25, "target_std": 0.0}, losses=2),
    Trace(batch={"target_mean": lambda step: 0.5 + 2e-7 * (step % 2), "target_std": 0.0}),
)
