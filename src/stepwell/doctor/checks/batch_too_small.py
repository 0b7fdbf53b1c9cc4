"""Batches of a few examples, whose gradients point in unrelated directions."""

from __future__ import annotations

from stepwell.doctor.record import Record, median
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R18",
    name="batch-too-small",
    severity="warning",
    certainty="certain",
    looks_for="batches of a few examples, whose gradients point in unrelated directions",
    why="the gradient is mostly noise: training wanders, and batch norm has no statistics to work with",
    instead="use batches of 16 and more, or accumulate gradients; or lower the learning rate by the square root "
    "of the ratio",
    silent_when="batches have more than 4 examples, or gradients agree",
    example_bad="DataLoader(dataset, batch_size=1)",
    example_good="DataLoader(dataset, batch_size=64)",
    reference="https://arxiv.org/abs/1812.06162",
)
TIER = 4
EARLIEST = 20
HOLDS = 1


def find(record: Record) -> Finding | None:
    if "LBFGS" in record.optimizers:
        return None  # its steps follow one another on one batch, and turn
    sizes = [float(one.size) for one in record.batches if one.size]
    targets = [float(one.target_size) for one in record.batches if one.target_size]
    if targets and sizes and median(targets) > 16 * median(sizes):
        return None  # each example is many: the pixels of an image, the tokens of a text
    if (
        len(sizes) < 10
        or median(sizes) > 4
        or (record.series and record.backwards and median([float(b) for b in record.backwards]) > 2)
    ):
        return None
    cosines = [one.cosine for one in record.samples if one.cosine is not None and one.previous == one.step - 1]
    if len(cosines) < 8 or median(cosines) > 0.5:
        return None
    return said(
        CHECK,
        record,
        (
            f"a batch has {median(sizes):.0f} example{'s' if median(sizes) > 1 else ''}, and the gradients of two "
            f"batches that follow one another have a cosine of {median(cosines):.2f}"
        ),
    )


BAD = (
    Trace(batch={"size": 1}, cosine=0.0),
    Trace(batch={"size": 4}, cosine=0.5),
    Trace(batch={"size": 2}, cosine=lambda step: 0.9 if step % 3 == 0 else -0.1, backwards=2),
)
GOOD = (
    Trace(batch={"size": 4}, cosine=-0.3, optimizer="LBFGS"),
    Trace(batch={"size": 1, "target_size": 17}, cosine=0.0),  # the pixels of an image
    Trace(batch={"size": 5}, cosine=0.0),
    Trace(batch={"size": 1}, cosine=0.51),
    Trace(batch={"size": 1}, cosine=0.0, backwards=3),  # accumulation makes a larger batch of them
    Trace(batch={"size": 1}, cosine=lambda step: None if step > 8 else 0.0),  # too few to tell
    Trace(batch=None, cosine=0.0),
    Trace(batch={"size": 1}, cosine=lambda step: 0.9 if step <= 20 else 0.0),  # later samples are not neighbors
)
