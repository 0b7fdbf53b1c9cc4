"""Scores from made-up outcomes: every figure of the table by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from tests.compare.playing import answered, play

from stepwell.compare.outcome import Outcome
from stepwell.compare.plan import Contender, Course, Plan, Trial, of_plan
from stepwell.compare.scores import Score, best_after, hit_target, quartiles, scores

PLAN = Plan("t", (Contender("SGD", 1e-3, 1.0), Contender("Lion", 1e-5, 1e-2)), trials=3, seeds=3, steps=20)
SEEDS = {"SGD": ([9, 1.0, 0.5], [9, 4.0, 1.0], [9, 4.0, 3.0]), "Lion": ([9, 5, 4.0], [9, 5, 5.0], None)}


def answer(trial: Trial) -> Outcome:
    if trial.phase == "tune":
        if trial.optimizer == "SGD":
            return answered(trial, (1.0, 2.0, 3.0)[trial.index], metric=[9, 5, (1.0, 2.0, 3.0)[trial.index]])
        if trial.index == 0:
            return answered(trial, 4.0, metric=[9, 5, 4.0])
        return answered(trial, None, metric=[9, 5] if trial.index == 1 else [9],
                        status="pruned" if trial.index == 1 else "diverged")  # fmt: skip
    metric = SEEDS[trial.optimizer][trial.index]
    if metric is None:
        return Outcome("Lion", "seed", 2, trial.lr, 3, "crashed", "it broke", id=trial.id)
    return answered(trial, metric[-1], metric=list(metric))


def whole() -> tuple[list[Course], list[Outcome]]:
    courses, done = play(PLAN, answer, "min")
    return courses, of_plan(courses, done)


def scored(direction: Any = "min", target: float | None = None) -> list[Score]:
    courses, outcomes = whole()
    return scores(PLAN, courses, outcomes, direction, target)


def test_a_score_by_hand() -> None:
    sgd, lion = scored(target=1.0)
    assert (sgd.optimizer, sgd.best_lr, sgd.edge) == ("SGD", 0.00316, "low")
    assert sgd.edges == {"lr": "low"}
    assert sgd.after == (1.0, 1.0, 1.0)
    assert (sgd.lower, sgd.median, sgd.upper) == (0.75, 1.0, 2.0)
    assert (sgd.seeds, sgd.seeds_finished, sgd.reached) == (3, 3, 2)
    assert (sgd.steps_to_target, sgd.seconds_to_target) == (20.0, 1.0)  # 10, 20 and never: the middle is 20
    assert sgd.step_ms == pytest.approx(50.0)
    assert sgd.bytes_per_parameter == 8.0
    assert (lion.trials, lion.finished, lion.pruned, lion.diverged, lion.crashed) == (3, 1, 1, 1, 0)
    assert (lion.seeds, lion.seeds_finished, lion.values) == (3, 2, (4.0, 5.0))
    assert (lion.reached, lion.steps_to_target) == (0, None)
    assert lion.bytes_per_parameter == 8.0  # from a trial that got so far


def test_more_is_better_turns_the_order_round() -> None:
    courses, outcomes = whole()
    assert [score.optimizer for score in scores(PLAN, courses, outcomes, "max", None)] == ["Lion", "SGD"]


def test_a_target_that_most_seeds_miss_has_no_median() -> None:
    (sgd, _) = scored(target=0.6)
    assert (sgd.reached, sgd.steps_to_target, sgd.seconds_to_target) == (1, None, None)


def test_there_is_no_best_rate_before_all_trials_are_done() -> None:
    courses, done = play(PLAN, answer, "min", most=2)
    (sgd, lion) = scores(PLAN, courses, of_plan(courses, done), "min", None)
    assert (sgd.best_lr, sgd.trials, sgd.edges, lion.best_lr) == (None, 2, {}, None)
    courses, done = play(PLAN, answer, "min", most=3)
    (sgd, _) = scores(PLAN, courses, of_plan(courses, done), "min", None)
    assert (sgd.best_lr, sgd.trials) == (0.00316, 3)


def test_what_tuning_buys_is_the_best_so_far() -> None:
    tune = [one for one in whole()[1] if one.phase == "tune" and one.optimizer == "SGD"]
    assert best_after(tune, "max") == (1.0, 2.0, 3.0)
    assert best_after([one for one in whole()[1] if one.optimizer == "Lion" and one.phase == "tune"][1:], "min") == (
        None,
        None,
    )


def test_an_optimizer_without_any_run_still_has_a_row() -> None:
    courses, outcomes = whole()
    last = scores(PLAN, courses, [one for one in outcomes if one.optimizer == "SGD"], "min", None)[-1]
    assert (last.optimizer, last.best_lr, last.median, last.seeds, last.bytes_per_parameter) == (
        "Lion",
        3.16e-05,
        None,
        0,
        None,
    )


def test_hitting_the_target_is_the_first_time() -> None:
    run = answered(Trial("SGD", "seed", 0, 0.1, 1), 9.0, metric=[9.0, 1.0, 9.0])
    assert hit_target(run, "min", 1.0) == (10.0, 0.5, None)
    assert hit_target(run, "max", 9.0) == (0.0, 0.0, None)
    counted = dataclasses.replace(run, gradients=[0, 20, 41])
    assert hit_target(counted, "min", 1.0) == (10.0, 0.5, 20.0)
    assert hit_target(run, "min", 0.5) is None
    assert hit_target(run, "min", None) is None


def test_quartiles_of_one_value_are_that_value() -> None:
    assert quartiles([2.0]) == (2.0, 2.0, 2.0)
    assert quartiles([1.0, 2.0]) == (1.25, 1.5, 1.75)
