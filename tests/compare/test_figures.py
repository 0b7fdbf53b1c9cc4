"""The data behind tables and charts, from a made-up result."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from tests.compare.playing import play

from stepwell.compare import Contender, Outcome, Plan, Result
from stepwell.compare.figures import budget, learning_curves, losses, method, paths, rates, sections
from stepwell.compare.headline import headline
from stepwell.compare.judgement import findings
from stepwell.compare.plan import Trial, of_plan
from stepwell.compare.scores import scores
from stepwell.compare.tables import score_table, settings_table
from stepwell.curves import Chart, Heights
from stepwell.errors import UsageError

PLAN = Plan("line", (Contender("SGD", 1e-3, 1.0, {"momentum": 0.9}), Contender("Lion", 1e-5, 1e-2)), 3, 3, 20)
FINALS = {"SGD": (0.9, 0.7, 0.8), "Lion": (0.5, 0.6, 0.7)}  # by rate: SGD is best at the lowest, Lion at the highest


def run(trial: Trial) -> Outcome:
    if trial.phase == "tune":
        final = FINALS[trial.optimizer][trial.index]
    else:
        final = (0.9 if trial.optimizer == "SGD" else 0.6) + trial.index / 100
    return Outcome(
        trial.optimizer, trial.phase, trial.index, trial.lr, trial.seed, "finished", steps=[0, 10, 20],
        metric=[0.1, 0.4, final], loss=[None, 2.0, 1.0], seconds=[0.0, 0.1 + 0.01 * trial.index, 0.2], final=final,
        state_bytes=40, parameters=10, id=trial.id, by="process 7",
    )  # fmt: skip


def result(**changed: Any) -> Result:
    courses, done = play(PLAN, run)
    outcomes = of_plan(courses, done)
    made = Result(
        PLAN, tuple(outcomes), tuple(scores(PLAN, courses, outcomes, "max", 0.8)),
        {"name": "line", "summary": "a line", "family": "toy", "metric": "accuracy", "direction": "max", "target": 0.8,
         "batch_size": 16, "about": {"data": "made up"}},
        {"torch": "2.0", "processor": "abacus"}, True, 1.0, Path("runs/x"), courses=tuple(courses),
        command="stepwell compare line",
    )  # fmt: skip
    return dataclasses.replace(made, **changed)


def inside(*scores: Any) -> tuple[Any, ...]:
    """The same scores, with the best rates inside of those tried."""
    return tuple(dataclasses.replace(score, edge=None, edges={}) for score in scores)


def test_the_table_says_what_the_scores_say() -> None:
    first, second = score_table(result()).rows
    assert first[:7] == ["SGD", "0.00316", "lr at the low edge", "0.91", "0.905 – 0.915", "1", "3 of 3"]
    assert first[7:9] == ["20", "0.2"]
    assert second[:7] == ["Lion", "0.00316", "lr at the high edge", "0.61", "0.605 – 0.615", "2", "0 of 3"]
    assert second[7:9] == [None, None]


def with_gradients(outcome: Outcome, per_step: int) -> Outcome:
    return dataclasses.replace(outcome, gradients=[per_step * step for step in outcome.steps])


def test_gradients_to_the_target_are_a_column_where_they_differ_from_the_steps() -> None:
    def scored(per_step: int) -> Result:
        changed = [with_gradients(o, per_step if o.optimizer == "SGD" else 1) for o in result().outcomes]
        courses, _ = play(PLAN, run)
        return result(outcomes=tuple(changed), scores=tuple(scores(PLAN, courses, changed, "max", 0.8)))

    assert "gradients to target" not in score_table(scored(1)).columns
    table = score_table(scored(2))
    at = list(table.columns).index("gradients to target")
    assert [row[at - 1 : at + 2] for row in table.rows] == [["20", "40", "0.2"], [None, None, None]]
    assert any("more than one per step" in note for note in table.notes)


def test_one_bad_rate_does_not_flatten_the_others() -> None:
    outcomes = list(result().outcomes)
    outcomes[1] = dataclasses.replace(outcomes[1], status="pruned", final=None, metric=[0.1, 0.4, 1e6])
    down = result(outcomes=tuple(outcomes), task={**result().task, "direction": "min"})
    chart = rates(down)
    assert not chart.log_y
    assert chart.y_window is not None
    assert chart.y_window[1] < 2
    assert "Bad rates are outside the visible range" in chart.note


def test_a_result_as_a_frame_has_a_row_for_each_optimizer_trial_or_point() -> None:
    first = result()
    assert list(first.to_frame().optimizer) == ["SGD", "Lion"]
    assert list(first.to_frame()["median"]) == pytest.approx([0.91, 0.61])
    trials = first.to_frame("trials")
    assert len(trials) == len(first.outcomes) == 12
    assert set(trials.columns) >= {"id", "optimizer", "phase", "lr", "seed", "status", "final", "settings"}
    curves = first.to_frame("curves")
    assert len(curves) == 3 * 12
    assert list(curves.columns) == [
        "id", "optimizer", "phase", "lr", "seed", "step", "metric", "loss", "seconds", "gradients",
    ]  # fmt: skip
    one = curves[curves.id == first.outcomes[0].id]
    assert (list(one.step), list(one.metric)) == ([0, 10, 20], list(first.outcomes[0].metric))
    assert curves.gradients.isna().all()  # they were not counted
    assert list(result(outcomes=()).to_frame("curves").columns) == list(curves.columns)
    with pytest.raises(UsageError, match=r"what='plots'; it must be one of 'scores', 'trials', 'curves'"):
        first.to_frame("plots")  # type: ignore[arg-type]  # which is refused


def test_a_result_writes_its_page(tmp_path: Path) -> None:
    page = result().report(tmp_path / "page.html")
    text = page.read_text()
    assert "Optimizers compared: line" in text
    assert "SGD, Lion on a line; equal tuning budgets" in text
    assert dataclasses.replace(result(), folder=tmp_path).report() == tmp_path / "report.html"


def test_learning_curves_are_median_and_range_over_seeds() -> None:
    chart = learning_curves(result())
    sgd = chart.curves[0]
    assert (sgd.name, list(sgd.x)) == ("SGD", [0, 10, 20])
    assert list(sgd.y) == pytest.approx([0.1, 0.4, 0.91])
    assert sgd.low is not None
    assert sgd.high is not None
    assert (sgd.low[-1], sgd.high[-1]) == (0.9, 0.92)
    assert [mark.value for mark in chart.marks] == [0.8]
    assert list(learning_curves(result(), over="seconds").curves[0].x) == pytest.approx([0.0, 0.11, 0.2])
    low, high = chart.y_window or (0, 0)
    assert low < 0.4 < 0.91 < high < 1.1  # the start, 0.1, is left outside


def test_seeds_that_ended_early_count_while_they_ran() -> None:
    outcomes = list(result().outcomes)
    index = next(i for i, o in enumerate(outcomes) if o.phase == "seed")
    outcomes[index] = dataclasses.replace(
        outcomes[index], steps=[0, 10], metric=[0.1, 0.2], status="diverged", final=None
    )
    sgd = next(c for c in learning_curves(result(outcomes=tuple(outcomes))).curves if c.name == "SGD")
    assert list(sgd.x) == [0, 10, 20]
    assert sgd.low is not None
    assert list(sgd.low) == [0.1, 0.2, 0.91]


def test_the_rates_chart_shows_every_trial_in_its_own_way() -> None:
    outcomes = list(result().outcomes)
    outcomes[0] = dataclasses.replace(outcomes[0], status="pruned", final=None)
    outcomes[2] = dataclasses.replace(outcomes[2], status="diverged", final=None)
    chart = rates(result(outcomes=tuple(outcomes)))
    styles = [(curve.name, curve.style) for curve in chart.curves]
    assert {("SGD", "hollow"), ("SGD", "crosses"), ("Lion", "line+points"), ("Lion", "star")} <= set(styles)
    lion = next(c for c in chart.curves if (c.name, c.style) == ("Lion", "line+points"))
    assert list(lion.x) == sorted(lion.x)
    assert list(lion.y) == [0.5, 0.6, 0.7]
    assert chart.log_x
    assert "Crosses" in chart.note


def test_only_planes_have_a_path() -> None:
    assert paths(result()) is None
    heights = Heights([0, 1], [0, 1], [[0, 1], [1, 2]], points=((0, 0),))
    outcomes = tuple(dataclasses.replace(o, path=[[0, 0], [1, 1], [2, 2]]) for o in result().outcomes)
    chart = paths(result(outcomes=outcomes, surface=heights))
    assert chart is not None
    assert [(curve.name, list(curve.x)) for curve in chart.curves] == [("SGD", [0, 1, 2]), ("Lion", [0, 1, 2])]
    assert any(
        isinstance(item, Chart) and item.heights
        for s in sections(result(outcomes=outcomes, surface=heights))
        for item in s.items
    )


def test_wide_positive_metrics_get_a_logarithmic_axis() -> None:
    facts = {**result().task, "direction": "min"}
    outcomes = tuple(dataclasses.replace(o, metric=[100.0, 1.0, 1e-3]) for o in result().outcomes)
    assert learning_curves(result(task=facts, outcomes=outcomes)).log_y
    assert not learning_curves(result(outcomes=outcomes)).log_y


def test_the_headline_names_the_best_where_it_is_known() -> None:
    sgd, lion = inside(*result().scores)
    said = headline(result(scores=(sgd, lion)))
    assert said == "SGD has the best median accuracy: 0.91 over 3 seeds; Lion follows with 0.61."
    assert headline(result(scores=())) == "No optimizer has finished a final run yet."


def test_the_headline_names_no_winner_while_a_rate_lies_at_an_edge_or_seeds_overlap() -> None:
    assert headline(result()) == (
        "No optimizer is tuned yet: SGD, whose best lr 0.00316 is the lowest tried and Lion, whose best lr 0.00316 is "
        "the highest tried."
    )
    sgd, lion = result().scores
    said = headline(result(scores=(*inside(sgd), lion)))
    assert said == (
        "SGD is at a median accuracy of 0.91 over 3 seeds. Not known yet: Lion, whose best lr 0.00316 is the highest "
        "tried."
    )
    close = inside(sgd, dataclasses.replace(lion, median=0.908, values=(0.9, 0.915)))
    third = dataclasses.replace(inside(lion)[0], optimizer="AdamW")
    assert headline(result(scores=(*close, third))) == (
        "SGD and Lion share the first place: their seeds overlap at accuracy 0.908 to 0.91; AdamW follows with 0.61."
    )
    assert "has the best" not in headline(result(scores=inside(sgd, lion), complete=False))


def test_the_training_loss_and_what_tuning_buys_are_drawn() -> None:
    chart = losses(result())
    assert [(curve.name, list(curve.x), list(curve.y)) for curve in chart.curves] == [
        ("SGD", [10, 20], [2.0, 1.0]),
        ("Lion", [10, 20], [2.0, 1.0]),
    ]
    bought = budget(result())
    assert [(curve.name, list(curve.x), list(curve.y)) for curve in bought.curves] == [
        ("SGD", [1, 2, 3], [0.9, 0.9, 0.9]),
        ("Lion", [1, 2, 3], [0.5, 0.6, 0.7]),
    ]


def test_the_notes_are_honest() -> None:
    found = {(finding.code, str(finding.place)): finding for finding in findings(result())}
    assert found["C04", "SGD"].seen == "its best lr 0.00316 is the lowest of those tried"
    assert found["C04", "Lion"].instead == (
        "the range widened within the budget of 3 trials: give more --trials, which reuses all that is there"
    )
    fixed = {finding.instead for finding in findings(result(plan=dataclasses.replace(PLAN, widen=False)))}
    assert "the range does not widen: leave out --no-widen, or give a wider range: --lr-range sgd=LOW:HIGH" in fixed
    assert "not reached by Lion" in found["C08", "this run"].seen
    assert len(found) == 3
    close = tuple(dataclasses.replace(s, values=(0.9, 0.91)) for s in result().scores)
    assert "C07" in {finding.code for finding in findings(result(scores=close))}
    lonely = dataclasses.replace(PLAN, seeds=1)
    doubled = tuple(with_gradients(o, 2 if o.optimizer == "SGD" else 1) for o in result().outcomes)
    (note,) = [one for one in findings(result(outcomes=doubled)) if one.code == "C09"]
    assert (str(note.place), note.seen) == ("SGD", "it takes 2 gradients per step")
    assert "C06" in {finding.code for finding in findings(result(plan=lonely))}


def test_the_settings_say_how_it_was_run() -> None:
    rows = {str(row[0]): str(row[1]) for row in settings_table(result()).rows}
    decay = "linear warmup over the first 5 % of the steps, then cosine decay to 0"
    assert rows["SGD"] == f"lr from 0.001 to 1; momentum=0.9; schedule: {decay}"
    assert rows["torch"] == "2.0"
    assert rows["command"] == "stepwell compare line"
    assert rows["run by"] == "1 worker process"
    assert rows["data"] == "made up"
    assert f"All share one schedule: {decay}. The metric" in method(result())


def test_a_schedule_of_its_own_is_said_by_name() -> None:
    own = dataclasses.replace(PLAN.contenders[0], name="ScheduleFreeSGD", schedule="warmup")
    mixed = result(plan=dataclasses.replace(PLAN, contenders=(own, PLAN.contenders[1])))
    assert (
        "run their own; ScheduleFreeSGD: linear warmup over the first 5 % of the steps, then constant. The"
        in method(mixed)
    )
