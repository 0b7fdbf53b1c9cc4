"""The eleven lines at the top of step.py, one test or more for each."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from stepwell.optimizers import SGD, AdamW
from stepwell.schedules import linear
from stepwell.step import Step
from tests.step.small import data, flat, loss, model, same

OPTIMIZERS = {
    "stepwell": lambda network: AdamW(network.named_parameters(), lr=0.1),
    "torch": lambda network: torch.optim.AdamW(network.parameters(), lr=0.1),
    "torch fused": lambda network: torch.optim.AdamW(network.parameters(), lr=0.1, fused=True),
}
every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


class Recorder(torch.optim.Optimizer):
    """Keeps the gradients it was stepped with."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 1.0})
        self.seen: list[torch.Tensor] = []

    def step(self, closure: Any = None) -> None:
        self.seen.append(torch.cat([p.grad.reshape(-1).clone() for p in self.param_groups[0]["params"]]))


def gradient(network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The gradient of the mean loss, by autograd alone."""
    parts = torch.autograd.grad(loss(network, x, y), list(network.parameters()))
    return torch.cat([part.reshape(-1) for part in parts])


# 1 backward, weighted by the share


@pytest.mark.parametrize("sizes", [(4, 4, 4), (7, 3, 2), (1, 10, 1)], ids=str)
def test_accumulated_gradient_is_that_of_one_big_batch(sizes: tuple[int, ...]) -> None:
    network = model(dtype=torch.float64)
    x, y = data(sum(sizes), dtype=torch.float64)
    recorder = Recorder(network.parameters())
    step = Step(recorder, accumulate=len(sizes))
    for part_x, part_y in zip(x.split(sizes), y.split(sizes), strict=True):
        done = step(loss(network, part_x, part_y), weight=len(part_x))
    assert done.updated
    torch.testing.assert_close(recorder.seen[0], gradient(network, x, y), rtol=1e-12, atol=1e-15)
    assert done.loss == pytest.approx(loss(network, x, y).item(), rel=1e-12)


def test_equal_weights_need_no_weight_and_no_factor() -> None:
    network = model(dtype=torch.float64)
    x, y = data(12, dtype=torch.float64)
    recorder = Recorder(network.parameters())
    step = Step(recorder, accumulate=4)
    for part_x, part_y in zip(x.split(3), y.split(3), strict=True):
        step(loss(network, part_x, part_y))
    torch.testing.assert_close(recorder.seen[0], gradient(network, x, y), rtol=1e-12, atol=1e-15)


def test_weights_may_be_tensors() -> None:
    network = model(dtype=torch.float64)
    x, y = data(12, dtype=torch.float64)
    recorder = Recorder(network.parameters())
    step = Step(recorder, accumulate=2)
    for part_x, part_y in zip(x.split((9, 3)), y.split((9, 3)), strict=True):
        step(loss(network, part_x, part_y), weight=torch.tensor(len(part_x)))
    torch.testing.assert_close(recorder.seen[0], gradient(network, x, y), rtol=1e-6, atol=1e-9)  # the share is fp32


@pytest.mark.parametrize("kind", [np.int64, np.float32])
def test_weights_may_be_numbers_of_numpy(kind: Any) -> None:
    network, other = model(), model()
    steps = [Step(SGD(one.named_parameters(), lr=0.1), accumulate=2) for one in (network, other)]
    for step, one, made in zip(steps, (network, other), (kind, float), strict=True):
        for number in (9, 3):
            step(loss(one, *data(number)), weight=made(number))
    assert torch.equal(flat(network), flat(other))


@pytest.mark.parametrize("weighted", [False, True])
def test_flush_weights_a_shorter_accumulation_by_what_it_holds(weighted: bool) -> None:
    network = model(dtype=torch.float64)
    x, y = data(5, dtype=torch.float64)
    recorder = Recorder(network.parameters())
    step = Step(recorder, accumulate=8)
    for part_x, part_y in zip(x.split((3, 2)), y.split((3, 2)), strict=True):
        step(loss(network, part_x, part_y), weight=len(part_x) if weighted else 1)
    assert recorder.seen == []
    done = step.flush()
    halves = (gradient(network, x[:3], y[:3]), gradient(network, x[3:], y[3:]))
    expected = gradient(network, x, y) if weighted else (halves[0] + halves[1]) / 2
    torch.testing.assert_close(recorder.seen[0], expected, rtol=1e-12, atol=1e-15)
    assert done.updated
    assert done.number == 2
    assert not step.flush().updated
    assert len(recorder.seen) == 1


def test_batches_updates_with_the_last_batch_of_a_pass() -> None:
    network = model()
    recorder = Recorder(network.parameters())
    step = Step(recorder, accumulate=2)
    updated = [step(loss(network, *data(4, seed))).updated for seed in step.batches([0, 1, 2, 3, 4])]
    assert updated == [False, True, False, True, True]
    assert step.accumulated == 0


def test_what_another_backward_left_is_not_of_this_batch() -> None:
    network = model()
    x, y = data()
    recorder = Recorder(network.parameters())
    step = Step(recorder)
    loss(network, *data(seed=5)).backward()  # as a generator's loss does in the discriminator
    step(loss(network, x, y))
    torch.testing.assert_close(recorder.seen[0], gradient(network, x, y))


# 2 synchronisation


class Distributed(nn.Module):
    """Shows what a distributed wrapper is told: whether each forward pass is synchronised."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.quiet = inner, False
        self.forwards: list[bool] = []

    @contextmanager
    def no_sync(self) -> Any:
        before, self.quiet = self.quiet, True
        try:
            yield
        finally:
            self.quiet = before

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.forwards.append(not self.quiet)
        return self.inner(x)


def test_only_the_last_micro_batch_is_synchronised() -> None:
    network = Distributed(model())
    step = Step(SGD(network.parameters(), lr=0.1), accumulate=3, model=network)
    for seed in range(6):
        step(loss(network, *data(seed=seed)))
    assert network.forwards == [False, False, True] * 2


def test_a_shorter_accumulation_at_the_end_of_a_pass_is_synchronised() -> None:
    network = Distributed(model())
    step = Step(SGD(network.parameters(), lr=0.1), accumulate=3, model=network)
    for _ in range(2):
        for seed in step.batches(range(5)):
            step(loss(network, *data(seed=seed)))
    assert network.forwards == [False, False, True, False, True] * 2


def test_flush_refuses_gradients_that_cannot_be_synchronised_afterwards() -> None:
    network = Distributed(model())
    step = Step(SGD(network.parameters(), lr=0.1), accumulate=3, model=network)
    step(loss(network, *data()))
    before = flat(network)
    with pytest.raises(ValueError, match=r"step\.batches\(loader\)"):
        step.flush()
    assert torch.equal(flat(network), before)


# 3 unscale, 7 the scaler's update


@every_optimizer
@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_a_scaler_changes_nothing_but_the_scale(make: Any, clip_norm: float | None) -> None:
    plain, scaled = model(), model()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=2)
    steps = [Step(make(plain), clip_norm=clip_norm), Step(make(scaled), clip_norm=clip_norm, scaler=scaler)]
    for seed in range(4):
        one, other = (
            step(loss(network, *data(seed=seed))) for step, network in zip(steps, (plain, scaled), strict=True)
        )
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-6)
    torch.testing.assert_close(flat(plain), flat(scaled), rtol=1e-6, atol=1e-7)  # 1/scale is a power of two
    assert scaler.get_scale() == 2.0**14


