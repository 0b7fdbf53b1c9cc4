"""Ways to clip, against torch's own functions and NumPy transcriptions of their papers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from stepwell.engine.gradients import global_norm
from stepwell.optimizers import SGD
from stepwell.step import AdaptiveClip, AutoClip, Clip, ClipValue, Step
from tests.step.small import data, flat, loss, model

OPTIMIZERS = {"stepwell": SGD, "torch": torch.optim.SGD}
every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


def gradients(network: nn.Module) -> list[np.ndarray]:
    parts = torch.autograd.grad(loss(network, *data()), list(network.parameters()))
    return [part.double().numpy() for part in parts]


def moved(make: Any, clip: Clip | None, scaler: Any = None, **options: Any) -> tuple[list[np.ndarray], Any]:
    """What SGD with lr 1 takes from each parameter: the gradient as it was clipped."""
    network = model()
    before = [p.detach().clone() for p in network.parameters()]
    step = Step(make(network.named_parameters(), lr=1.0), clip=clip, scaler=scaler, **options)
    done = step(loss(network, *data()))
    return [(b - p.detach()).double().numpy() for b, p in zip(before, network.parameters(), strict=True)], done


@every_optimizer
@pytest.mark.parametrize(("max_norm", "clips"), [(0.1, True), (100.0, False)])
def test_by_norm_as_torch_does(make: Any, max_norm: float, clips: bool) -> None:
    network = model()
    loss(network, *data()).backward()
    nn.utils.clip_grad_norm_(network.parameters(), max_norm)
    found, done = moved(make, None, clip_norm=max_norm)
    assert done.clipped is clips
    for got, p in zip(found, network.parameters(), strict=True):
        assert p.grad is not None
        np.testing.assert_allclose(got, p.grad.numpy(), rtol=1e-4, atol=1e-7)  # got is a difference of weights


@every_optimizer
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(("most", "clips"), [(0.01, True), (10.0, False)])
def test_by_value(make: Any, scaled: bool, most: float, clips: bool) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=512.0) if scaled else None
    found, done = moved(make, ClipValue(most), scaler)
    assert done.clipped is clips
    for got, raw in zip(found, gradients(model()), strict=True):
        np.testing.assert_allclose(got, raw.clip(-most, most), rtol=1e-4, atol=1e-7)


@every_optimizer
@pytest.mark.parametrize(("ratio", "clips"), [(0.01, True), (1e4, False)])
def test_adaptive_is_equation_3_of_the_paper(make: Any, ratio: float, clips: bool) -> None:
    network = model()
    with torch.no_grad():
        network[0].weight[2] = 0.0  # a unit that starts at zero has eps for its norm
    before = [p.detach().double().numpy().copy() for p in network.parameters()]
    raws = gradients(network)
    step = Step(make(network.named_parameters(), lr=1.0), clip=AdaptiveClip(ratio, exclude=["2.*"]))
    done = step(loss(network, *data()))
    assert done.clipped is clips
    names = [name for name, _ in network.named_parameters()]
    for name, weights, raw, p in zip(names, before, raws, network.parameters(), strict=True):
        rows = weights.reshape(len(weights), -1) if weights.ndim > 1 else weights.reshape(1, -1)
        gradient = raw.reshape(rows.shape)
        expected = gradient.copy()
        for row in range(len(rows)):
            limit = ratio * max(np.linalg.norm(rows[row]), 1e-3)
            size = np.linalg.norm(gradient[row])
            if size > limit and not name.startswith("2."):
                expected[row] = gradient[row] * limit / size
        got = (weights - p.detach().double().numpy()).reshape(rows.shape)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("window", [4, 100])
def test_automatic_is_the_percentile_of_recent_norms(window: int) -> None:
    generator = np.random.default_rng(0)
    weight = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    step = Step(torch.optim.SGD([weight], lr=1.0), clip=AutoClip(30, window=window))
    history: list[float] = []
    for number in range(12):
        raw = generator.normal(size=2)
        before = weight.detach().clone()
        done = step((weight * torch.tensor(raw)).sum() * (torch.nan if number == 5 else 1.0))
        if number == 5:  # not among the norms
            assert done.skipped
            continue
        history.append(float(np.linalg.norm(raw)))
        limit = np.percentile(history[-window:], 30)
        expected = raw * min(1.0, limit / history[-1])
        np.testing.assert_allclose((before - weight.detach()).numpy(), expected, rtol=1e-6)  # the flag is fp32
        assert done.clipped is bool(history[-1] > limit)


@every_optimizer
def test_automatic_lets_a_batch_without_a_gradient_pass(make: Any) -> None:
    """Its norm is 0, and so is the limit: their ratio would be NaN, and so would all weights."""
    network = model()
    before = flat(network)
    step = Step(make(network.named_parameters(), lr=0.1), clip=AutoClip(90))
    done = step(loss(network, *data()) * 0)
    assert done.updated
    assert not done.clipped
    assert torch.equal(flat(network), before)
    assert step(loss(network, *data())).updated
    assert torch.isfinite(flat(network)).all()
    assert not torch.equal(flat(network), before)


def test_automatic_goes_on_where_it_was() -> None:
    def run(interrupted: bool) -> torch.Tensor:
        network = model()
        step = Step(SGD(network.named_parameters(), lr=0.1), clip=AutoClip(50))
        for seed in range(6):
            if interrupted and seed == 3:
                state = step.state_dict()
                step = Step(SGD(network.named_parameters(), lr=0.1), clip=AutoClip(50))
                step.load_state_dict(state)
            step(loss(network, *data(seed=seed)))
        return flat(network)

    assert torch.equal(run(False), run(True))


@pytest.mark.parametrize("clip", [None, ClipValue(0.01), AdaptiveClip(0.01)], ids=repr)
def test_sparse_gradients(clip: Clip | None) -> None:
    rows = torch.tensor([1, 3, 3])
    weights = []
    for sparse in (False, True):
        torch.manual_seed(0)
        table = nn.Embedding(6, 4, sparse=sparse)
        step = Step(torch.optim.SGD(table.parameters(), lr=1.0), clip=clip, clip_norm=None if clip else 0.1)
        assert step(table(rows).square().sum()).clipped
        weights.append(table.weight.detach())
    torch.testing.assert_close(*weights)


def test_the_norm_of_half_precision_is_taken_in_fp32() -> None:
    big = torch.full((100,), 600.0, dtype=torch.float16)  # its square is not a number of fp16
    assert global_norm([big, torch.ones(1)]).item() == pytest.approx((100 * 600.0**2 + 1) ** 0.5, rel=1e-6)
