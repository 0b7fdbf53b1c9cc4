"""The data come in an order that follows the labels."""

from __future__ import annotations

from itertools import pairwise

from stepwell.doctor.record import Record, median
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.doctor.trends import entropy
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R20",
    name="data-not-shuffled",
    severity="warning",
    certainty="certain",
    looks_for="the data come in an order that follows the labels",
    why="each batch pulls all weights toward its own class: the model forgets what it has just learned, and "
    "batch norm sees one class at a time",
    instead="shuffle the training data: DataLoader(..., shuffle=True)",
    silent_when="batches are as mixed as all of the data, there are several losses (GANs), or the input is the target",
    example_bad="DataLoader(sorted_dataset, shuffle=False)",
    example_good="DataLoader(dataset, shuffle=True)",
    reference="",
)
TIER = 1
EARLIEST = 10
HOLDS = 1


def find(record: Record) -> Finding | None:
    seen = [one for one in record.batches if one.target_size >= 8]
    if len(seen) < 10 or len(record.series) > 1:  # real and fake batches of a GAN are no order
        return None
    labeled = [one for one in seen if one.labels is not None and len(one.labels) > 0]
    if len(labeled) == len(seen):
        whole: dict[int, int] = {}
        for one in labeled:
            for label, count in (one.labels or {}).items():
                whole[label] = whole.get(label, 0) + count
        if not 2 <= len(whole) <= 64:
            return None
        inside = median([entropy(one.labels or {}) for one in labeled])
        if inside < 0.6 * entropy(whole):
            kinds = median([float(len(one.labels or {})) for one in labeled])
            return said(
                CHECK,
                record,
                (
                    f"a batch has {kinds:.0f} of the {len(whole)} labels (entropy "
                    f"{abs(inside):.2f} of {entropy(whole):.2f}): the data are sorted"
                ),
            )
        return None
    means = [one.target_mean for one in seen if one.target_mean is not None and one.target_std is not None]
    stds = [one.target_std for one in seen if one.target_std is not None]
    if len(means) != len(seen) or any(one.copied == -1 for one in seen):
        return None
    first = [mean for mean, one in zip(means, seen, strict=True) if one.step <= 20]  # looked at in every update
    if len(first) < 8:
        return None
    middle = sum(first) / len(first)
    between = (sum((one - middle) ** 2 for one in first) / len(first)) ** 0.5
    within = median(stds[: len(first)])
    up = sum(b > a for a, b in pairwise(first)) / (len(first) - 1)
    drifts = up >= 0.9 or up <= 0.1  # from low to high or from high to low: returns of an agent do not
    if within > 0 and between > 1.2 * within and drifts and all(one.size == seen[0].size for one in seen[:-1]):
        return said(
            CHECK,
            record,
            (
                f"the means of the targets differ by {between:.3g} between batches, "
                f"and targets by {within:.3g} within one: the data are sorted"
            ),
        )
    return None


BAD = (
    Trace(batch={"labels": lambda step: {step % 4: 64}}),
    Trace(batch={"labels": lambda step: {step % 10: 32, (step + 1) % 10: 32}}),
    Trace(batch={"target_mean": lambda step: 0.13 * step, "target_std": 0.5}),
    Trace(batch={"target_mean": lambda step: -0.5 * step, "target_std": 0.5}),
    Trace(batch={"labels": lambda step: {step % 4: 45, (step + 1) % 4: 16, (step + 2) % 4: 3}}),  # 0.53 of all
    Trace(batch={"labels": lambda step: {step % 2: 64}}, steps=10),
)
GOOD = (
    Trace(batch={"labels": lambda step: {step % 4: 40, (step + 1) % 4: 19, (step + 2) % 4: 5}}),  # entropy 0.62 of all
    Trace(
        batch={"labels": lambda step: {step: 64}}, steps=200
    ),  # as many labels as batches: numbers of rows, not classes
    Trace(batch={"labels": {2: 64}}),
    Trace(batch={"labels": lambda step: {step % 4: 64}}, losses=2),  # real and generated batches
    Trace(batch={"labels": lambda step: {step % 4: 7}, "size": 7}),  # too small to be mixed
    Trace(batch={"target_mean": lambda step: 0.1 * step, "target_std": 0.5}),
    Trace(batch={"target_mean": lambda step: 0.9 * (step % 7), "target_std": 0.5}),  # returns that go up and down
    Trace(batch={"target_mean": lambda step: 0.5 * step, "target_std": 0.5, "copied": -1}),  # an autoencoder
    Trace(batch={"target_mean": lambda step: 0.5 * step, "target_std": 0.5, "size": lambda step: 32 + step}),
    Trace(batch={"target_mean": lambda step: 0.5 * step, "target_std": lambda step: None if step == 30 else 0.5}),
    Trace(batch={"labels": lambda step: {step % 2: 64}}, steps=9),
    Trace(
        batch={"target_mean": lambda step: 0.5 * step if step % 5 else 0.0, "target_std": 0.5}
    ),  # falls back now and then
)
