"""The plan: budgets, learning rates, the order of starting, and what tells two plans apart."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.compare.plan import (
    ROUND,
    Contender,
    Plan,
    Trial,
    difference,
    learning_rates,
    rivals,
    schedule_of,
    seed_trials,
    startable,
    tuning_trials,
)

PLAN = Plan("t", (Contender("SGD", 1e-3, 1.0), Contender("Lion", 1e-5, 1e-2)), trials=6, seeds=3, steps=10)


@given(st.integers(1, 40), st.floats(1e-6, 1e-2), st.floats(2.0, 1e6))
def test_rates_lie_one_in_each_equal_slice(count: int, low: float, ratio: float) -> None:
    rates = learning_rates(low, low * ratio, count)
    places = sorted(math.log(rate / low) / math.log(ratio) * count for rate in rates)
    assert len(rates) == count
    # three digits of the rate move it by at most 0.5 %, which is 0.005 / log(ratio) of the range
    assert places == pytest.approx([i + 0.5 for i in range(count)], abs=0.006 * count / math.log(ratio))


@pytest.mark.parametrize("count", [4, 6, 8, 16])
def test_already_the_first_rates_are_spread_over_the_range(count: int) -> None:
    first = [math.log10(rate) / 4 + 1 for rate in learning_rates(1e-4, 1.0, count)[:4]]  # 0 .. 1
    assert min(first) < 0.25
    assert max(first) > 0.6
    assert all(abs(one - other) > 0.1 for one in first for other in first if one != other)


def test_every_optimizer_has_the_same_budget() -> None:
    tune = tuning_trials(PLAN)
    for contender in PLAN.contenders:
        mine = [trial for trial in tune if trial.optimizer == contender.name]
        assert len(mine) == PLAN.trials
        assert sorted(trial.index for trial in mine) == list(range(PLAN.trials))
        assert {trial.seed for trial in mine} == {0}
        assert all(contender.low < trial.lr < contender.high for trial in mine)
        final = seed_trials(PLAN, contender.name, 0.1)
        assert [trial.seed for trial in final] == [1, 2, 3]  # never the seed that chose the rate
        assert {trial.lr for trial in final} == {0.1}


def test_a_trial_waits_for_the_whole_round_before_it() -> None:
    late = next(trial for trial in tuning_trials(PLAN) if trial.index == ROUND)
    earlier = [f"{late.optimizer}/tune/{index}" for index in range(ROUND)]
    assert rivals(late, set(earlier)) == earlier
    assert rivals(late, set(earlier[1:])) is None
    assert rivals(Trial("SGD", "tune", ROUND - 1, 0.1, 0), set()) == []
    assert rivals(Trial("SGD", "seed", 2, 0.1, 3), set()) == []


def test_what_may_start_is_what_is_not_done_not_running_and_not_waiting() -> None:
    start = startable(PLAN, {}, done=(), running=())
    assert [trial.key for trial in start] == [f"{o}/tune/{i}" for o in ("SGD", "Lion") for i in range(ROUND)]
    done = {f"SGD/tune/{index}" for index in range(6)}
    then = startable(PLAN, {"SGD": 0.1}, done, running={"Lion/tune/0", "SGD/seed/1"})
    assert [trial.key for trial in then] == ["Lion/tune/1", "Lion/tune/2", "Lion/tune/3", "SGD/seed/0", "SGD/seed/2"]
    assert startable(PLAN, {"SGD": None}, done | {f"Lion/tune/{i}" for i in range(6)}, ()) == []


def test_the_first_differing_setting_is_named() -> None:
    old = {"task": "digits", "SGD": {"low": 1, "options": {"momentum": 0.9}}, "steps": 3}
    assert difference(old, old) is None
    assert difference(old, {**old, "steps": 4}) == ("steps", 3, 4)
    assert difference(old, {**old, "SGD": {"low": 1, "options": {"momentum": 0.5}}}) == (
        "SGD.options.momentum",
        0.9,
        0.5,
    )
    assert difference(old, {**old, "Lion": {}}) == ("Lion", None, {})


@given(st.integers(1, 500))
def test_the_schedule_rises_then_falls_and_wastes_no_step(steps: int) -> None:
    factors = schedule_of("decay", steps).values(steps)
    top = factors.index(max(factors))
    assert all(0 < f <= 1 for f in factors)
    assert max(factors) == pytest.approx(1.0)
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)
    if steps > 100:
        assert factors[-1] < 0.001
    assert schedule_of("warmup", steps).values(steps) == factors[: top + 1] + [1.0] * (steps - top - 1)
    assert set(schedule_of("constant", steps).values(steps)) == {1.0}


@pytest.mark.parametrize(("steps", "rise"), [(1, 1), (2, 1), (9, 1), (10, 1), (30, 2), (50, 3), (90, 5), (180, 9)])
def test_the_warmup_is_5_percent_rounded_as_schedules_round_and_one_step_at_least(steps: int, rise: int) -> None:
    for name in ("decay", "warmup"):
        factors = schedule_of(name, steps).values(steps)
        assert factors[:rise] == [(step + 1) / rise for step in range(rise)]
        assert factors.index(1.0) == rise - 1


def test_the_decay_is_half_a_cosine_from_the_warmup_on() -> None:
    expected = [0.5 * (1 + math.cos(math.pi * step / 171)) for step in range(171)]
    assert schedule_of("decay", 180).values(180)[9:] == expected
