"""Scores from made-up outcomes: every figure of the table by hand."""

from __future__ import annotations

from typing import Any

import pytest

from stepwell.compare.outcome import Outcome
from stepwell.compare.plan import Contender, Plan, learning_rates
from stepwell.compare.scores import best_rate, hit_target, quartiles, scores, tuned

PLAN = Plan("t", (Contender("SGD", 1e-3, 1.0), Contender("Lion", 1e-5, 1e-2)), trials=3, seeds=3, steps=20)
RATES = {c.name: learning_rates(c.low, c.high, 3) for c in PLAN.contenders}


def outcome(optimizer: str, phase: Any, index: int, metric: list[float], status: Any = "finished") -> Outcome:
    lr = RATES[optimizer][index] if phase == "tune" else RATES[optimizer][0]
    steps = [10 * i for i in range(len(metric))]
    return Outcome(
        optimizer, phase, index, lr, 0, status, steps=steps, metric=metric, loss=[None] * len(metric),
        seconds=[0.5 * i for i in range(len(metric))], final=metric[-1] if status == "finished" else None,
        state_bytes=80, parameters=10,
    )  # fmt: skip


def whole() -> list[Outcome]:
    return [
        *(outcome("SGD", "tune", i, [9, 5, final]) for i, final in enumerate((1.0, 2.0, 3.0))),
        *(
            outcome("SGD", "seed", i, [9, mid, final])
            for i, (mid, final) in enumerate(((1.0, 0.5), (4.0, 1.0), (4.0, 3.0)))
        ),
        outcome("Lion", "tune", 0, [9, 5, 4.0]),
        outcome("Lion", "tune", 1, [9, 5], "pruned"),
        outcome("Lion", "tune", 2, [9], "diverged"),
        *(outcome("Lion", "seed", i, [9, 5, 4.0 + i]) for i in range(2)),
        Outcome("Lion", "seed", 2, RATES["Lion"][0], 3, "crashed", "it broke"),
    ]


def test_a_score_by_hand() -> None:
    sgd, lion = scores(PLAN, whole(), "min", target=1.0)
    assert (sgd.optimizer, sgd.best_lr, sgd.edge) == ("SGD", RATES["SGD"][0], "low")
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
    assert [score.optimizer for score in scores(PLAN, whole(), "max", None)] == ["Lion", "SGD"]
    assert best_rate(whole()[:3], "max") == RATES["SGD"][2]


def test_a_target_that_most_seeds_miss_has_no_median() -> None:
    (sgd, _) = scores(PLAN, whole(), "min", target=0.6)
    assert (sgd.reached, sgd.steps_to_target, sgd.seconds_to_target) == (1, None, None)


def test_of_equal_rates_the_middle_one_is_taken() -> None:
    equal = [outcome("SGD", "tune", i, [0.9]) for i in range(3)]
    assert best_rate(equal, "max") == sorted(RATES["SGD"])[1]


def test_pruned_and_diverged_trials_are_never_the_best() -> None:
    only = [outcome("SGD", "tune", 0, [0.0], "pruned"), outcome("SGD", "tune", 1, [0.1], "diverged")]
    assert best_rate(only, "min") is None


def test_there_is_no_best_rate_before_all_trials_are_done() -> None:
    assert tuned(PLAN, whole()[:2], "min") == {}
    assert tuned(PLAN, whole()[:3], "min") == {"SGD": RATES["SGD"][0]}


def test_an_optimizer_without_any_run_still_has_a_row() -> None:
    last = scores(PLAN, whole()[:6], "min", None)[-1]
    assert (last.optimizer, last.best_lr, last.median, last.seeds, last.bytes_per_parameter) == (
        "Lion",
        None,
        None,
        0,
        None,
    )


def test_hitting_the_target_is_the_first_time() -> None:
    run = outcome("SGD", "seed", 0, [9.0, 1.0, 9.0])
    assert hit_target(run, "min", 1.0) == (10.0, 0.5)
    assert hit_target(run, "max", 9.0) == (0.0, 0.0)
    assert hit_target(run, "min", 0.5) is None
    assert hit_target(run, "min", None) is None


def test_quartiles_of_one_value_are_that_value() -> None:
    assert quartiles([2.0]) == (2.0, 2.0, 2.0)
    assert quartiles([1.0, 2.0]) == (1.25, 1.5, 1.75)
