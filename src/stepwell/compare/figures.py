"""A result as sections of tables and charts: the data of the report; nothing is drawn here."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from stepwell.compare.headline import headline
from stepwell.compare.judgement import findings, listed
from stepwell.compare.outcome import Outcome
from stepwell.compare.plan import SCHEDULES
from stepwell.compare.search import FIRST, LATER
from stepwell.compare.tables import budget_table, score_table, settings_table, trial_table
from stepwell.curves import Chart, Curve, Mark, Section

if TYPE_CHECKING:
    from stepwell.compare.plan import Plan
    from stepwell.compare.result import Result

SETTLED = 0.3  # of the run: what is before may leave the picture; the start dwarfs all differences
BETTER = 0.66  # of each optimizer's rates: what is worse may leave the picture


def sections(result: Result) -> list[Section]:
    """The whole report of a comparison, in reading order."""
    charts: list[Chart] = [
        learning_curves(result), learning_curves(result, over="seconds"), losses(result), rates(result), budget(result),
    ]  # fmt: skip
    path = paths(result)
    if path is not None:
        charts.insert(0, path)
    charts = [chart for chart in charts if chart.curves]
    parts = [
        Section("Result", [score_table(result)], headline(result)),
        Section("Reservations", findings(result)),
        Section("Learning curves and learning rates", charts),
        Section("What was run, and how", [settings_table(result), budget_table(result)], method(result)),
        Section("Every trial", [trial_table(result)]),
    ]
    return [part for part in parts if part.items]


def learning_curves(result: Result, over: str = "steps") -> Chart:
    """Median and range of the metric over the seeds, by steps or by seconds of training."""
    curves = []
    for score in result.scores:
        runs = [o for o in result.outcomes if o.optimizer == score.optimizer and o.phase == "seed" and o.steps]
        if not runs:
            continue
        steps = max((o.steps for o in runs), key=len)
        at = [[(o.metric[i], o.seconds[i]) for o in runs if i < len(o.steps)] for i in range(len(steps))]
        x = steps if over == "steps" else [statistics.median(second for _, second in column) for column in at]
        curves.append(
            Curve(
                score.optimizer,
                x,
                [statistics.median(metric for metric, _ in column) for column in at],
                low=[min(metric for metric, _ in column) for column in at],
                high=[max(metric for metric, _ in column) for column in at],
                x_label="step" if over == "steps" else "seconds of training",
                y_label=result.task["metric"],
            )
        )
    title = "The metric during training" if over == "steps" else "The metric over time"
    note = "Median over the seeds at the best learning rate; the band spans all of them."
    if over != "steps":
        note = "Seconds are measured on this machine, with all workers running; evaluation is not counted."
    log_y = wide(result, [v for c in curves for v in c.y if v is not None])
    return Chart(title, curves, note, _target(result), log_y=log_y, y_window=None if log_y else window(result, curves))


def losses(result: Result) -> Chart:
    """The training loss over the seeds, by steps: the mean since the evaluation before."""
    curves = []
    for score in result.scores:
        runs = [o for o in result.outcomes if o.optimizer == score.optimizer and o.phase == "seed" and len(o.steps) > 1]
        if not runs:
            continue
        steps = max((o.steps for o in runs), key=len)
        at = [[o.loss[i] for o in runs if i < len(o.steps) and o.loss[i] is not None] for i in range(1, len(steps))]
        kept = [
            (step, [v for v in column if v is not None]) for step, column in zip(steps[1:], at, strict=True) if column
        ]
        if kept:
            curves.append(
                Curve(
                    score.optimizer,
                    [step for step, _ in kept],
                    [statistics.median(column) for _, column in kept],
                    low=[min(column) for _, column in kept],
                    high=[max(column) for _, column in kept],
                    x_label="step",
                    y_label="training loss",
                )
            )
    values = [v for curve in curves for v in curve.y if v is not None]
    log_y = bool(values) and min(values) > 0 and max(values) > 100 * min(values)
    note = "Mean loss since the evaluation before; median over the seeds, and a band that spans all of them."
    return Chart("The training loss", curves, note, log_y=log_y)


def budget(result: Result) -> Chart:
    """The best metric of the first k trials: what tuning buys."""
    curves = []
    for score in result.scores:
        points = [(k, value) for k, value in enumerate(score.after, start=1) if value is not None]
        if len(points) > 1:
            curves.append(
                Curve(
                    score.optimizer,
                    [k for k, _ in points],
                    [value for _, value in points],
                    x_label="tuning trials",
                    y_label=result.task["metric"],
                    style="line+points",
                )
            )
    part = better_part(result, [o for o in result.outcomes if o.phase == "tune" and o.metric])
    log_y = wide(result, [v for c in curves for v in c.y if v is not None])
    return Chart("What tuning buys", curves, "The best metric of the first k trials, in the order of the search.",
                 _target(result), log_y=log_y, y_window=None if log_y else part)  # fmt: skip


def rates(result: Result) -> Chart:
    """The final metric by learning rate: the width of the good region, and whether the range covers it."""
    tune = [o for o in result.outcomes if o.phase == "tune" and o.metric and o.index < result.plan.trials]
    values = [o.metric[-1] for o in tune if o.status in ("finished", "pruned")]
    if not values:
        return Chart("The metric against the learning rate", [])
    worst = min(values) if result.task["direction"] == "max" else max(values)
    # One rate that was cut at a million must not flatten all others: it is left outside, as on a linear axis.
    log_y = wide(result, [o.metric[-1] for o in tune if o.status == "finished"])
    part = None if log_y else better_part(result, tune)
    if part is not None:  # where crosses are seen: at the bad end of the picture
        worst = max(worst, part[0]) if result.task["direction"] == "max" else min(worst, part[1])
    curves = []
    for score in result.scores:
        mine = sorted((o for o in tune if o.optimizer == score.optimizer), key=lambda o: o.lr)
        groups = [
            ("line+points", [o for o in mine if o.status == "finished"], ""),
            ("hollow", [o for o in mine if o.status == "pruned"], "cut at step {step}"),
            ("crosses", [o for o in mine if o.status == "diverged"], "diverged by step {step}"),
            ("star", [o for o in mine if o.status == "finished" and o.lr == score.best_lr], "the best"),
        ]
        for style, outcomes, label in groups:
            if outcomes:
                curves.append(
                    Curve(
                        score.optimizer,
                        [o.lr for o in outcomes],
                        [worst if o.status == "diverged" else o.metric[-1] for o in outcomes],
                        x_label="peak learning rate",
                        y_label=result.task["metric"],
                        style=style,  # type: ignore[arg-type]
                        labels=[label.format(step=o.steps[-1]) for o in outcomes],
                    )
                )
    kinds = {curve.style for curve in curves}
    said = ["A star is the rate that the final runs use."]
    if part is not None and any(not part[0] <= value <= part[1] for value in values):
        said.append("Bad rates are outside the visible range; a double click shows all.")
    if "hollow" in kinds:
        said.append("Hollow points were stopped as hopeless, and show the value at that time.")
    if "crosses" in kinds:
        said.append("Crosses diverged; they have no value and are drawn at the bad end.")
    note = " ".join(said)
    title = "The metric against the learning rate"
    return Chart(title, curves, note, _target(result), log_x=True, log_y=log_y, y_window=part)


def paths(result: Result) -> Chart | None:
    """For two-parameter tasks: the path of each optimizer over the contours, for one seed. None for other tasks."""
    if result.surface is None:
        return None
    curves = []
    for score in result.scores:
        run = next(
            (o for o in result.outcomes if o.optimizer == score.optimizer and o.phase == "seed" and o.path), None
        )
        if run is not None:
            curves.append(
                Curve(
                    score.optimizer, [p[0] for p in run.path], [p[1] for p in run.path],
                    x_label="first parameter", y_label="second parameter", style="line+points",
                    labels=[f"step {step}" for step in run.steps],
                )
            )  # fmt: skip
    note = "One seed at the best learning rate, from the same start; a star marks the minimum."
    return Chart("The path", curves, note, heights=result.surface)


def window(result: Result, curves: Sequence[Curve]) -> tuple[float, float] | None:
    """The initially visible part of the y axis: the medians without the start of the run, and the target."""
    return _around(result, [y for c in curves for x, y in zip(c.x, c.y, strict=True) if x >= SETTLED * c.x[-1]])


def better_part(result: Result, tune: Sequence[Outcome]) -> tuple[float, float] | None:
    """The part of the y axis with the better two thirds of each optimizer's rates, and the target."""
    kept: list[float | None] = []
    for score in result.scores:
        mine = sorted(o.metric[-1] for o in tune if o.optimizer == score.optimizer and o.status == "finished")
        if result.task["direction"] == "max":
            mine.reverse()
        kept += mine[: math.ceil(BETTER * len(mine))]
    return _around(result, kept)


