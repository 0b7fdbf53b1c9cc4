"""SWATS: the paper's estimate and path, whatever scales, clips or skips on the way."""

from __future__ import annotations

import copy
import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stepwell.errors import UsageError
from stepwell.optimizers import LBFGS, SGD, Adam, AdamW, Lookahead
from stepwell.step import Step
from stepwell.switching import switch
from stepwell.wrappers.swats import Swats
from tests.papers import swats as referee
from tests.step.small import data, flat, loss, model, same

FLOAT64 = {"rtol": 1e-11, "atol": 1e-13}
ADAM = {"lr": 0.03, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.2}
TOLERANCE = 0.0003  # the estimates are about 0.01
STEPS = 20


def problem(seed: int = 1) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
    """Gradients with a common part, so that Adam's steps go downhill."""
    rng = np.random.default_rng(seed)
    shapes = ((4, 3), (5,), ())
    params = [np.asarray(rng.normal(size=shape)) for shape in shapes]
    common = [rng.normal(size=shape) * 3 for shape in shapes]
    return params, [[np.asarray(c + rng.normal(size=np.shape(c))) for c in common] for _ in range(STEPS)]


def leaves(params: list[np.ndarray]) -> list[Tensor]:
    return [torch.from_numpy(p.copy()).requires_grad_() for p in params]


def run(optimizer: Any, ours: list[Tensor], grads: list[list[np.ndarray]]) -> None:
    for row in grads:
        for p, g in zip(ours, row, strict=True):
            p.grad = torch.from_numpy(g.copy())
        optimizer.step()


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("make", [Adam, torch.optim.Adam])
def test_the_rate_and_the_whole_path_are_the_papers(make: Any, maximize: bool) -> None:
    params, grads = problem()
    options = {**ADAM, "maximize": maximize, "tolerance": TOLERANCE}
    number, rate = referee.switch(params, grads, **options)
    assert 5 < number < 15
    ours = leaves(params)
    optimizer: Any = Swats(make(ours, maximize=maximize, **ADAM), tolerance=TOLERANCE)
    run(optimizer, ours, grads[: number - 1])
    assert not optimizer.ready
    assert optimizer.rate is None
    run(optimizer, ours, grads[number - 1 : number])
    assert (optimizer.ready, optimizer.settled_at) == (True, number)
    assert optimizer.rate == pytest.approx(rate, rel=1e-12)
    assert optimizer.average == pytest.approx(rate, rel=1e-12)
    assert optimizer.lr(0.8) == pytest.approx(0.2 * rate)
    new = switch(optimizer, "sgd", lr=optimizer, momentum=ADAM["betas"][0], carry=False)
    assert new.param_groups[0]["lr"] == pytest.approx(0.2 * rate)
    assert type(new) is SGD
    run(new, ours, grads[number:])
    for got, want in zip(ours, referee.trajectory(params, grads, **options), strict=True):
        np.testing.assert_allclose(got.detach().numpy(), want, **FLOAT64)


def test_watching_changes_no_step_and_what_settled_first_stays() -> None:
    params, grads = problem()
    alone, watched = leaves(params), leaves(params)
    optimizer = Swats(Adam(watched, **ADAM), tolerance=TOLERANCE)
    run(Adam(alone, **ADAM), alone, grads)
    number, rate = referee.switch(params, grads, **ADAM, tolerance=TOLERANCE)
    for row in grads:
        run(optimizer, watched, [row])
    assert same([p.detach() for p in alone], [p.detach() for p in watched])
    assert (optimizer.settled_at, optimizer.rate) == (number, pytest.approx(rate))


@pytest.mark.parametrize("make", [AdamW, torch.optim.AdamW])
def test_what_a_decoupled_decay_takes_off_is_no_part_of_the_step(make: Any) -> None:
    params, grads = problem()
    estimates = []
    for decay in (0.0, 0.5):
        ours = leaves(params)
        optimizer = Swats(make(ours, **{**ADAM, "weight_decay": decay}))
        run(optimizer, ours, grads)
        estimates.append(optimizer.average)
    assert estimates[1] == pytest.approx(estimates[0], rel=1e-10)


@pytest.mark.parametrize("make", [Adam, torch.optim.Adam])
def test_the_gradient_is_the_one_that_adam_had(make: Any) -> None:
    """Clipping and unscaling are a factor inside the kernel, or a pass before it; the estimate must have them, too."""
    averages = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=64.0)):
        network = model(dtype=torch.float64)
        step = Step(Swats(make(network.parameters(), lr=0.03)), clip_norm=0.05, scaler=scaler, accumulate=2)
        for seed in range(8):
            value = loss(network, *data(seed=seed, dtype=torch.float64))
            assert step(value).clipped == bool(seed % 2)
        averages.append(step.optimizer.average)
    assert averages[1] == pytest.approx(averages[0], rel=1e-6)  # the factor is fp32
    network = model(dtype=torch.float64)
    plain = Swats(make(network.parameters(), lr=0.03))
    for seed in range(0, 8, 2):
        plain.zero_grad()
        for one in (seed, seed + 1):
            (loss(network, *data(seed=one, dtype=torch.float64)) / 2).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 0.05)
        plain.step()
    assert plain.average == pytest.approx(averages[0], rel=1e-6)