@every_optimizer
def test_the_scaler_backs_off_when_the_gradient_overflows(make: Any) -> None:
    network = model()
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    step = Step(make(network), scaler=scaler)
    before = flat(network)
    done = step(loss(network, *data()) * torch.tensor(torch.inf))
    assert done.skipped
    assert torch.equal(flat(network), before)
    assert scaler.get_scale() == 4.0


def test_the_same_scaling_as_torch_does_it() -> None:
    plain, ours = model(), model()
    theirs, mine = (torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3) for _ in range(2))
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    step = Step(torch.optim.SGD(ours.parameters(), lr=0.1), scaler=mine, clip_norm=0.1)
    for seed in range(8):
        blown = torch.tensor(torch.inf if seed == 5 else 1.0)
        theirs.scale(loss(plain, *data(seed=seed)) * blown).backward()
        theirs.unscale_(optimizer)
        nn.utils.clip_grad_norm_(plain.parameters(), 0.1)
        theirs.step(optimizer)
        theirs.update()
        optimizer.zero_grad()
        step(loss(ours, *data(seed=seed)) * blown)
    torch.testing.assert_close(flat(plain), flat(ours), rtol=1e-6, atol=1e-7)
    assert theirs.state_dict() == mine.state_dict()


# 4 norm and flag


