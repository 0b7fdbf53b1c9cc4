"""From outcomes to scores, by pure functions."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from stepwell.compare.outcome import Outcome
from stepwell.compare.plan import Course, Plan
from stepwell.compare.search import Direction, Side


@dataclass(frozen=True)
class Score:
    """The score of one optimizer.

    Attributes:
        optimizer: its name. best_lr: the best learning rate tried; None before tuning is complete, or if no trial
            finished. settings: the best values of what else was tuned.
        edge: `"low"` or `"high"` if the best rate is the lowest or highest tried; None inside the range. edges: the
            same for each hyperparameter that was tuned and lies at an edge.
        trials, finished, pruned, diverged, crashed: numbers of tuning trials, in total and by status.
        seeds: number of final runs done. seeds_finished: how many of them finished.
        median, lower, upper: median and quartiles of the final metric over the finished seeds; None if no seed
            finished.
        values: the final metric of each finished seed.
        reached: how many seeds reached the target. steps_to_target, seconds_to_target, gradients_to_target: their
            median over all seeds, where a seed that missed the target counts as later than all others; None if that
            median is such a seed. Gradients are those that were computed: SAM needs two per step.
        step_ms: median milliseconds per step of the finished seeds.
        bytes_per_parameter: optimizer state per trainable element.
        after: the best metric of the first k tuning trials, for k = 1, 2, ...; None before the first that finished.
    """

    optimizer: str
    best_lr: float | None
    edge: Side | None
    trials: int
    finished: int
    pruned: int
    diverged: int
    crashed: int
    seeds: int
    seeds_finished: int
    median: float | None
    lower: float | None
    upper: float | None
    values: tuple[float, ...]
    reached: int
    steps_to_target: float | None
    seconds_to_target: float | None
    gradients_to_target: float | None
    step_ms: float | None
    bytes_per_parameter: float | None
    settings: Mapping[str, float] = field(default_factory=dict)
    edges: Mapping[str, Side] = field(default_factory=dict)
    after: tuple[float | None, ...] = ()


def scores(
    plan: Plan, courses: Sequence[Course], outcomes: Sequence[Outcome], direction: Direction, target: float | None
) -> list[Score]:
    """One score per optimizer, the best median first; optimizers without a finished seed come last."""
    rows = []
    for contender, own in zip(plan.contenders, courses, strict=True):
        mine = [o for o in outcomes if o.optimizer == contender.name]
        tune = [o for o in mine if o.phase == "tune"]
        seeds = [o for o in mine if o.phase == "seed"]
        finals = [o.final for o in seeds if o.status == "finished" and o.final is not None]
        whole = [o for o in seeds if o.status == "finished" and o.steps]
        lower, median, upper = quartiles(finals) if finals else (None, None, None)
        hits = [hit for o in seeds if (hit := hit_target(o, direction, target)) is not None]
        counts = [hit[2] for hit in hits if hit[2] is not None]
        lr = own.lr if own.tuned else None
        edges = {stage.axis.name: stage.edge for stage in own.stages if stage.edge is not None} if own.tuned else {}
        counted = {
            status: sum(o.status == status for o in tune) for status in ("finished", "pruned", "diverged", "crashed")
        }
        sized = [o for o in mine if o.parameters]
        rows.append(
            Score(
                optimizer=contender.name,
                best_lr=lr,
                edge=edges.get("lr"),
                trials=len(tune),
                **counted,
                seeds=len(seeds),
                seeds_finished=sum(o.status == "finished" for o in seeds),
                median=median,
                lower=lower,
                upper=upper,
                values=tuple(finals),
                reached=len(hits),
                steps_to_target=_median_with_late([h[0] for h in hits], len(seeds)),
                seconds_to_target=_median_with_late([h[1] for h in hits], len(seeds)),
                gradients_to_target=_median_with_late(counts, len(seeds)) if len(counts) == len(hits) else None,
                step_ms=statistics.median(1000 * o.seconds[-1] / o.steps[-1] for o in whole) if whole else None,
                bytes_per_parameter=sized[-1].state_bytes / sized[-1].parameters if sized else None,
                settings=dict(own.settings) if own.tuned else {},
                edges=edges,
                after=best_after(tune, direction),
            )
        )
    sign = -1 if direction == "max" else 1
    return sorted(rows, key=lambda s: (s.median is None, 0 if s.median is None else sign * s.median))


def best_after(tune: Sequence[Outcome], direction: Direction) -> tuple[float | None, ...]:
    """The best final metric of the first k trials, for every k: what tuning buys.

    >>> best_after([], "max")
    ()
    """
    found: list[float | None] = []
    best: float | None = None
    for one in sorted(tune, key=lambda outcome: outcome.index):
        if one.status == "finished" and one.final is not None:
            best = one.final if best is None else max(best, one.final) if direction == "max" else min(best, one.final)
        found.append(best)
    return tuple(found)


def hit_target(
    outcome: Outcome, direction: Direction, target: float | None
) -> tuple[float, float, float | None] | None:
    """Steps, training seconds and gradients until the metric first reached the target; None if it never did. The
    gradients are None where nobody counted them: in a script, or in a trial of an older version."""
    if target is None:
        return None
    for index, metric in enumerate(outcome.metric):
        if metric >= target if direction == "max" else metric <= target:
            gradients = float(outcome.gradients[index]) if outcome.gradients else None
            return float(outcome.steps[index]), outcome.seconds[index], gradients
    return None


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median and third quartile, interpolated between the values; n >= 1.

    >>> quartiles([1.0, 2.0, 3.0, 4.0, 5.0])
    (2.0, 3.0, 4.0)
    """
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def _median_with_late(hits: Sequence[float], seeds: int) -> float | None:
    """The median over all seeds, in which a seed that missed the target counts as later than all others."""
    if not hits:
        return None
    times = sorted(hits) + [float("inf")] * (seeds - len(hits))
    median = statistics.median(times)
    return None if median == float("inf") else median