def _around(result: Result, values: Sequence[float | None]) -> tuple[float, float] | None:
    seen = [value for value in values if value is not None]
    if not seen:
        return None
    if result.task["target"] is not None:
        seen.append(result.task["target"])
    low, high = min(seen), max(seen)
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def wide(result: Result, values: Sequence[float]) -> bool:
    """Whether the values span so many decades that a logarithmic axis is needed."""
    positive = all(value > 0 for value in values)
    return bool(values) and result.task["direction"] == "min" and positive and max(values) > 100 * min(values)


def _target(result: Result) -> list[Mark]:
    target = result.task["target"]
    return [] if target is None else [Mark(f"target {target:g}", target)]


def method(result: Result) -> str:
    """The method of the comparison, in sentences that are true for this run."""
    plan = result.plan
    cut = (
        "From the middle of a run on, a learning rate whose best metric so far is worse than that of three "
        "quarters of the trials of earlier rounds is stopped. "
        if plan.prune
        else ""
    )
    return (
        f"{_search(plan)} {cut}"
        f"The best values then ran with {plan.seeds} other seed{'s' if plan.seeds != 1 else ''}. "
        "For a given seed, all optimizers start from the same weights and see the same batches in the same order. "
        f"{_schedules(plan)} The metric is compared after the last step. The rate is chosen on the "
        "same held-out data as the score, with the same number of evaluations for every optimizer. "
        "Hyperparameters that are not tuned keep the values below."
    )


def _search(plan: Plan) -> str:
    """How the values are chosen, in sentences."""
    what = [name for contender in plan.contenders[:1] for name in contender.tune]
    also = f" The same number of trials each then tuned {listed(what[1:])}, one after the other." if what[1:] else ""
    beyond = "beyond the range where the best rate was the last one on its side, and else " if plan.widen else ""
    return (
        f"Each optimizer got {plan.trials} learning rates with seed 0: up to {FIRST} spread evenly over its range on a "
        f"log scale, then {LATER} at a time, {beyond}around the best one. Further rates are part of the budget, which "
        f"is the same for all.{also}"
    )


def _schedules(plan: Plan) -> str:
    """The schedules of the optimizers, in sentences."""
    names = {contender.schedule for contender in plan.contenders}
    if len(names) == 1:
        name = names.pop()
        return f"All share one schedule: {SCHEDULES.get(name, name)}."
    said = [f"The schedule is {SCHEDULES['decay']}; others run their own"]
    for name in sorted(names - {"decay"}):
        who = ", ".join(contender.name for contender in plan.contenders if contender.schedule == name)
        said.append(f"{who}: {SCHEDULES.get(name, name)}")
    return "; ".join(said) + "."
