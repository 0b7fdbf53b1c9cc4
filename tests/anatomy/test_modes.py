"""A module that the user froze stays frozen, whatever puts the rest into training mode."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import stepwell
from stepwell.anatomy.modes import evaluating, put_into_training
from stepwell.compare.plan import Contender, Trial
from stepwell.compare.trial import run_trial
from stepwell.finder import find_lr
from stepwell.optimizers import SGD
from stepwell.tasks import Metric, Task, probe


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 6), nn.BatchNorm1d(6))


def by_mode() -> nn.Sequential:
    """The usual fine-tuning: `model.train()`, then the norm back into evaluation mode."""
    model = network()
    model[1].eval()
    return model


def by_parameters() -> nn.Sequential:
    """Frozen by its parameters, in a model that has just been evaluated."""
    model = network().eval()
    model[1].requires_grad_(False)
    return model


FROZEN = pytest.mark.parametrize("make", [by_mode, by_parameters])


def batches(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(8, 4, generator=generator) * 3 + 1 for _ in range(20)]


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    return (model(batch) - 1).square().mean()


@FROZEN
def test_the_finder_trains_with_the_frozen_norm_in_evaluation_mode(make: Any) -> None:
    model = make()
    modes: set[tuple[bool, bool]] = set()
    statistics = model[1].running_mean.clone()

    def seen(model: Any, batch: Tensor) -> Tensor:
        modes.add((model[1].training, model[4].training))
        value = loss(model, batch)
        assert torch.equal(model[1].running_mean, statistics)
        return value

    before = [part.training for part in model.modules()]
    find_lr(model, SGD(model.parameters()), batches(), seen, iterations=10, orders=1)
    assert modes == {(False, True)}
    assert [part.training for part in model.modules()] == before


@FROZEN
def test_recalibrating_leaves_the_frozen_norm_alone(make: Any) -> None:
    model = make()
    frozen, own = model[1].running_mean.clone(), model[4].running_mean.clone()
    assert stepwell.recalibrate(model, batches()) == 20
    assert torch.equal(model[1].running_mean, frozen)
    assert model[1].num_batches_tracked == 0
    assert not torch.equal(model[4].running_mean, own)


def test_where_every_norm_is_frozen_no_batch_is_read() -> None:
    model = network()
    model[1].eval()
    model[4].eval()
    assert stepwell.recalibrate(model, batches()) == 0
    assert model[4].num_batches_tracked == 0


def _task(make: Any, modes: set[Any]) -> Task:
    def seen(model: Any, batch: Tensor) -> Tensor:
        modes.add((model[1].training, model[4].training))
        return loss(model, batch)

    metric = Metric("loss", "min", lambda model: float(loss(model, batches()[0])))
    return Task("frozen", "a frozen norm", "cnn", lambda seed: make(), batches, seen, metric, steps=6, evaluations=3)


@FROZEN
def test_a_comparison_keeps_the_norm_frozen_that_the_task_has_frozen(make: Any) -> None:
    modes: set[Any] = set()
    task = _task(make, modes)
    probe(task)
    assert run_trial(task, Contender("SGD", 1e-3, 1.0), Trial("SGD", "tune", 0, 0.1, 0), 6).status == "finished"
    assert modes == {(False, True)}


def test_a_metric_leaves_every_mode_as_it_was() -> None:
    model = by_mode()
    _task(by_mode, set()).measure(model)
    assert (model.training, model[1].training, model[4].training) == (True, False, True)
    with pytest.raises(KeyboardInterrupt), evaluating(model):  # noqa: PT012
        assert not any(part.training for part in model.modules())
        raise KeyboardInterrupt
    assert (model.training, model[1].training, model[4].training) == (True, False, True)


def test_a_model_in_evaluation_mode_as_a_whole_is_put_into_training_mode() -> None:
    model = network().eval()
    put_into_training(model)
    assert all(part.training for part in model.modules())
