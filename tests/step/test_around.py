"""What works with the step: closures, autocast, averages of narrow weights, two networks, processes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from stepwell.errors import UsageError
from stepwell.optimizers import LBFGS, SGD, AdamW
from stepwell.schedules import Plateau, constant, linear
from stepwell.step import Average, Step
from tests.processes import in_two_processes
from tests.step.small import data, flat, loss, model, same


class SAM(torch.optim.Optimizer):
    """Sharpness-aware minimisation, arXiv 2010.01412, algorithm 1, around gradient descent: enough to be stepped."""

    def __init__(self, params: Any, lr: float = 0.1, rho: float = 0.05) -> None:
        super().__init__(params, {"lr": lr, "rho": rho})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        value = closure()
        group = self.param_groups[0]
        norm = torch.cat([p.grad.reshape(-1) for p in group["params"]]).norm()
        moves = [p.grad * group["rho"] / norm for p in group["params"]]
        torch._foreach_add_(group["params"], moves)
        closure()
        torch._foreach_sub_(group["params"], moves)
        torch._foreach_sub_(group["params"], [p.grad * group["lr"] for p in group["params"]])
        return value


@pytest.mark.parametrize("make", [SAM, lambda p: torch.optim.LBFGS(p, lr=0.5, max_iter=5)], ids=["SAM", "L-BFGS"])
def test_closures_do_what_the_optimizer_alone_does(make: Any) -> None:
    alone, stepped = model(), model()
    optimizer, step = make(alone.parameters()), Step(make(stepped.parameters()), linear(5, to=0.9))
    for number in range(4):
        optimizer.param_groups[0]["lr"] = step.optimizer.param_groups[0]["lr"]
        counts = [0, 0]

        def closure(counts: Any = counts) -> torch.Tensor:
            counts[0] += 1
            optimizer.zero_grad()
            value = loss(alone, *data())
            with torch.enable_grad():
                value = loss(alone, *data())
                value.backward()
            return value.detach()

        def compute(counts: Any = counts) -> torch.Tensor:
            counts[1] += 1
            return loss(stepped, *data())

        expected = optimizer.step(closure)
        done = step.closure(compute)
        assert done.loss == pytest.approx(float(expected))
        assert counts[0] == counts[1]  # the first evaluation is not done twice
        assert step.number == number + 1
    assert torch.equal(flat(alone), flat(stepped))


def test_a_closure_whose_first_gradient_is_not_finite_is_skipped() -> None:
    network = model()
    step = Step(torch.optim.LBFGS(network.parameters()))
    before = flat(network)
    done = step.closure(lambda: loss(network, *data()) * torch.nan)
    assert done.skipped
    assert torch.equal(flat(network), before)
    assert not step.optimizer.state


@pytest.mark.parametrize("make", [LBFGS, torch.optim.LBFGS], ids=["stepwell", "torch"])
@pytest.mark.parametrize("search", [None, "strong_wolfe"])
@pytest.mark.parametrize("fault", ["raises", "nan"])
def test_a_later_evaluation_that_fails_leaves_no_half_step(make: Any, search: str | None, fault: str) -> None:
    network, calls = model(), 0
    optimizer = make(network.parameters(), lr=0.5, max_iter=5, line_search_fn=search)
    step = Step(optimizer)
    step.closure(lambda: loss(network, *data()))
    before, state = flat(network), copy.deepcopy(optimizer.state_dict())

    def compute() -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls >= 2 and fault == "raises":
            raise ZeroDivisionError
        return loss(network, *data()) * (torch.nan if calls >= 2 else 1.0)

    if fault == "raises":
        with pytest.raises(ZeroDivisionError):
            step.closure(compute)
        assert torch.equal(flat(network), before)
        assert same(optimizer.state_dict(), state)
        assert step.number == 1
    else:
        step.closure(compute)
        assert torch.isfinite(flat(network)).all()
    worst = loss(network, *data()).item()
    assert step.closure(lambda: loss(network, *data())).updated
    assert loss(network, *data()).item() < worst  # it goes on


def test_an_optimizer_that_evaluates_the_loss_itself_is_not_stepped_with_a_loss() -> None:
    network = model()
    before = flat(network)
    with pytest.raises(
        UsageError, match=r"LBFGS evaluates the loss several times per update; call step\.closure\(lambda"
    ):
        Step(torch.optim.LBFGS(network.parameters()))(loss(network, *data()))
    assert torch.equal(flat(network), before)
    assert all(p.grad is None for p in network.parameters())


def test_closures_clip_every_gradient() -> None:
    network = model()
    before = flat(network)
    done = Step(SAM(network.parameters(), lr=1.0), clip_norm=0.01).closure(lambda: loss(network, *data()))
    assert done.clipped
    assert (flat(network) - before).norm().item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("make", [SGD, torch.optim.SGD])
def test_bf16_autocast(make: Any) -> None:
    network = model()
    step = Step(make(network.parameters(), lr=0.5), clip_norm=1.0)
    losses = []
    for _ in range(20):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = loss(network, *data())
        losses.append(step(value).loss)
    assert losses[-1] < 0.7 * losses[0]


def test_averages_of_bf16_weights_are_kept_in_fp32() -> None:
    network = model(dtype=torch.bfloat16)
    step = Step(SGD(network.parameters(), lr=1e-2), ema=Average(0.999, warmup=False), model=network)
    start = flat(network).float()
    moved = []
    for _ in range(5):
        with torch.no_grad():
            for p in network.parameters():
                p.add_(0.01)
        step(loss(network, data()[0].bfloat16(), data()[1]))
        moved.append(flat(network))
    expected = start
    for weights in moved:
        expected = expected + (1 - 0.999) * (weights.float() - expected)
    averages = torch.cat([average.reshape(-1) for average in step.average.averages])  # type: ignore[union-attr]
    assert averages.dtype == torch.float32
    torch.testing.assert_close(averages, expected)
    with step.averaged():
        assert torch.equal(flat(network), averages.bfloat16())
    assert torch.equal(flat(network), moved[-1])


def test_averages_take_the_buffers_of_the_model_along() -> None:
    network = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3))
    step = Step(SGD(network.parameters(), lr=0.1), ema=0.5, model=network)
    before = network[1].running_mean.clone()
    step(loss(network, *data()))
    after = network[1].running_mean.clone()
    with step.averaged():
        decay = 2 / 11
        torch.testing.assert_close(network[1].running_mean, before + (1 - decay) * (after - before))
    assert torch.equal(network[1].running_mean, after)


def test_weights_come_back_after_an_exception() -> None:
    network = model()
    step = Step(SGD(network.parameters(), lr=0.5), ema=0.9)
    step(loss(network, *data()))
    before = flat(network)
    inside = None
    try:
        with step.averaged():
            inside = flat(network)
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert inside is not None
    assert not torch.equal(inside, before)
    assert torch.equal(flat(network), before)


def test_a_plateau_lowers_the_rate() -> None:
    network = model()
    step = Step(SGD(network.parameters(), lr=1.0), constant(), plateau=Plateau(factor=0.5, patience=0))
    step.observe(1.0)
    step.observe(2.0)
    assert step(loss(network, *data())).lr == 0.5


def test_a_group_added_later_follows_the_schedule() -> None:
    network, more = model(), model(1)
    optimizer = SGD(network.parameters(), lr=1.0)
    network.append(nn.BatchNorm1d(3, affine=False))
    step = Step(optimizer, linear(4, to=0.0), ema=0.9, model=network)
    step(loss(network, *data()))
    optimizer.add_param_group({"params": list(more.parameters()), "lr": 8.0})
    step(loss(network, *data()) + loss(more, *data()))
    with step.averaged():  # the averages still belong to their tensors
        assert torch.isfinite(network(data()[0])).all()
    factor = linear(4, to=0.0)(2)
    assert [group["lr"] for group in optimizer.param_groups] == [factor, 8.0 * factor]


def test_two_networks_side_by_side() -> None:
    """A GAN in one dimension: each step moves its own network with its own loss's gradient, and only that."""
    generator, judge = nn.Linear(2, 1), nn.Linear(1, 1)
    step_g, step_d = Step(SGD(generator.parameters(), lr=0.1)), Step(SGD(judge.parameters(), lr=0.1))
    noise, real = torch.randn(8, 2), torch.randn(8, 1)
    for _ in range(3):
        frozen = flat(judge)
        step_g(-judge(generator(noise)).mean())  # leaves gradients in the judge
        assert torch.equal(flat(judge), frozen)
        value = judge(generator(noise).detach()).mean() - judge(real).mean()
        expected = torch.autograd.grad(value, list(judge.parameters()), retain_graph=True)
        step_d(value)
        moved = (frozen - flat(judge)) / 0.1
        torch.testing.assert_close(moved, torch.cat([part.reshape(-1) for part in expected]), rtol=1e-4, atol=1e-6)


