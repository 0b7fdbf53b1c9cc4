"""The tables of a result: scores, settings, budgets, trials. Nothing is drawn here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.compare.headline import shown
from stepwell.compare.judgement import planned
from stepwell.compare.outcome import Outcome
from stepwell.compare.plan import SCHEDULES
from stepwell.compare.progress import duration
from stepwell.compare.ranks import intervals
from stepwell.curves import Cell, Table

if TYPE_CHECKING:
    from stepwell.compare.result import Result
    from stepwell.compare.scores import Score


def score_table(result: Result) -> Table:
    """One row per optimizer, the best first. The same table is printed by the command."""
    target = result.task["target"]
    better = "higher is better" if result.task["direction"] == "max" else "lower is better"
    tuned = any(score.settings for score in result.scores)
    counted = any(score.gradients_to_target != score.steps_to_target and score.gradients_to_target is not None
                  for score in result.scores)  # fmt: skip
    places = intervals({score.optimizer: score.values for score in result.scores}, result.task["direction"])
    rows = []
    for score in result.scores:
        steps: Cell = None if score.steps_to_target is None else f"{score.steps_to_target:.0f}"
        seconds: Cell = None if score.seconds_to_target is None else f"{score.seconds_to_target:.3g}"
        rows.append(
            [
                score.optimizer,
                None if score.best_lr is None else f"{score.best_lr:g}",
                *([", ".join(f"{key} {value:g}" for key, value in score.settings.items()) or None] if tuned else []),
                _place(score),
                None if score.median is None else shown(score.median),
                None if score.lower is None or score.upper is None else f"{shown(score.lower)} – {shown(score.upper)}",
                "-".join(dict.fromkeys(map(str, places[score.optimizer]))) if score.optimizer in places else None,
                None if not score.seeds else f"{score.reached} of {score.seeds}" if target is not None else None,
                steps,
                *([None if (known := score.gradients_to_target) is None else f"{known:.0f}"] if counted else []),
                seconds,
                None if score.step_ms is None else f"{score.step_ms:.3g}",
                None if score.bytes_per_parameter is None else f"{score.bytes_per_parameter:.3g}",
            ]
        )
    notes = [f"Metric: {result.task['metric']} after the last step; {better}."]
    if len(places) > 1:
        notes.append("Place: those that an optimizer gets in 90 % of the draws when the seeds are drawn again.")
    if target is not None:
        notes.append(
            f"Target: {target:g}, reached if any evaluation of the run was as good. Steps and seconds to the target "
            "are medians over all seeds (a seed that missed the target counts as later than all others) and exclude "
            "evaluation."
        )
    if counted:
        notes.append("Gradients to the target: those that were computed; some optimizers need more than one per step.")
    return Table(
        ["optimizer", "best lr", *(["also tuned"] if tuned else []), "among those tried", "median", "quartiles",
         "place", "reached target", "steps to target", *(["gradients to target"] if counted else []),
         "seconds to target", "ms per step", "state bytes per parameter"],
        rows,
        title=f"{result.task['name']}, {result.plan.steps} steps",
        notes=notes,
    )  # fmt: skip


def _place(score: Score) -> str | None:
    """Where the best values lie among those tried."""
    if score.best_lr is None:
        return None
    return ", ".join(f"{name} at the {end} edge" for name, end in score.edges.items()) or "inside"


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
        rows.append(
            [contender.name, f"{span}; {options}; schedule: {SCHEDULES.get(contender.schedule, contender.schedule)}"]
        )
    rows.append(["device", plan.device])
    if result.command:
        rows.append(["command", result.command])
    workers = sorted({one.by for one in result.outcomes if one.by})
    if workers:
        rows.append(["run by", f"{len(workers)} worker process{'es' if len(workers) != 1 else ''}"])
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
    columns = [
        "optimizer",
        "tuning trials",
        "finished",
        "cut",
        "diverged",
        "crashed",
        "seeds",
        "finished seeds",
        "steps",
    ]
    return Table([*columns, "training time"], rows, title="Budget and its use",
                 notes=[f"{len(result.outcomes)} of {planned(result)} planned trials are done."])  # fmt: skip


def trial_table(result: Result) -> Table:
    """Every trial and how it ended."""
    also = any(outcome.settings for outcome in result.outcomes)
    return Table(
        ["optimizer", "for", "lr", *(["also"] if also else []), "seed", "ended", "steps", "metric", "seconds", "said"],
        [_trial_row(outcome, also) for outcome in result.outcomes],
    )


def _trial_row(outcome: Outcome, also: bool) -> list[Cell]:
    tuned = ", ".join(f"{key} {value:g}" for key, value in outcome.settings.items())
    return [
        outcome.optimizer,
        "tuning" if outcome.phase == "tune" else "score",
        f"{outcome.lr:g}",
        *([tuned or None] if also else []),
        outcome.seed,
        "cut" if outcome.status == "pruned" else "lost" if outcome.lost else outcome.status,
        outcome.steps[-1] if outcome.steps else 0,
        shown(outcome.metric[-1]) if outcome.metric else None,
        f"{outcome.seconds[-1]:.3g}" if outcome.seconds else None,
        outcome.error or None,
    ]
