"""A result as sections of tables and charts: the data of the report; nothing is drawn here."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from stepwell.compare.judgement import findings, listed, planned
from stepwell.compare.outcome import Outcome
from stepwell.compare.plan import SCHEDULES
from stepwell.compare.progress import duration
from stepwell.curves import Cell, Chart, Curve, Mark, Section, Table

if TYPE_CHECKING:
    from stepwell.compare.plan import Plan
    from stepwell.compare.run import Result

SETTLED = 0.3  # of the run: what is before may leave the picture; the start dwarfs all differences
BETTER = 0.66  # of each optimizer's rates: what is worse may leave the picture


def sections(result: Result) -> list[Section]:
    """The whole report of a comparison, in reading order."""
    charts: list[Chart] = [learning_curves(result), learning_curves(result, over="seconds"), rates(result)]
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


def headline(result: Result) -> str:
    """The result in one or two sentences."""
    ranked = [score for score in result.scores if score.median is not None]
    if not ranked:
        return "No optimizer has finished a final run yet."
    best = ranked[0]
    assert best.median is not None
    text = f"{best.optimizer} has the best median {result.task['metric']}: {shown(best.median)} over {_seeds(best)}"
    level = [score for score in ranked[1:] if score.median is not None and shown(score.median) == shown(best.median)]
    if level:
        sharing = listed([score.optimizer for score in [best, *level]])
        text = f"{sharing} share the best median {result.task['metric']}: {shown(best.median)}"
    if len(ranked) > 1 and not level:
        assert ranked[1].median is not None
        text += f"; {ranked[1].optimizer} follows with {shown(ranked[1].median)}"
    return text + "."


def _seeds(score: object) -> str:
    count = getattr(score, "seeds_finished", 0)
    return f"{count} seed{'s' if count != 1 else ''}"


def score_table(result: Result) -> Table:
    """One row per optimizer, the best first. The same table is printed by the command."""
    target = result.task["target"]
    better = "higher is better" if result.task["direction"] == "max" else "lower is better"
    rows = []
    for score in result.scores:
        steps: Cell = None if score.steps_to_target is None else f"{score.steps_to_target:.0f}"
        seconds: Cell = None if score.seconds_to_target is None else f"{score.seconds_to_target:.3g}"
        rows.append(
            [
                score.optimizer,
                None if score.best_lr is None else f"{score.best_lr:g}",
                f"{score.edge} edge" if score.edge else "inside" if score.best_lr is not None else None,
                None if score.median is None else shown(score.median),
                None if score.lower is None or score.upper is None else f"{shown(score.lower)} – {shown(score.upper)}",
                None if not score.seeds else f"{score.reached} of {score.seeds}" if target is not None else None,
                steps,
                seconds,
                None if score.step_ms is None else f"{score.step_ms:.3g}",
                None if score.bytes_per_parameter is None else f"{score.bytes_per_parameter:.3g}",
            ]
        )
    notes = [f"Metric: {result.task['metric']} after the last step; {better}."]
    if target is not None:
        notes.append(
            f"Target: {target:g}, reached if any evaluation of the run was as good. Steps and "
            "seconds to the target are medians over all seeds (a seed that missed the target counts as later than all "
            "others) "
            "and exclude evaluation."
        )
    return Table(
        ["optimizer", "best lr", "in its range", "median", "quartiles", "reached target", "steps to target",
         "seconds to target", "ms per step", "state bytes per parameter"],
        rows,
        title=f"{result.task['name']}, {result.plan.steps} steps",
        notes=notes,
    )  # fmt: skip


def shown(value: float) -> str:
    """A metric with four significant digits."""
    return f"{value:.4g}"


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


def rates(result: Result) -> Chart:
    """The final metric by learning rate: the width of the good region, and whether the range covers it."""
    tune = [o for o in result.outcomes if o.phase == "tune" and o.metric]
    values = [o.metric[-1] for o in tune if o.status in ("finished", "pruned")]
    if not values:
        return Chart("The metric against the learning rate", [])
    worst = min(values) if result.task["direction"] == "max" else max(values)
    part = None if wide(result, values) else better_part(result, tune)
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
    return Chart(title, curves, note, _target(result), log_x=True, log_y=wide(result, values), y_window=part)


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
        f"Each optimizer got {plan.trials} learning rates, one from the middle of each equal slice of its range "
        f"on a log scale, all with seed 0. {cut}"
        f"The rate with the best final metric then ran with {plan.seeds} other seed{'s' if plan.seeds != 1 else ''}. "
        "For a given seed, all optimizers start from the same weights and see the same batches in the same order. "
        f"{_schedules(plan)} The metric is compared after the last step. The rate is chosen on the "
        "same held-out data as the score, with the same number of evaluations for every optimizer. "
        "Hyperparameters other than the learning rate keep the values below."
    )


def _schedules(plan: Plan) -> str:
    """The schedules of the optimizers, in sentences."""
    names = {contender.schedule for contender in plan.contenders}
    if len(names) == 1:
        return f"All share one schedule: {SCHEDULES[names.pop()]}."
    said = [f"The schedule is {SCHEDULES['decay']}; optimizers that are defined without a decay run their own"]
    for name in sorted(names - {"decay"}):
        who = ", ".join(contender.name for contender in plan.contenders if contender.schedule == name)
        said.append(f"{who}: {SCHEDULES[name]}")
    return "; ".join(said) + "."


def settings_table(result: Result) -> Table:
    """The optimizers' settings, the task and the machine, as two columns."""
    task, plan = result.task, result.plan
    rows: list[list[Cell]] = [["task", f"{task['name']}: {task['summary']}"]]
    rows += [[key, text] for key, text in task["about"].items()]
    if task["batch_size"] is not None:
        rows.append(["batch size", task["batch_size"]])
    rows.append(["steps in a run", plan.steps])
    for contender in plan.contenders:
        options = ", ".join(f"{key}={value}" for key, value in contender.options.items()) or "defaults"
        span = f"lr from {contender.low:g} to {contender.high:g}"
        rows.append([contender.name, f"{span}; {options}; schedule: {SCHEDULES[contender.schedule]}"])
    rows.append(["device", plan.device])
    rows += [[key, text] for key, text in result.machine.items()]
    return Table(["setting", "value"], rows, title="Settings")