def test_skipped_updates_and_absent_gradients_are_not_counted() -> None:
    params, grads = problem()
    ours, others = leaves(params), leaves(params)
    optimizer, plain = Swats(Adam(ours, **ADAM)), Swats(Adam(others, **ADAM))
    late = torch.ones(3, dtype=torch.float64, requires_grad=True)
    optimizer.add_param_group({"params": [late]})
    for number, row in enumerate(grads[:8]):
        for p, g in zip(ours, row, strict=True):
            p.grad = torch.from_numpy(g.copy()) * (torch.nan if number == 3 else 1.0)
        optimizer.update(1.0, torch.tensor(float(number == 3)))
        if number != 3:
            run(plain, others, [row])
    assert same(optimizer.estimate, plain.estimate)
    for p in (*ours, late):
        p.grad = torch.zeros_like(p)
    average = optimizer.estimate[1].item()
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0
    optimizer.update()  # step @ g is 0: nothing to learn, but it is a step
    assert (optimizer.estimate[0].item(), optimizer.estimate[1].item()) == (8, average)


def test_a_rate_below_zero_never_counts() -> None:
    """Gradients that turn around: Adam goes on uphill, and the projection is negative."""
    p = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = Swats(Adam([p], lr=0.1, betas=(0.99, 0.5)), tolerance=1e9)
    seen = []
    for sign in (-1.0, *[0.01] * 9):
        p.grad = torch.tensor([sign], dtype=torch.float64)
        optimizer.step()
        seen.append((optimizer.average, optimizer.ready))
    assert seen[-1][0] < 0
    assert not any(ready for _, ready in seen)


@pytest.mark.parametrize("how", ["saved", "copied"])
def test_the_estimate_goes_on_after_a_checkpoint(how: str) -> None:
    params, grads = problem()
    ours = leaves(params)
    optimizer: Any = Swats(Adam(ours, **ADAM), tolerance=TOLERANCE)
    run(optimizer, ours, grads[:4])
    if how == "saved":
        others = [p.detach().clone().requires_grad_() for p in ours]
        resumed: Any = Swats(Adam(others))
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        resumed.load_state_dict(torch.load(file, weights_only=True))
    else:
        resumed, others = copy.deepcopy((optimizer, ours))
    for one, tensors in ((optimizer, ours), (resumed, others)):
        run(one, tensors, grads[4:])
    assert same(optimizer.estimate, resumed.estimate)
    assert resumed.ready
    assert resumed.tolerance == TOLERANCE


def test_split_weights_are_watched_as_a_whole() -> None:
    """The steps of bf16 weights are mostly lost in rounding; those of split ones are as of fp32."""
    averages = {}
    for weights, dtype in (("native", torch.float32), ("split", torch.bfloat16), ("native", torch.bfloat16)):
        torch.manual_seed(0)
        p = (torch.rand(500) + 1).bfloat16().to(dtype).requires_grad_()
        optimizer = Swats(Adam([p], lr=1e-4, weights=weights))
        for _ in range(6):
            p.grad = torch.randn(500).bfloat16().to(dtype) + 1
            optimizer.step()
        averages[weights, dtype] = optimizer.average
    exact = averages["native", torch.float32]
    assert averages["split", torch.bfloat16] == pytest.approx(exact, rel=1e-3)
    assert averages["native", torch.bfloat16] != pytest.approx(exact, rel=0.1)


P = torch.ones(2, requires_grad=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Swats(Adam([P]), tolerance=0.0), "Swats: tolerance=0.0; it must be a finite number above 0"),
        (lambda: Swats(SGD([P])), "Swats: SGD has no two betas; it watches an Adam"),
        (lambda: Swats(LBFGS([P])), "it watches the steps of an Adam itself, not of LBFGS"),
        (lambda: Swats(Lookahead(Adam([P]))), "it watches the steps of an Adam itself, not of Lookahead"),
        (lambda: Swats([P]), "optimizer is a list; it wraps an optimizer"),
        (lambda: Swats(Adam([P])).lr(), r"no rate has settled after 0 updates \(the average is not there yet\)"),
        (lambda: Swats(Adam([P])).lr(1.0), r"momentum=1.0; it must be in \[0, 1\)"),
    ],
)
def test_what_is_refused(call: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_it_can_be_around_what_is_around() -> None:
    network = model()
    optimizer = Lookahead(Swats(Adam(network.parameters(), lr=0.01)), k=2)
    before = flat(network)
    for seed in range(4):
        Step(optimizer)(loss(network, *data(seed=seed)))
    assert optimizer.base.average > 0
    assert not torch.equal(flat(network), before)