def test_hooks_of_the_optimizer_run() -> None:
    network = model()
    optimizer = AdamW(network.parameters())
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    Step(optimizer)(loss(network, *data()))
    assert calls == ["before", "after"]


def test_a_torch_scheduler_beside_the_step_does_not_complain() -> None:
    network = model()
    optimizer = SGD(network.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    Step(optimizer)(loss(network, *data()))
    scheduler.step()  # it warns where no update came before
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


# Two processes

SIZES = {0: (4, 2, 3), 1: (1, 5, 2)}  # samples of each micro-batch, by process: the last one is a shorter accumulation


def _process(rank: int, port: int, results: Any) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://localhost:{port}", world_size=2, rank=rank)
    network = nn.parallel.DistributedDataParallel(model())
    step = Step(torch.optim.SGD(network.parameters(), lr=1.0), accumulate=2, model=network)
    x, y = data(sum(SIZES[0]) + sum(SIZES[1]))
    rows = torch.arange(len(x)).split([n for pair in zip(SIZES[0], SIZES[1], strict=True) for n in pair])[rank::2]
    for part in rows:
        step(loss(network, x[part], y[part]), weight=len(part))
    step.flush()
    results.put((rank, flat(network).tolist()))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_make_the_update_of_one_big_batch() -> None:
    found = dict(in_two_processes(_process))

    network = model()
    x, y = data(17)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    for rows in (slice(0, 12), slice(12, 17)):
        loss(network, x[rows], y[rows]).backward()
        optimizer.step()
        optimizer.zero_grad()
    for rank in range(2):
        torch.testing.assert_close(torch.tensor(found[rank]), flat(network), rtol=1e-5, atol=1e-6)