def budget_table(result: Result) -> Table:
    """How the trials of each optimizer ended, and their cost."""
    rows: list[list[Cell]] = []
    for score in result.scores:
        mine = [o for o in result.outcomes if o.optimizer == score.optimizer]
        steps = sum(o.steps[-1] for o in mine if o.steps)
        seconds = sum(o.seconds[-1] for o in mine if o.seconds)
        ended: list[Cell] = [score.finished, score.pruned, score.diverged, score.crashed]
        rows.append(
            [score.optimizer, score.trials, *ended, score.seeds, score.seeds_finished, steps, duration(seconds)]
        )
    columns = ["optimizer", "lr trials", "finished", "cut", "diverged", "crashed", "seeds", "finished seeds", "steps"]
    return Table([*columns, "training time"], rows, title="Budget and its use",
                 notes=[f"{len(result.outcomes)} of {planned(result)} planned trials are done."])  # fmt: skip


def trial_table(result: Result) -> Table:
    """Every trial and how it ended."""
    return Table(
        ["optimizer", "for", "lr", "seed", "ended", "steps", "metric", "seconds", "said"],
        [_trial_row(outcome) for outcome in result.outcomes],
    )


def _trial_row(outcome: Outcome) -> list[Cell]:
    return [
        outcome.optimizer,
        "tuning" if outcome.phase == "tune" else "score",
        f"{outcome.lr:g}",
        outcome.seed,
        "cut" if outcome.status == "pruned" else outcome.status,
        outcome.steps[-1] if outcome.steps else 0,
        shown(outcome.metric[-1]) if outcome.metric else None,
        f"{outcome.seconds[-1]:.3g}" if outcome.seconds else None,
        outcome.error or None,
    ]
