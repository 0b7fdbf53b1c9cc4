"""Every built-in task: found by name, deterministic per seed, trainable, with the minimum it says it has."""

from __future__ import annotations

import math

import pytest
import torch

from stepwell import tasks
from stepwell.errors import UsageError
from stepwell.tasks import Metric, Task

PLANES = ("rosenbrock", "rastrigin", "ravine", "beale", "himmelblau", "saddle", "styblinski")


def weights(task: Task, seed: int) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in task.build(seed).parameters()])


def first_batches(task: Task, seed: int, count: int = 3) -> list[torch.Tensor]:
    stream = task.stream(seed)
    batches = [next(stream) for _ in range(count)]
    return [part for batch in batches for part in tensors(batch)]


def tensors(batch: object) -> list[torch.Tensor]:
    """The tensors of a batch, which may be a tuple of tuples."""
    if isinstance(batch, tuple):
        return [part for item in batch for part in tensors(item)]
    assert isinstance(batch, torch.Tensor)
    return [batch]


def descend(task: Task, seed: int, steps: int, lr: float) -> tuple[float, float]:
    """The metric before and after a few steps of plain Adam."""
    model = task.build(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    before, stream = task.measure(model), task.stream(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        task.loss(model, next(stream)).backward()
        optimizer.step()
    return before, task.measure(model)


@pytest.mark.parametrize("name", tasks.TABLE)
def test_a_seed_decides_weights_and_batches(name: str) -> None:
    task = tasks.find(name)
    assert task.name == name
    assert torch.equal(weights(task, 3), weights(task, 3))
    assert not torch.equal(weights(task, 3), weights(task, 4))
    again = zip(first_batches(task, 3), first_batches(task, 3), strict=True)
    assert all(torch.equal(one, other) for one, other in again)
    other_seed = zip(first_batches(task, 3), first_batches(task, 4), strict=True)
    assert not all(torch.equal(one, other) for one, other in other_seed)


@pytest.mark.parametrize("name", tasks.TABLE)
def test_a_task_passes_its_own_probe_and_leaves_the_model_in_training_mode(name: str) -> None:
    task = tasks.find(name)
    tasks.probe(task)
    model = task.build(0)
    first = task.measure(model)
    assert model.training
    assert task.measure(model) == first


@pytest.mark.parametrize(("name", "lr"), [("digits", 1e-2), ("bytes", 1e-2), ("rosenbrock", 0.1), ("ravine", 0.3)])
def test_a_few_steps_make_the_metric_better_and_repeat_exactly(name: str, lr: float) -> None:
    task = tasks.find(name)
    before, after = descend(task, 0, 30, lr)
    assert task.metric.better(after, before)
    assert descend(task, 0, 30, lr) == (before, after)


@pytest.mark.parametrize("name", PLANES)
def test_the_minimum_is_where_the_plane_says(name: str) -> None:
    surface = tasks.find(name).surface
    assert surface is not None
    generator = torch.Generator().manual_seed(0)
    for x, y in surface.minima:
        centre = torch.tensor([x, y], dtype=torch.float64, requires_grad=True)
        height = surface.height(centre[0], centre[1])
        (slope,) = torch.autograd.grad(height, centre)
        assert height.item() == pytest.approx(0.0, abs=1e-12)
        assert slope.abs().max().item() < 1e-12
        near = centre.detach() + 0.3 * torch.randn(1000, 2, generator=generator, dtype=torch.float64)
        assert (surface.height(near[:, 0], near[:, 1]) > 0).all()
        assert surface.x[0] < x < surface.x[1]
        assert surface.y[0] < y < surface.y[1]


@pytest.mark.parametrize("name", PLANES)
def test_the_start_lies_in_the_picture_and_the_target_below_it(name: str) -> None:
    task = tasks.find(name)
    assert task.surface is not None
    for seed in range(5):
        x, y = weights(task, seed).tolist()
        assert task.surface.x[0] < x < task.surface.x[1]
        assert task.surface.y[0] < y < task.surface.y[1]
        assert task.target is not None
        assert not task.metric.reached(task.measure(task.build(seed)), task.target)


def test_digits_are_split_once_and_share_no_image() -> None:
    from stepwell.tasks.digits import images

    train, train_labels, held_out, held_out_labels = images()
    assert train.shape == (600, 1, 8, 8)
    assert held_out.shape == (1197, 1, 8, 8)
    assert train_labels.bincount().min() > 50  # by class
    assert held_out_labels.bincount().min() > 100
    seen = {image.numpy().tobytes() for image in train}
    assert not any(image.numpy().tobytes() in seen for image in held_out)


def test_bytes_are_real_text_and_the_held_out_files_are_not_trained_on() -> None:
    from stepwell.tasks.stdlib_bytes import text

    train, held_out = (part.numpy().tobytes() for part in text())
    assert len(train) > 1_000_000
    assert 50_000 < len(held_out) < len(train)
    assert train.count(b"def ") > 1000
    middle = held_out[len(held_out) // 2 :][:200]
    assert middle not in train


def test_the_stream_reshuffles_every_pass() -> None:
    task = tasks.find("digits")
    stream = task.stream(0)
    passes = [[next(stream)[0] for _ in range(9)] for _ in range(2)]
    assert not any(torch.equal(one, other) for one, other in zip(*passes, strict=True))


def test_metrics_know_their_direction() -> None:
    up, down = (Metric("m", direction, lambda model: 0.0) for direction in ("max", "min"))
    assert (up.better(2, 1), up.better(1, 1), up.reached(1, 1), up.reached(0, 1)) == (True, False, True, False)
    assert (down.better(1, 2), down.better(1, 1), down.reached(1, 1), down.reached(2, 1)) == (True, False, True, False)
    assert not up.better(math.nan, 0)
    with pytest.raises(UsageError, match="direction='up'; it must be 'min' or 'max'"):
        Metric("m", "up", lambda model: 0.0)  # type: ignore[arg-type]


def test_an_unknown_name_gives_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown task 'digit': did you mean 'digits'\?"):
        tasks.find("digit")
