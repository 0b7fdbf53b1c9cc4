"""One trial: repeatable, fair between optimizers, and every end it can come to."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from stepwell import tasks
from stepwell.compare.outcome import Outcome
from stepwell.compare.plan import Contender, Trial
from stepwell.compare.pruning import FEWEST, Judge
from stepwell.compare.trial import evaluated_steps, run_trial, to_device
from stepwell.errors import UsageError
from stepwell.tasks import Metric

SGD = Contender("SGD", 1e-4, 1e-2, {"momentum": 0.9})
LION = Contender("Lion", 1e-4, 1e-2)


def timeless(outcome: Outcome) -> Outcome:
    return dataclasses.replace(outcome, seconds=[])


def tuning(lr: float, seed: int = 0, optimizer: str = "SGD") -> Trial:
    return Trial(optimizer, "tune", 0, lr, seed)


def test_a_trial_repeats_bit_for_bit_and_a_seed_changes_it() -> None:
    task = tasks.find("ravine")
    one, two = (run_trial(task, SGD, tuning(1e-3), 60) for _ in range(2))
    assert one.status == "finished"
    assert timeless(one) == timeless(two)
    assert run_trial(task, SGD, tuning(1e-3, seed=1), 60).metric != one.metric


def test_two_optimizers_start_from_the_same_place_and_see_the_same_batches() -> None:
    seen: dict[str, list[Any]] = {"SGD": [], "Lion": []}
    task = tasks.find("ravine")
    for contender in (SGD, LION):

        def batches(seed: int, name: str = contender.name) -> Iterator[torch.Tensor]:
            for batch in task.batches(seed):
                seen[name].append(batch)
                yield batch

        watched = dataclasses.replace(task, batches=batches)
        outcome = run_trial(watched, contender, tuning(1e-3, 5, contender.name), 10)
        seen[contender.name].append(torch.tensor(outcome.path[0]))
    assert len(seen["SGD"]) == len(seen["Lion"]) > 10
    assert all(torch.equal(one, other) for one, other in zip(seen["SGD"], seen["Lion"], strict=True))


def test_what_is_written_down() -> None:
    task = tasks.find("ravine")
    told: list[int] = []
    outcome = run_trial(task, SGD, tuning(1e-3), 100, progress=told.append)
    assert outcome.steps == [0, *evaluated_steps(100, task.evaluations)]
    assert told == outcome.steps[1:]
    assert len(outcome.metric) == len(outcome.loss) == len(outcome.seconds) == len(outcome.path) == len(outcome.steps)
    assert outcome.loss[0] is None
    assert outcome.final == outcome.metric[-1] < outcome.metric[0]
    assert outcome.seconds == sorted(outcome.seconds)
    assert (outcome.parameters, outcome.state_bytes) == (2, 8)  # one fp32 momentum per parameter
    assert Outcome.from_json(outcome.to_json()) == outcome


def test_the_learning_rate_follows_the_schedule_to_zero() -> None:
    task = tasks.find("ravine")
    outcome = run_trial(dataclasses.replace(task, evaluations=100), LION, tuning(1e-2, optimizer="Lion"), 100)
    moves = [math.dist(a, b) for a, b in zip(outcome.path, outcome.path[1:], strict=False)]
    # Lion moves each coordinate by exactly the rate: the path is the schedule, times sqrt(2)
    assert moves[4] == pytest.approx(1e-2 * math.sqrt(2), rel=1e-3)
    assert moves[0] == pytest.approx(1e-2 * math.sqrt(2) / 5, rel=1e-3)
    assert moves[-1] < 1e-5


@pytest.mark.parametrize("options", [{}, {"base": "sophia"}])
def test_sophia_has_its_estimates(options: dict[str, Any]) -> None:
    """Without any it warns that it is Signum, which is an error here."""
    name = "Lookahead" if options else "Sophia"
    task = tasks.find("ravine")
    outcome = run_trial(task, Contender(name, 1e-3, 1.0, options), tuning(0.05, optimizer=name), 130)
    assert outcome.status == "finished", outcome.error
    assert outcome.evaluations == 130
    assert outcome.final is not None
    assert outcome.final < 0.5 * outcome.metric[0]


def test_an_optimizer_without_a_decay_keeps_its_rate() -> None:
    task = dataclasses.replace(tasks.find("ravine"), evaluations=100)
    kept = dataclasses.replace(LION, schedule="constant")
    path = run_trial(task, kept, tuning(1e-3, optimizer="Lion"), 100).path
    moves = [math.dist(a, b) for a, b in itertools.pairwise(path)]
    assert moves[0] == moves[-1] == pytest.approx(1e-3 * math.sqrt(2), rel=1e-3)


@pytest.mark.parametrize(
    ("name", "options", "lr", "per_step"),
    [
        ("SAM", {"base": "sgd", "momentum": 0.9, "rho": 0.01}, 1e-3, 2.0),
        ("ASAM", {"base": "adamw"}, 1e-2, 2.0),
        ("Lookahead", {"base": "sgd", "momentum": 0.9}, 1e-3, 1.0),
        ("LBFGS", {"line_search_fn": "strong_wolfe"}, 0.5, None),
    ],
)
def test_optimizers_that_evaluate_the_loss_or_wrap_another(
    name: str, options: dict[str, Any], lr: float, per_step: float | None
) -> None:
    task = tasks.find("ravine")
    outcome = run_trial(task, Contender(name, lr / 10, lr * 10, options), tuning(lr, optimizer=name), 60)
    assert outcome.status == "finished"
    assert outcome.final is not None
    assert outcome.final < 0.5 * outcome.metric[0]
    if per_step is None:
        assert outcome.evaluations > 60
    else:
        assert outcome.evaluations == 60 * per_step
    assert outcome.state_bytes == {"SAM": 8, "ASAM": 16, "Lookahead": 16}.get(name, outcome.state_bytes)
    assert Outcome.from_json(outcome.to_json()) == outcome


def test_the_metric_is_that_of_the_slow_weights() -> None:
    task = tasks.find("ravine")
    assert task.surface is not None
    for k, slow in ((7, True), (1, False)):
        inside = Contender("Lookahead", 1e-4, 1e-2, {"base": "sgd", "momentum": 0.9, "k": k})
        outcome = run_trial(task, inside, tuning(1e-3, optimizer="Lookahead"), 40)
        heights = [task.surface.height(*(torch.tensor(x) for x in place)).item() for place in outcome.path]
        differs = [abs(a - b) > 1e-6 * abs(b) for a, b in zip(outcome.metric, heights, strict=True)]
        assert any(differs) == slow


def test_sam_takes_statistics_from_the_first_evaluation_only() -> None:
    seen: list[int] = []
    task = tasks.find("ravine")

    class Normed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.body(x)

    def metric(model: Any) -> float:
        seen.append(int(model.body[1].num_batches_tracked))
        return 0.0

    normed = dataclasses.replace(
        task,
        model=lambda seed: Normed(),
        batches=lambda seed: [torch.randn(8, 2) for _ in range(5)],
        loss=lambda model, batch: model(batch).pow(2).mean(),
        metric=Metric("count", "min", metric),
        surface=None,
    )
    run_trial(normed, Contender("SAM", 1e-3, 1.0, {"base": "sgd"}), tuning(1e-2, optimizer="SAM"), 10)
    assert seen[-1] == 10


def test_divergence_ends_the_trial_and_keeps_what_was_finite() -> None:
    outcome = run_trial(tasks.find("ravine"), SGD, tuning(1.0), 500)
    assert (outcome.status, outcome.final) == ("diverged", None)
    assert "not finite by step" in outcome.error
    assert outcome.steps[0] == 0
    assert all(math.isfinite(value) for value in outcome.metric)
    assert len(outcome.steps) < 51


def test_a_metric_that_is_not_finite_is_divergence() -> None:
    task = tasks.find("ravine")
    blind = dataclasses.replace(task, metric=Metric("m", "min", lambda model: math.nan))
    assert run_trial(blind, SGD, tuning(1e-3), 10).status == "diverged"


def test_an_exception_in_the_task_is_an_outcome() -> None:
    calls = []

    def loss(model: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) > 30:
            raise RuntimeError("long story\nthe disk is full")
        return tasks.find("ravine").loss(model, batch)

    outcome = run_trial(dataclasses.replace(tasks.find("ravine"), loss=loss), SGD, tuning(1e-3), 100)
    assert (outcome.status, outcome.error) == ("crashed", "RuntimeError: the disk is full")
    assert outcome.steps[-1] == 28  # evaluated every second step; the first call warmed up


def test_an_option_that_the_optimizer_refuses_is_the_users_error() -> None:
    wrong = Contender("SGD", 1e-4, 1e-2, {"nesterov": True})
    with pytest.raises(UsageError, match="nesterov"):
        run_trial(tasks.find("ravine"), wrong, tuning(1e-3), 10)


def line(values: dict[str, list[float]]) -> Callable[[str], Outcome]:
    def made(name: str) -> Outcome:
        curve = values[name]
        steps = [10 * i for i in range(len(curve))]
        return Outcome("SGD", "tune", 0, 0.1, 0, "finished", "", steps, curve, [None] * len(curve), [0.0] * len(curve))

    return made


EARLIER = [[9.0, 8.0, 6.0, 4.0, 2.0], [9.0, 8.0, 5.0, 3.0, 1.0], [9.0, 7.0, 4.0, 2.0, 0.5], [9.0, 9.0, 9.0, 9.0, 9.0]]


def judged(curve: list[float], earlier: list[list[float]], direction: Any = "min") -> int | None:
    """The step at which a run with this curve is cut, or None."""
    make = line({str(i): values for i, values in enumerate(earlier)})
    judge = Judge([make(str(i)) for i in range(len(earlier))], direction, steps=40)
    for i, value in enumerate(curve):
        if i and judge.hopeless(10 * i, value):
            return 10 * i
    return None


def test_a_hopeless_trial_is_cut_in_the_middle_and_not_before() -> None:
    assert judged([9.0, 9.5, 9.5, 9.5, 9.5], EARLIER) == 20
    assert judged([-9.0, -9.5, -9.5, -9.5, -9.5], [[-v for v in c] for c in EARLIER], "max") == 20


def test_a_slow_start_that_is_not_the_worst_is_kept() -> None:
    assert judged([9.0, 8.9, 6.0, 1.0, 0.1], EARLIER) is None


def test_the_last_step_and_few_rivals_cut_nobody() -> None:
    assert judged([9.0, 1.0, 1.0, 1.0, 99.0], EARLIER) is None
    assert judged([9.0, 99.0, 99.0, 99.0, 99.0], EARLIER[: FEWEST - 1]) is None


def test_rivals_that_diverged_do_not_count() -> None:
    make = line({"bad": [9.0, 99.0, 99.0, 99.0]})
    gone = [dataclasses.replace(make("bad"), status="diverged") for _ in range(5)]
    judge = Judge(gone, "min", 40)
    assert not judge.hopeless(20, 1e9)


def test_pruning_never_cuts_the_eventual_best() -> None:
    """With and without pruning, the rates of a smooth task give the same best one."""
    task = tasks.find("ravine")
    rates = [1e-5, 1e-4, 1e-3, 3e-5, 3e-4, 1.7e-3]
    free = [run_trial(task, SGD, tuning(lr), 200) for lr in rates]
    cut = free[:4] + [run_trial(task, SGD, tuning(lr), 200, rivals=free[:4]) for lr in rates[4:]]
    hopeless = run_trial(task, SGD, tuning(2e-6), 200, rivals=free[:4])
    finals = {o.lr: o.final for o in free}
    best = min(rates, key=lambda lr: finals[lr] if finals[lr] is not None else math.inf)
    assert best in {o.lr for o in cut if o.status == "finished"}
    assert hopeless.status == "pruned"
    assert hopeless.steps[-1] == 100


def test_evaluations_are_spread_and_end_at_the_last_step() -> None:
    assert evaluated_steps(3, 20) == [1, 2, 3]
    assert evaluated_steps(100, 4) == [25, 50, 75, 100]
    assert evaluated_steps(7, 3) == [2, 4, 7]


def test_batches_of_any_shape_go_to_the_device() -> None:
    tensor = torch.zeros(2)
    moved = to_device({"a": [tensor, (tensor, "text")], "b": 3}, "meta")
    assert moved["a"][0].device.type == moved["a"][1][0].device.type == "meta"
    assert moved["a"][1][1] == "text"
    assert moved["b"] == 3
