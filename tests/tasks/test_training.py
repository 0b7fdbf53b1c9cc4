"""The tasks that train a network: the loss goes down, and the references that they are scored by are right."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import stepwell as sw
from stepwell import tasks
from stepwell.tasks import convex, gan, regression, sparse, tabular

# a rate and a number of steps at which the loss of a few batches falls clearly
TRAINED = {
    "convex": (1e-2, 40),
    "regression": (1e-2, 40),
    "tabular": (1e-2, 20),
    "autoencoder": (1e-2, 40),
    "lstm": (1e-2, 20),
    "sparse": (1e-2, 60),
}


@pytest.mark.parametrize(("name", "lr", "steps"), [(name, *how) for name, how in TRAINED.items()])
def test_the_loss_and_the_metric_get_better(name: str, lr: float, steps: int) -> None:
    task = tasks.find(name)
    model, stream = task.build(0), task.stream(0)
    optimizer = sw.AdamW(model, lr=lr)
    losses, before = [], task.measure(model)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = task.loss(model, next(stream))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    tenth = max(2, steps // 10)
    assert sum(losses[-tenth:]) < 0.95 * sum(losses[:tenth])
    after = task.measure(model)
    assert math.isfinite(after)
    assert task.metric.better(after, before)


def test_the_minimum_of_the_convex_task_has_no_gradient() -> None:
    x, y = convex.images()
    weight, bias = (part.clone().requires_grad_() for part in convex.solution())
    value = convex.objective(weight, bias, x.double(), y)
    gradient = torch.autograd.grad(value, (weight, bias))
    assert math.hypot(*(part.norm().item() for part in gradient)) < 1e-8
    assert value.item() == pytest.approx(convex.minimum(), abs=1e-14)


def test_the_gap_is_zero_at_the_minimum_and_positive_around_it() -> None:
    model = convex.model(0).double()
    assert isinstance(model, nn.Linear)
    with torch.no_grad():
        for part, best in zip((model.weight, model.bias), convex.solution(), strict=True):
            part.copy_(best)
    assert convex.gap(model) == pytest.approx(0.0, abs=1e-14)
    with torch.no_grad():
        model.weight += 0.01 * torch.randn(10, 64, generator=torch.Generator().manual_seed(0))
    assert convex.gap(model) > 1e-5


def test_modes_are_counted() -> None:
    middle = gan.centers()
    assert middle.norm(dim=1).tolist() == pytest.approx([2.0] * 8)
    assert gan.modes_and_good(middle.repeat(10, 1)) == (8, 1.0)
    assert gan.modes_and_good(middle[:3].repeat(10, 1)) == (3, 1.0)
    away = torch.zeros(30, 2)
    assert gan.modes_and_good(away) == (0, 0.0)
    assert gan.modes_and_good(torch.cat([middle[:1].repeat(30, 1), away])) == (1, 0.5)
    edge = middle[:1] + torch.tensor([[0.0, gan.GOOD * gan.DEVIATION]])
    assert gan.modes_and_good(edge * torch.tensor([[1.0, 0.99]]))[1] == 1.0
    assert gan.modes_and_good(edge * torch.tensor([[1.0, 1.01]]))[1] == 0.0
    few = torch.cat([middle[:1].repeat(995, 1), middle[1:2].repeat(5, 1)])  # 0.5 % do not make a mode
    assert gan.modes_and_good(few) == (1, 1.0)
    assert gan.modes_and_good(torch.full((10, 2), math.nan)) == (0, 0.0)


def test_real_samples_score_almost_one() -> None:
    real = torch.cat([next(tasks.find("gan").stream(seed))[0] for seed in range(20)])
    modes, good = gan.modes_and_good(real)
    assert modes == 8
    assert good == pytest.approx(1 - math.exp(-(gan.GOOD**2) / 2), abs=0.01)


def test_each_network_of_the_game_gets_the_gradient_of_its_own_loss() -> None:
    model = gan.model(0)
    assert isinstance(model, gan.Game)
    real, noise = batch = next(iter(gan.batches(0)))
    gan.loss(model, batch).backward()
    found = {name: p.grad for name, p in model.named_parameters()}

    toward = nn.functional.softplus(-model.discriminator(model.generator(noise))).mean()
    expected = torch.autograd.grad(toward, tuple(model.generator.parameters()))
    for (name, _), gradient in zip(model.generator.named_parameters(), expected, strict=True):
        torch.testing.assert_close(found[f"generator.{name}"], gradient)

    points = real.clone().requires_grad_()
    judged = model.discriminator(points)
    (slope,) = torch.autograd.grad(judged.sum(), points, create_graph=True)
    fake = model.discriminator(model.generator(noise).detach())
    against = nn.functional.softplus(-judged).mean() + nn.functional.softplus(fake).mean()
    against = against + gan.PENALTY / 2 * slope.square().sum(1).mean()
    expected = torch.autograd.grad(against, tuple(model.discriminator.parameters()), allow_unused=True)
    for (name, _), gradient in zip(model.discriminator.named_parameters(), expected, strict=True):
        if gradient is not None:
            torch.testing.assert_close(found[f"discriminator.{name}"], gradient)


def test_the_game_finds_modes_in_a_short_run() -> None:
    task = tasks.find("gan")
    model, stream = task.build(0), task.stream(0)
    assert task.measure(model) < 0.2
    optimizer = sw.AdamW(model, lr=3e-3)
    for _ in range(100):
        optimizer.zero_grad()
        task.loss(model, next(stream)).backward()
        optimizer.step()
    assert math.isfinite(task.measure(model))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lion", "adafactor", "shampoo"])
def test_optimizers_take_the_sparse_gradients(optimizer: str) -> None:
    from stepwell.optimizers import create

    task = tasks.find("sparse")
    model, stream = task.build(0), task.stream(0)
    chosen = create(optimizer, model, lr=1e-3)
    task.loss(model, next(stream)).backward()
    assert all(p.grad is not None and p.grad.is_sparse for p in model.parameters())
    chosen.step()
    assert math.isfinite(task.measure(model))


def test_words_are_those_of_the_library_and_pairs_are_neighbors() -> None:
    train, held_out, chance = sparse.words()
    assert len(train) > 100_000
    assert 10_000 < len(held_out) < len(train)
    assert int(train.max()) < len(chance) == sparse.WORDS
    assert chance.sum().item() == pytest.approx(1.0)
    counts = train.bincount()
    assert counts[0] == counts.max()  # numbered by frequency
    text = torch.arange(100)
    word, neighbor, negatives = sparse.pairs(text, 1000, torch.Generator().manual_seed(0))
    assert set((neighbor - word).tolist()) == {-2, -1, 1, 2}
    assert negatives.shape == (1000, sparse.NEGATIVES)


def test_friedman_at_points_with_known_values() -> None:
    x = torch.zeros(3, 10)
    x[1] = 0.5
    x[2, :5] = 1.0
    assert regression.friedman(x).tolist() == pytest.approx([5.0, 10 * math.sin(math.pi / 4) + 7.5, 20.0], abs=1e-4)


def test_tables_are_split_by_class() -> None:
    found = tabular.tables()
    assert sum(len(table.train) for table in found) == 298
    assert sum(len(table.held_out) for table in found) == 599
    for table in found:
        shares = [y.bincount() / len(y) for y in (table.train_class, table.held_out_class)]
        torch.testing.assert_close(*shares, atol=0.03, rtol=0)
