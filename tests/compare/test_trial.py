"""One trial: repeatable, fair between optimizers, and every end it can come to."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from stepwell import tasks
from stepwell.compare.outcome import Outcome
from stepwell.compare.plan import Contender, Trial
from stepwell.compare.pruning import FEWEST, Judge
from stepwell.compare.training import check_takes, to_device
from stepwell.compare.trial import evaluated_steps, run_trial
from stepwell.errors import UsageError
from stepwell.optimizers import find
from stepwell.step import Step
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
    assert outcome.gradients[-1] == 130 + 13  # and an estimate at every tenth update
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
        assert outcome.gradients[-1] > 60
    else:
        assert outcome.gradients[-1] == 60 * per_step
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


# What a Step does otherwise than a bare optimizer ends a trial as it always did


def changed(**parts: Any) -> Any:
    return dataclasses.replace(tasks.find("ravine"), **parts)


def from_call(number: int, then: Callable[[torch.Tensor], Any]) -> Callable[[Any, Any], Any]:
    """The loss of the ravine; from evaluation `number` on (the first warmed up) what `then` makes of it."""
    calls: list[int] = []

    def loss(model: torch.nn.Module, batch: torch.Tensor) -> Any:
        calls.append(1)
        plain = tasks.find("ravine").loss(model, batch)
        return plain if len(calls) <= number else then(plain)

    return loss


class _BrokenGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        return grads[0] * math.nan


EVERY_PATH = [
    Contender("SGD", 1e-4, 1e-2, {"momentum": 0.9}),
    Contender("Sophia", 1e-3, 1.0),
    Contender("SAM", 1e-4, 1e-2, {"base": "sgd"}),
    Contender("LBFGS", 1e-2, 1.0, {"line_search_fn": "strong_wolfe"}, "constant"),
    Contender("Lookahead", 1e-4, 1e-2, {"base": "sgd"}),
]


@pytest.mark.parametrize("contender", EVERY_PATH, ids=lambda one: one.name)
def test_a_loss_that_becomes_nan_is_divergence_and_not_a_run_of_skipped_updates(contender: Contender) -> None:
    task = changed(loss=from_call(15, lambda loss: loss * math.nan))
    outcome = run_trial(task, contender, tuning(1e-3, optimizer=contender.name), 100)  # more than a Step warns of
    assert (outcome.status, outcome.final) == ("diverged", None)
    assert "loss or metric not finite by step" in outcome.error
    assert outcome.steps[-1] <= 14


@pytest.mark.parametrize("contender", EVERY_PATH, ids=lambda one: one.name)
def test_a_gradient_that_is_not_finite_is_divergence_though_the_step_kept_the_weights(contender: Contender) -> None:
    task = changed(loss=from_call(15, _BrokenGradient.apply))
    outcome = run_trial(task, contender, tuning(1e-3, optimizer=contender.name), 100)
    assert outcome.status == "diverged", outcome
    assert outcome.error.startswith("a gradient not finite by step")
    assert outcome.steps[-1] <= 14


@pytest.mark.parametrize(
    ("then", "said"),
    [
        (lambda loss: loss.detach(), "loss has no graph"),
        (lambda loss: loss.item(), "loss is a float"),
        (lambda loss: torch.stack([loss, loss]), r"loss has shape \(2,\)"),
        (lambda loss: torch.ones((), requires_grad=True) * 1.0, "no parameter of the optimizer has a gradient"),
    ],
)
@pytest.mark.parametrize("contender", EVERY_PATH[::2], ids=lambda one: one.name)
def test_a_loss_that_a_step_refuses_crashes_its_trial_and_no_other(contender: Contender, then: Any, said: str) -> None:
    outcome = run_trial(changed(loss=from_call(15, then)), contender, tuning(1e-3, optimizer=contender.name), 100)
    assert outcome.status == "crashed"
    assert outcome.error.startswith("UsageError: Step: ")
    assert re.search(said, outcome.error)
    assert 0 < outcome.steps[-1] <= 14


def test_a_model_that_is_frozen_in_one_seed_crashes_its_trials_alone() -> None:
    def frozen(seed: int) -> torch.nn.Module:
        return tasks.find("ravine").model(seed).requires_grad_(seed != 2)

    task = changed(model=frozen, surface=None)
    assert run_trial(task, SGD, tuning(1e-3, seed=1), 10).status == "finished"
    outcome = run_trial(task, SGD, tuning(1e-3, seed=2), 10)
    assert outcome.status == "crashed"
    assert "frozen" in outcome.error


class Two(torch.nn.Module):
    """A frozen part, a trained one and one that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.trained, self.unused = (torch.nn.Linear(2, 2) for _ in range(3))
        self.frozen.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.trained(self.frozen(x))


