"""The plan: equal budgets, trials that follow from outcomes alone, and what is the same trial."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.compare.playing import answered, play

from stepwell.compare.outcome import Outcome
from stepwell.compare.plan import Contender, Plan, Trial, course, difference, of_plan, schedule_of, startable

PLAN = Plan("t", (Contender("SGD", 1e-3, 1.0), Contender("Lion", 1e-5, 1e-2)), trials=8, seeds=3, steps=10)


def bell(trial: Trial) -> Outcome:
    """Best at 0.1 for SGD, at 1e-3 for Lion."""
    off = math.log10(trial.lr / (0.1 if trial.optimizer.startswith("SGD") else 1e-3))
    return answered(trial, None if off > 2 else 1.0 - 0.2 * off**2 - 0.001 * trial.seed)


def test_every_optimizer_has_the_same_budget() -> None:
    courses, done = play(PLAN, bell)
    for contender, one in zip(PLAN.contenders, courses, strict=True):
        tune = [trial for trial in one.trials if trial.phase == "tune"]
        assert len(tune) == PLAN.trials
        assert [trial.index for trial in tune] == list(range(PLAN.trials))
        assert {trial.seed for trial in tune} == {0}
        seeds = [trial for trial in one.trials if trial.phase == "seed"]
        assert [trial.seed for trial in seeds] == [1, 2, 3]  # never the seed that chose the rate
        assert {trial.lr for trial in seeds} == {one.lr}
        assert one.lr == pytest.approx(0.1 if contender.name == "SGD" else 1e-3, rel=0.3)
    assert len(done) == PLAN.planned


@pytest.mark.parametrize("tune", [("lr",), ("lr", "betas", "decay", "warmup")])
def test_neither_workers_nor_their_order_change_a_result(tune: tuple[str, ...]) -> None:
    plan = dataclasses.replace(
        PLAN, trials=5, contenders=tuple(dataclasses.replace(one, tune=tune) for one in PLAN.contenders)
    )
    straight, done = play(plan, bell)
    for at_once in (2, 5, 100):
        for seed in range(3):
            courses, other = play(plan, bell, at_once=at_once, seed=seed)
            assert courses == straight
            assert of_plan(courses, other) == of_plan(straight, done)


def test_a_plan_grows_and_runs_nothing_twice() -> None:
    _, done = play(PLAN, bell)
    ran: list[str] = []

    def noted(trial: Trial) -> Outcome:
        ran.append(trial.key)
        return bell(trial)

    more = dataclasses.replace(PLAN, seeds=5)
    play(more, noted, done=done)
    assert ran == ["SGD/seed/3", "SGD/seed/4", "Lion/seed/3", "Lion/seed/4"]
    ran.clear()
    third = Contender("AdamW", 1e-4, 1e-1)
    play(dataclasses.replace(PLAN, contenders=(*PLAN.contenders, third)), noted, done=done)
    assert len(ran) == PLAN.trials + PLAN.seeds
    assert all(key.startswith("AdamW/") for key in ran)
    ran.clear()
    play(dataclasses.replace(PLAN, trials=12), noted, done=done)
    assert sum("/tune/" in key for key in ran) == 2 * 4  # the first eight of each are there
    same = dataclasses.replace(PLAN.contenders[0], name="SGD[momentum=0.9]", options={"momentum": 0.9})
    ran.clear()
    play(dataclasses.replace(PLAN, contenders=(PLAN.contenders[0], same)), noted, done=done)
    assert len(ran) == PLAN.trials + PLAN.seeds  # other settings are other trials


def test_a_trial_waits_for_the_whole_round_before_it() -> None:
    start = startable(PLAN, [course(PLAN, one, {}, "max") for one in PLAN.contenders], (), ())
    assert [trial.key for trial in start] == [f"{name}/tune/{i}" for name in ("SGD", "Lion") for i in range(4)]
    done = {trial.id: bell(trial) for trial in start[1:]}
    courses = [course(PLAN, one, done, "max") for one in PLAN.contenders]
    assert [trial.key for trial in startable(PLAN, courses, done, ())] == ["SGD/tune/0", "Lion/tune/4", "Lion/tune/5"]
    assert startable(PLAN, courses, done, {start[0].id})[0].key == "Lion/tune/4"
    late = courses[1].trials[4]
    assert courses[1].rivals(late) == [trial.id for trial in courses[1].trials[:4]]
    assert courses[1].rivals(courses[1].trials[3]) == []
    assert courses[1].rivals(Trial("Lion", "seed", 0, 0.1, 1)) == []


def test_without_a_rate_that_finishes_there_are_no_seeds() -> None:
    courses, done = play(PLAN, lambda trial: answered(trial, None))
    assert all(one.tuned and one.lr is None for one in courses)
    assert len(done) == 2 * PLAN.trials


def test_more_than_the_rate_is_tuned_one_after_the_other() -> None:
    contender = Contender("AdamW", 1e-4, 1e-1, tune=("lr", "betas", "decay", "warmup"))
    plan = Plan("t", (contender,), trials=8, seeds=2, steps=100)

    def answer(trial: Trial) -> Outcome:
        off = math.log10(trial.lr / 0.01) ** 2
        off += math.log10((1 - trial.settings.get("beta1", 0.9)) / 0.02) ** 2
        off += math.log10(trial.settings.get("weight_decay", 0.01) / 0.3) ** 2 / 4
        off += math.log10(trial.settings.get("warmup", 0.05) / 0.2) ** 2 / 4
        return answered(trial, 1.0 - off / 10)

    (one,), done = play(plan, answer)
    assert [stage.axis.name for stage in one.stages] == ["lr", "beta1", "weight_decay", "warmup"]
    assert all(len(stage.tried) == 8 for stage in one.stages)
    assert one.lr == pytest.approx(0.01, rel=0.5)
    assert 1 - one.settings["beta1"] == pytest.approx(0.02, rel=0.5)
    assert abs(math.log10(one.settings["weight_decay"] / 0.3)) < 0.5
    assert one.settings["warmup"] == pytest.approx(0.2, rel=0.5)
    assert len(done) == 4 * 8 + 2
    assert all(trial.settings == one.settings for trial in one.trials if trial.phase == "seed")


def test_what_an_optimizer_does_not_have_is_its_rate_once_more() -> None:
    contender = Contender("Rprop", 1e-4, 1e-1, schedule="constant", tune=("lr", "betas", "decay"))
    (one,), done = play(Plan("t", (contender,), 6, 1, 10), bell)
    assert [stage.axis.name for stage in one.stages] == ["lr", "lr", "lr"]
    assert len({trial.lr for trial in one.trials if trial.phase == "tune"}) == 18
    assert len(done) == 19


@pytest.mark.parametrize(
    "changed",
    [{"steps": 11}, {"task": "u"}, {"task_digest": "x"}, {"device": "cuda"}],
)
def test_another_task_or_length_is_another_trial(changed: dict[str, Any]) -> None:
    one = course(PLAN, PLAN.contenders[0], {}, "max").trials[0]
    other = course(dataclasses.replace(PLAN, **changed), PLAN.contenders[0], {}, "max").trials[0]
    assert (one.lr, one.key) == (other.lr, other.key)
    assert one.id != other.id


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


def test_a_schedule_of_ones_own_and_a_warmup_that_is_tuned() -> None:
    assert schedule_of("warmup(0.5).then(linear())", 4).values(4) == schedule_of("warmup(2).then(linear(2))", 4).values(
        4
    )
    assert schedule_of("warmup", 10, rise=0.4).values(10)[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
