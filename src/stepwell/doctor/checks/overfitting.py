"""The metric of the validation gets worse while the training loss falls."""

from __future__ import annotations

from itertools import pairwise
from statistics import median

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.doctor.trends import marginal, start_of
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R26",
    name="overfitting",
    severity="warning",
    certainty="certain",
    looks_for="the metric of the validation gets worse while the training loss falls",
    why="the model learns the training data by heart",
    instead="stop at the best validation, use more data, augmentation, dropout or weight decay, or a smaller model",
    silent_when="the validation is within its noise of the best value",
    example_bad="validation 0.40, 0.35, 0.38, 0.45, 0.52 while the training loss falls to 0.01",
    example_good="validation 0.40, 0.35, 0.33, 0.33, 0.34",
    reference="https://arxiv.org/abs/1912.02292",
)
TIER = 5
EARLIEST = 20
HOLDS = 1


def find(record: Record) -> Finding | None:
    vals = [value for _, value in record.vals]
    main = record.main
    if len(vals) < 5 or main is None or len(record.series) > 1:
        return None
    best = min(vals)
    at = vals.index(best)
    if best <= 0 or len(vals) - at < 4 or vals[-1] < 1.12 * best:
        return None
    start = start_of(record)  # of the training; where the metric is no loss of that kind, the first metrics count
    gained = max([*vals[:3], start] if 0.2 * start < vals[0] < 5 * start else vals[:3]) - best
    floor = marginal(record, main.facts.function) if main.facts is not None and main.facts.whole else None
    if vals[-1] - best < 0.06 * gained or (floor is not None and best > 0.93 * floor):
        return None  # a small part of what was gained; or nothing was learned that holds for other data: R47
    noise = median([abs(b - a) for a, b in pairwise(vals)])
    if median(vals[-3:]) - best < noise:
        return None  # no more than what two evaluations differ by
    rising = sum(b > a for a, b in pairwise(vals[at:])) / (len(vals) - at - 1)
    smooth = main.smooth(max(len(main.values) // 20, 1))
    half = smooth[len(smooth) * at // len(vals)] if smooth else 0.0
    if rising < 0.6 or not smooth or smooth[-1] > 0.95 * half:
        return None
    return said(
        CHECK,
        record,
        (
            f"the validation was best ({best:.4g}) at evaluation {at + 1} and is "
            f"{vals[-1]:.4g} now, while the training loss fell from {half:.3g} to "
            f"{smooth[-1]:.3g}"
        ),
    )


BAD = (
    Trace(vals=(0.40, 0.35, 0.38, 0.45, 0.52)),
    Trace(vals=(0.40, 0.35, 0.36, 0.355, 0.38, 0.42)),
    Trace(vals=(0.40, 0.42, 0.44, 0.46, 0.48)),  # best at the start
    Trace(vals=(0.40, 0.35, 0.45, 0.42, 0.47, 0.44, 0.50)),
    Trace(vals=(0.40, 0.35, 0.38, 0.45, 0.52), loss=lambda step: 1.0 - 0.0007 * step),
)
GOOD = (
    Trace(vals=(0.40, 0.35, 0.36, 0.355, 0.365, 0.40)),  # 5 % of what was gained since the start
    Trace(vals=(1.42, 1.40, 1.50, 1.60, 1.70)),  # never better than the frequencies of the labels
    Trace(vals=(1.40, 0.35, 0.36, 0.37, 0.38, 0.385)),  # a fraction of what was gained
    Trace(vals=(0.40, 0.35, 0.33, 0.33, 0.34)),
    Trace(vals=(0.40, 0.35, 0.36, 0.37, 0.39)),  # 11 % above the best
    Trace(vals=(0.40, 0.41, 0.35, 0.45, 0.52)),  # best two evaluations ago
    Trace(vals=(0.40, 0.35, 0.45, 0.42, 0.40, 0.39)),  # comes down again
    Trace(vals=(0.35, 0.38, 0.45, 0.52)),
    Trace(vals=(0.40, 0.35, 0.38, 0.45, 0.52), loss=1.0),  # the training loss does not fall
    Trace(vals=(0.40, 0.35, 0.38, 0.45, 0.52), losses=2),
    Trace(vals=(0.0, 0.38, 0.45, 0.52, 0.60)),
    Trace(vals=(0.40, 0.35, 0.45, 0.42, 0.47, 0.44)),  # as often down as up
    Trace(vals=(0.40, 0.35, 0.38, 0.45, 0.52), loss=lambda step: 1.0 - 0.0006 * step),  # falls by less than 5 %
)