@pytest.mark.parametrize("contender", EVERY_PATH, ids=lambda one: one.name)
def test_a_frozen_part_stays_and_the_rest_is_trained(contender: Contender) -> None:
    models: list[Two] = []

    def build(seed: int) -> Two:
        models.append(Two())
        return models[-1]

    task = changed(
        model=build,
        batches=lambda seed: [torch.ones(3, 2)],
        loss=lambda model, batch: model(batch).pow(2).mean(),
        metric=Metric("size", "min", lambda model: model(torch.ones(3, 2)).pow(2).mean().item()),
        surface=None,
    )
    outcome = run_trial(task, contender, tuning(1e-2, optimizer=contender.name), 20)
    assert outcome.status == "finished", outcome.error
    assert outcome.final is not None
    assert outcome.final < outcome.metric[0]
    assert outcome.parameters == 12
    torch.manual_seed(0)
    fresh = Two()
    assert torch.equal(models[-1].frozen.weight, fresh.frozen.weight)
    assert torch.equal(models[-1].unused.weight, fresh.unused.weight)


@pytest.mark.parametrize("contender", EVERY_PATH, ids=lambda one: one.name)
def test_a_loss_of_one_element_in_float64_is_taken_as_it_is(contender: Contender) -> None:
    ravine = tasks.find("ravine")
    double = changed(
        model=lambda seed: ravine.model(seed).double(),
        loss=lambda model, batch: ravine.loss(model, batch.double()).reshape(1),
        evaluations=20,
    )
    outcome = run_trial(double, contender, tuning(1e-3, optimizer=contender.name), 20)
    assert outcome.status == "finished", outcome.error
    losses = [loss for loss in outcome.loss if loss is not None]
    assert all(torch.tensor(loss, dtype=torch.float32).item() != loss for loss in losses)  # not rounded on the way


@pytest.mark.parametrize("contender", EVERY_PATH, ids=lambda one: one.name)
def test_what_a_task_or_an_optimizer_refuses_in_training_is_the_users_error(
    contender: Contender, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise UsageError("the data set is not there: install it")

    with pytest.raises(UsageError, match="the data set is not there"):
        run_trial(changed(loss=from_call(15, refuse)), contender, tuning(1e-3, optimizer=contender.name), 100)
    monkeypatch.setattr(find(contender.options.get("base", contender.name)), "step", refuse)
    monkeypatch.setattr(find(contender.options.get("base", contender.name)), "update", refuse, raising=False)
    with pytest.raises(UsageError, match="the data set is not there"):
        run_trial(tasks.find("ravine"), contender, tuning(1e-3, optimizer=contender.name), 100)


@pytest.mark.parametrize("name", ["SAM", "ASAM"])
def test_a_sophia_that_gets_no_estimates_is_refused_before_anything_is_trained(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} around Sophia gets no estimates"):
        check_takes(tasks.find("ravine"), Contender(name, 1e-4, 1e-2, {"base": "sophia"}))
    check_takes(tasks.find("ravine"), Contender(name, 1e-4, 1e-2, {"base": "adamw"}))
    check_takes(tasks.find("ravine"), Contender("Lookahead", 1e-4, 1e-2, {"base": "sophia"}))


def test_the_rate_of_every_update_is_the_peak_times_the_factor_to_the_last_bit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rates: list[float] = []
    plain = Step.__call__

    def watched(self: Step, loss: torch.Tensor, **rest: Any) -> Any:
        rates.append(self.optimizer.param_groups[0]["lr"])
        return plain(self, loss, **rest)

    monkeypatch.setattr(Step, "__call__", watched)
    lr = 0.000123456789
    run_trial(tasks.find("ravine"), SGD, tuning(lr), 60)
    rise = [min(1.0, (step + 1) / 3) for step in range(3)]
    fall = [0.5 * (1 + math.cos(math.pi * step / 57)) for step in range(57)]
    assert rates == [0.0, *(lr * factor for factor in rise + fall)]  # the first warmed up