def test_the_norm_is_of_the_unscaled_gradient_before_clipping() -> None:
    network = model()
    x, y = data()
    expected = np.linalg.norm(gradient(network, x, y).double().numpy())
    step = Step(SGD(network.parameters(), lr=0.1), clip_norm=1e-3, scaler=torch.amp.GradScaler("cpu", init_scale=64.0))
    done = step(loss(network, x, y))
    assert done.grad_norm == pytest.approx(expected, rel=1e-6)
    assert done.clipped


# 5 clip as a factor


def test_an_optimizer_of_ours_clips_inside_its_kernel() -> None:
    network = model()
    seen: list[Any] = []

    class Watched(SGD):
        def update(self, gradient_factor: Any = 1.0, found_inf: Any = None) -> None:
            seen.append((gradient_factor, [p.grad.clone() for p in network.parameters()]))
            super().update(gradient_factor, found_inf)

    x, y = data()
    raw = torch.autograd.grad(loss(network, x, y), list(network.parameters()))
    norm = torch.cat([part.reshape(-1) for part in raw]).norm().item()
    before = flat(network)
    Step(Watched(network.parameters(), lr=1.0), clip_norm=norm / 4)(loss(network, x, y))
    factor, gradients = seen[0]
    assert float(factor) == pytest.approx(0.25, rel=1e-4)  # the norm has 1e-6 added, as in torch
    assert same(gradients, list(raw))  # not written
    moved = (before - flat(network)).norm().item()
    assert moved == pytest.approx(norm / 4, rel=1e-4)


# 6 update under the flag, 8 schedule, 9 averages


@every_optimizer
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(make: Any, value: float) -> None:
    network = model()
    step = Step(make(network), linear(10, to=0.5), ema=0.9)
    for seed in range(2):
        step(loss(network, *data(seed=seed)))
    weights, state = flat(network), [same(v, v) and v for v in _copied(step.state_dict())]
    lr = step.optimizer.param_groups[0]["lr"]
    done = step(loss(network, *data()) * value)
    assert (done.updated, done.skipped, step.skipped, step.number) == (False, True, 1, 2)
    assert torch.equal(flat(network), weights)
    after = _copied(step.state_dict())
    assert same([s for s in state if s[0] != "skipped"], [s for s in after if s[0] != "skipped"])
    assert step.optimizer.param_groups[0]["lr"] == lr
    assert step(loss(network, *data())).updated
    assert step.optimizer.param_groups[0]["lr"] < lr


def _copied(state: dict[str, Any]) -> list[tuple[str, Any]]:
    def copy(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.clone()
        if isinstance(value, dict):
            return {key: copy(item) for key, item in value.items()}
        return [copy(item) for item in value] if isinstance(value, (list, tuple)) else value

    return [(key, copy(value)) for key, value in state.items()]


def test_the_schedule_counts_updates_not_micro_batches() -> None:
    network = model()
    schedule = linear(3, to=0.0)
    step = Step(SGD(network.parameters(), lr=1.0), schedule, accumulate=2)
    rates = [step(loss(network, *data(seed=seed))).lr for seed in range(6)]
    assert rates == [schedule(k) for k in (0, 0, 1, 1, 2, 2)]
    assert step.number == 3


def test_the_average_is_that_of_the_formula() -> None:
    network = model(dtype=torch.float64)
    step = Step(SGD(network.parameters(), lr=0.5), ema=0.5, model=network)
    average = flat(network).numpy()
    for number in range(1, 20):
        step(loss(network, *data(seed=number, dtype=torch.float64)))
        decay = min(0.5, (1 + number) / (10 + number))
        average = average + (1 - decay) * (flat(network).numpy() - average)
    weights = flat(network)
    with step.averaged():
        np.testing.assert_allclose(flat(network).numpy(), average, rtol=1e-12)
    assert torch.equal(flat(network), weights)


# 10 gradients to None


@every_optimizer
def test_no_gradient_is_left(make: Any) -> None:
    network = model()
    step = Step(make(network), accumulate=2)
    step(loss(network, *data()))
    assert all(p.grad is not None for p in network.parameters())
    step(loss(network, *data()))
    assert all(p.grad is None for p in network.parameters())


# 11 the one place for a checkpoint


def test_a_checkpoint_within_an_accumulation_is_refused() -> None:
    network = model()
    step = Step(SGD(network.parameters(), lr=0.1), accumulate=2)
    step(loss(network, *data()))
    with pytest.raises(ValueError, match="1 of 2 micro-batches"):
        step.state_dict()
    step(loss(network, *data()))
    assert step.state_dict()["number"] == 1
