"""Estimates of the Hessian that the step makes: right in the mean, those of one big batch, and leaving no trace."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian as second
from torch.nn import functional

from stepwell.errors import UsageError
from stepwell.optimizers import AdamW, Lookahead, Sophia
from stepwell.schedules import linear
from stepwell.step import Estimator, GaussNewtonBartlett, Hutchinson, Step
from tests.processes import in_two_processes
from tests.step.small import data, flat, model, same

BOTH = [GaussNewtonBartlett, Hutchinson]


def sophia(network: nn.Module, **options: Any) -> Sophia:
    """Its slot `hessian` is the last estimate."""
    return Sophia(network.named_parameters(), **{"lr": 0.01, "rho": 1.0, "betas": (0.9, 0.0), **options})


def advance(step: Step, network: nn.Module, x: Tensor, y: Tensor, weight: float = 1, blown: float = 1.0) -> Any:
    logits = network(x)
    loss = functional.cross_entropy(logits, y) * blown
    return step(loss, weight=weight, **({"logits": logits} if step.estimator.takes_logits else {}))


def hessian(optimizer: Sophia) -> Tensor:
    return torch.cat([optimizer.state[p]["hessian"].reshape(-1) for g in optimizer.param_groups for p in g["params"]])


def line() -> tuple[nn.Linear, Tensor, Tensor]:
    torch.manual_seed(0)
    x, y = data(6, dtype=torch.float64)
    return nn.Linear(5, 3, dtype=torch.float64), x, y


def whole_hessian(network: nn.Linear, x: Tensor, y: Tensor) -> Tensor:
    """The diagonal, of a layer before a softmax the same as Gauss-Newton's: p * (1 - p) * x^2 in the mean."""
    weight, bias = network.weight.detach(), network.bias.detach()
    of_weight = second(lambda w: functional.cross_entropy(functional.linear(x, w, bias), y), weight)
    of_bias = second(lambda b: functional.cross_entropy(functional.linear(x, weight, b), y), bias)
    return torch.cat([of_weight.reshape(15, 15).diagonal(), of_bias.diagonal()])


@pytest.mark.parametrize("make", BOTH)
@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_mean_of_many_estimates_is_the_diagonal(make: Any, accumulate: int) -> None:
    """Of micro-batches of 3, 1 and 2 samples, weighted by their sizes, as of the whole batch."""
    network, x, y = line()
    optimizer = sophia(network, lr=0.0)
    step = Step(optimizer, estimator=make(every=1), accumulate=accumulate)
    found = []
    for _ in range(1500):
        for a, b in [(0, 3), (3, 4), (4, 6)] if accumulate == 3 else [(0, 6)]:
            advance(step, network, x[a:b], y[a:b], weight=b - a)
        found.append(hessian(optimizer))
    estimates = torch.stack(found)
    wanted, error = whole_hessian(network, x, y), estimates.std(0) / len(found) ** 0.5
    assert (estimates.mean(0) - wanted).abs().le(4.5 * error).all()
    assert (error < 0.1 * wanted).all()  # what is off by a factor is seen
    assert (estimates >= 0).all() == (make is GaussNewtonBartlett)


def test_weights_that_are_not_sizes_weigh_the_curvature_as_they_weigh_the_loss() -> None:
    network, x, y = line()
    optimizer = sophia(network, lr=0.0)
    step = Step(optimizer, estimator=GaussNewtonBartlett(every=1), accumulate=2)
    found = []
    for _ in range(3000):
        advance(step, network, x[:2], y[:2], weight=9.0)
        advance(step, network, x[2:], y[2:], weight=torch.tensor(1.0))
        found.append(hessian(optimizer))
    wanted = 0.9 * whole_hessian(network, x[:2], y[:2]) + 0.1 * whole_hessian(network, x[2:], y[2:])
    error = torch.stack(found).std(0) / len(found) ** 0.5
    assert (torch.stack(found).mean(0) - wanted).abs().le(4.5 * error).all()
    assert ((whole_hessian(network, x, y) - wanted).abs() > 6 * error).any()


def test_hutchinson_of_micro_batches_is_that_of_one_big_batch() -> None:
    found = []
    for parts in ([(0, 12)], [(0, 5), (5, 6), (6, 12)]):
        network = model(dtype=torch.float64)
        optimizer = sophia(network)
        step = Step(optimizer, estimator=Hutchinson(every=1, seed=3), accumulate=len(parts))
        x, y = data(dtype=torch.float64)
        for _ in range(3):
            for a, b in parts:
                advance(step, network, x[a:b], y[a:b], weight=b - a)
        found.append((hessian(optimizer), flat(network)))
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)


def test_gauss_newton_bartlett_is_the_batch_times_the_square(monkeypatch: pytest.MonkeyPatch) -> None:
    """Algorithm 2 by hand, for labels that are known."""
    network = model(dtype=torch.float64)
    x, y = data(dtype=torch.float64)
    labels = torch.arange(12) % 3
    rest = iter([labels[:5], labels[5:]])
    monkeypatch.setattr(GaussNewtonBartlett, "_drawn", lambda self, rows: next(rest))
    optimizer = sophia(network, lr=0.0)
    step = Step(optimizer, estimator=GaussNewtonBartlett(), accumulate=2)
    advance(step, network, x[:5], y[:5], weight=5)
    advance(step, network, x[5:], y[5:], weight=7)
    grads = torch.autograd.grad(functional.cross_entropy(network(x), labels), list(network.parameters()))
    wanted = torch.cat([12 * (g * g).reshape(-1) for g in grads])
    torch.testing.assert_close(hessian(optimizer), wanted, rtol=1e-10, atol=1e-14)


def test_labels_come_as_often_as_the_model_says_and_never_where_it_says_never() -> None:
    estimator = GaussNewtonBartlett(seed=7)
    rows = torch.tensor([0.5, 0.0, 0.3, 0.2, 0.0]).log().expand(40_000, 5)
    counts = torch.bincount(estimator._drawn(rows), minlength=5) / 40_000
    # three standard deviations are 3 * sqrt(0.25 / 40000)
    torch.testing.assert_close(counts, torch.tensor([0.5, 0.0, 0.3, 0.2, 0.0]), rtol=0, atol=0.0075)
    assert counts[1] == counts[4] == 0
    for point in (0.0, 1 - 2.0**-24):  # the first and the last of the numbers that are drawn
        estimator._uniform = lambda count, device, point=point: torch.full((count,), point)
        edge = torch.tensor([[0.0, 0.1, 0.2, 0.7, 0.0], [0.0, 1.0, 0.0, 0.0, 0.0]]).log()
        assert estimator._drawn(edge).tolist() == [1 if point == 0 else 3, 1]
        many = torch.randn(1, 50_000, generator=torch.Generator().manual_seed(0))  # in fp32 their sum is 1 - 2**-23
        many[0, -1] = -torch.inf
        assert estimator._drawn(many).item() < 49_999
    estimator = GaussNewtonBartlett(seed=7)
    estimator.updates = 1
    assert not torch.equal(estimator._drawn(rows), GaussNewtonBartlett(seed=7)._drawn(rows))
    assert not torch.equal(GaussNewtonBartlett(seed=8)._drawn(rows), GaussNewtonBartlett(seed=7)._drawn(rows))


def test_bernoulli_is_the_curvature_of_binary_cross_entropy() -> None:
    torch.manual_seed(0)
    network = nn.Linear(5, 2, dtype=torch.float64)
    x, target = data(dtype=torch.float64)[0], torch.ones(12, 2, dtype=torch.float64)
    optimizer = sophia(network, lr=0.0)
    step = Step(optimizer, estimator=GaussNewtonBartlett(every=1, likelihood="bernoulli"))
    found = []
    for _ in range(1500):
        logits = network(x)
        step(functional.binary_cross_entropy_with_logits(logits, target), logits=logits)
        found.append(optimizer.state[network.weight]["hessian"].clone())
    p = network(x).detach().sigmoid()
    wanted = (p * (1 - p)).T @ x.square() / 24
    error = torch.stack(found).std(0) / len(found) ** 0.5
    assert (torch.stack(found).mean(0) - wanted).abs().le(4.5 * error).all()
    assert (error < 0.1 * wanted).all()


def test_signs_are_of_both_kinds_and_of_each_tensor_its_own() -> None:
    estimator = Hutchinson()
    estimator._params = [torch.zeros(4000), torch.zeros(40, 100)]
    estimator._refresh()
    first, second = (u.reshape(-1) for u in estimator._signs)
    assert set(first.tolist()) == {-1.0, 1.0}
    for sums in (first.sum(), second.sum(), (first * second).sum(), (first[1:] * first[:-1]).sum()):
        assert abs(float(sums)) < 4 * 4000**0.5


@pytest.mark.parametrize("make", BOTH)
def test_every_k_updates_and_the_first_at_once(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    network = model()
    optimizer = sophia(network)
    step = Step(optimizer, estimator=make(every=4), accumulate=2)
    given: list[int] = []
    plain = Sophia.add_hessian

    def noted(self: Any, estimates: Any, found_inf: Any) -> None:
        given.append(step.number)
        plain(self, estimates, found_inf)

    monkeypatch.setattr(Sophia, "add_hessian", noted)
    for _ in range(20):
        advance(step, network, *data())
    assert given == [0, 4, 8]
    assert make().every == 10


@pytest.mark.parametrize("make", BOTH)
def test_nothing_is_left_behind(make: Any) -> None:
    """No gradient is other than it would be, no generator of the run moves, no tensor is kept."""

    def grads(estimator: Estimator | None, optimizer: torch.optim.Optimizer, network: nn.Module) -> list[Tensor]:
        torch.manual_seed(5)
        np.random.seed(5)  # noqa: NPY002
        random.seed(5)
        seen: list[Tensor] = []
        optimizer.register_step_pre_hook(lambda *_: seen.extend(p.grad.clone() for p in network.parameters()))
        step = Step(optimizer, accumulate=2, estimator=estimator)
        for seed in range(2):
            x, y = data(seed=seed)
            logits = network(x)
            loss = functional.cross_entropy(functional.dropout(logits, 0.5), y)
            step(loss, **({"logits": logits} if estimator is not None and estimator.takes_logits else {}))
        assert all(p.grad is None for p in network.parameters())
        return [*seen, torch.rand(1), torch.tensor(random.random()), torch.tensor(np.random.rand())]  # noqa: NPY002

    estimator = make()
    with_it, without = model(), model()
    one = grads(estimator, sophia(with_it), with_it)
    assert same(one, grads(None, AdamW(without.named_parameters()), without))
    assert len(one) == 4 + 3
    assert not estimator._sums
    assert not estimator._params
    assert not getattr(estimator, "_signs", [])


@pytest.mark.parametrize("state", ["fp32", "bf16", "int8", "int4"])
@pytest.mark.parametrize("make", BOTH)
def test_what_is_skipped_changes_no_bit_of_the_curvature(make: Any, state: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 1000), nn.Tanh(), nn.Linear(1000, 3))
    optimizer = sophia(network, betas=(0.9, 0.5), state=state)
    step = Step(optimizer, estimator=make(every=1))
    x, y = data()
    for _ in range(3):
        advance(step, network, x, y)
    before = {p: {name: value.clone() for name, value in s.items()} for p, s in optimizer.state.items()}
    weights = flat(network)
    assert advance(step, network, x, y, blown=torch.inf).skipped
    assert same(list(before.values()), [dict(s) for s in optimizer.state.values()])
    assert torch.equal(weights, flat(network))
    assert advance(step, network, x, y).updated
    assert not torch.equal(before[network[0].weight]["hessian"], optimizer.state[network[0].weight]["hessian"])


def test_an_estimate_that_is_not_finite_is_dropped_though_the_gradient_is() -> None:
    """|p|^1.5 at 0: a gradient of 0, and no finite curvature."""
    p, other = torch.zeros(2, requires_grad=True), torch.ones(2, requires_grad=True)
    optimizer = Sophia([p, other], lr=0.1)
    step = Step(optimizer, estimator=Hutchinson())
    assert step(p.abs().pow(1.5).sum() + p.sum() + other.square().sum()).updated
    assert optimizer.state[p]["hessian"].tolist() == optimizer.state[other]["hessian"].tolist() == [0.0, 0.0]
    assert torch.isfinite(p).all()


@pytest.mark.parametrize("make", BOTH)
def test_a_scaler_cancels(make: Any) -> None:
    found = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=2.0**10)):
        network = model()
        optimizer = sophia(network)
        step = Step(optimizer, estimator=make(every=2), scaler=scaler)
        for seed in range(5):
            advance(step, network, *data(seed=seed))
        found.append((hessian(optimizer), flat(network)))
    assert same(*found)  # a power of two rounds nothing


@pytest.mark.parametrize("make", BOTH)
def test_a_part_of_the_micro_batches_will_do(make: Any) -> None:
    found = []
    for accumulate in (1, 3):
        network = model()
        optimizer = sophia(network)
        step = Step(optimizer, estimator=make(micro_batches=1), accumulate=accumulate)
        for seed in range(accumulate):
            advance(step, network, *data(seed=seed))
        found.append(hessian(optimizer))
    assert torch.equal(*found)


def test_a_function_of_logits_is_called_when_an_estimate_is_due_only() -> None:
    network = model()
    optimizer = sophia(network)
    step = Step(optimizer, estimator=GaussNewtonBartlett(every=3))
    calls = []

    def few(x: Tensor) -> Tensor:
        calls.append(step.number)
        return network(x[:4])

    for seed in range(7):
        x, y = data(seed=seed)
        step(functional.cross_entropy(network(x), y), logits=lambda x=x: few(x))
    assert calls == [0, 3, 6]


def test_what_the_loss_does_not_depend_on_has_no_estimate_and_what_is_linear_has_curvature_zero() -> None:
    p, straight, unused, frozen = (torch.ones(2, requires_grad=i < 3) for i in range(4))
    optimizer = Sophia([p, straight, unused, frozen], betas=(0.9, 0.0))
    step = Step(optimizer, estimator=Hutchinson())
    step((p**2).sum() * 3 + straight.sum())
    assert optimizer.state[p]["hessian"].tolist() == [6.0, 6.0]
    assert optimizer.state[straight]["hessian"].tolist() == [0.0, 0.0]
    assert not optimizer.state[unused]
    assert not optimizer.state[frozen]


def test_a_parameter_that_is_thawed_has_estimates_from_then_on() -> None:
    network = model()
    network[0].weight.requires_grad_(False)
    optimizer = sophia(network)
    step = Step(optimizer, estimator=GaussNewtonBartlett(every=1))
    advance(step, network, *data())
    assert not optimizer.state[network[0].weight]
    network[0].weight.requires_grad_(True)
    advance(step, network, *data())
    assert (optimizer.state[network[0].weight]["hessian"] > 0).any()


def test_row_sparse_gradients_give_dense_estimates() -> None:
    found = []
    for sparse in (False, True):
        torch.manual_seed(0)
        network = nn.Sequential(nn.EmbeddingBag(10, 4, mode="sum", sparse=sparse), nn.Linear(4, 3))
        optimizer = sophia(network)
        step = Step(optimizer, estimator=GaussNewtonBartlett())
        logits = network(torch.tensor([[1, 2], [2, 5]]))
        step(functional.cross_entropy(logits, torch.tensor([0, 2])), logits=logits)
        found.append(hessian(optimizer))
    torch.testing.assert_close(*found)
    assert (found[0] > 0).any()


# A run goes on


@pytest.mark.parametrize("make", BOTH)
def test_a_run_goes_on_bit_for_bit(make: Any, tmp_path: Path) -> None:
    def begun(seed: int) -> tuple[nn.Module, Step]:
        network = model()
        optimizer = sophia(network, betas=(0.9, 0.9), state="bf16")
        return network, Step(optimizer, linear(40), estimator=make(every=4, seed=seed), accumulate=2, model=network)

    def updates(network: nn.Module, step: Step, numbers: range) -> None:
        for seed in numbers:
            advance(step, network, *data(seed=seed))

    whole, step = begun(11)
    updates(whole, step, range(40))
    part, first = begun(11)
    updates(part, first, range(14))
    first.save(tmp_path / "run.pt")
    again, second = begun(99)  # what it draws comes with the checkpoint
    second.load(tmp_path / "run.pt")
    assert second.estimator is not None
    assert second.estimator.updates == 7
    updates(again, second, range(14, 40))
    assert torch.equal(flat(whole), flat(again))
    assert same([dict(s) for s in step.optimizer.state.values()], [dict(s) for s in second.optimizer.state.values()])
    other, third = begun(99)
    updates(other, third, range(40))
    assert not torch.equal(flat(other), flat(whole))


def test_checkpoints_of_others_are_refused() -> None:
    first = Step(sophia(model()), estimator=Hutchinson())
    saved = first.state_dict()
    with pytest.raises(UsageError, match=r"the checkpoint is of estimator=Hutchinson\(\), this Step has Gauss"):
        Step(sophia(model()), estimator=GaussNewtonBartlett()).load_state_dict(saved)
    with pytest.raises(UsageError, match="the checkpoint has 'estimator'"):
        Step(AdamW(model().named_parameters())).load_state_dict(saved)


def test_a_switch_leaves_the_estimator_off_and_takes_it_up_again(tmp_path: Path) -> None:
    def begun() -> tuple[nn.Module, Step]:
        network = model()
        return network, Step(sophia(network), estimator=Hutchinson(every=2), model=network)

    network, step = begun()
    advance(step, network, *data())
    step.switch("adamw", lr=0.01)
    assert step.estimator is None
    x, y = data()
    step(functional.cross_entropy(network(x), y))
    step.save(tmp_path / "run.pt")
    again, other = begun()
    other.load(tmp_path / "run.pt")
    for one, net in ((step, network), (other, again)):
        assert one.estimator is None
        one(functional.cross_entropy(net(x), y))
        one.switch("sophia", lr=0.01)
        advance(one, net, x, y)
        advance(one, net, x, y)
        assert (hessian(one.optimizer) != 0).all()  # type: ignore[arg-type]
    without = Step(AdamW(model().named_parameters()))
    before = without.optimizer
    with pytest.raises(UsageError, match="Sophia needs estimates of the Hessian, and this Step has no estimator"):
        without.switch("sophia", lr=0.01)
    assert without.optimizer is before


def test_a_wrapper_around_sophia_hands_estimates_on() -> None:
    found = []
    for wrapped in (False, True):
        network = model()
        inside = sophia(network)
        step = Step(Lookahead(inside) if wrapped else inside, estimator=Hutchinson(every=1))
        for seed in range(3):
            advance(step, network, *data(seed=seed))
        found.append(hessian(inside))
    assert torch.equal(*found)
    with pytest.raises(UsageError, match="Sophia needs estimates"):
        Step(Lookahead(sophia(model())))


# Two processes

SIZES = {0: (4, 2, 3), 1: (1, 5, 2)}  # samples of each micro-batch, by process: the last one is a shorter accumulation


def _alike(patch: pytest.MonkeyPatch) -> None:
    """What is drawn does not depend on how the batch is divided."""
    patch.setattr(GaussNewtonBartlett, "_drawn", lambda self, rows: rows.argmin(dim=1))
    patch.setattr(Estimator, "_stream", lambda self, place, number: 7 * place + self.updates)


def _process(rank: int, port: int, results: Any) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://localhost:{port}", world_size=2, rank=rank)
    x, y = data(17)
    rows = torch.arange(17).split([n for pair in zip(SIZES[0], SIZES[1], strict=True) for n in pair])[rank::2]
    for make in BOTH:
        keys = []
        for alike in (False, True):
            with pytest.MonkeyPatch.context() as patch:
                if alike:
                    _alike(patch)
                network = nn.parallel.DistributedDataParallel(model())
                optimizer = sophia(network)
                step = Step(optimizer, accumulate=2, model=network, estimator=make(every=1))
                keys.append(step.estimator._stream(0, 1))  # type: ignore[union-attr]
                for part in rows:
                    advance(step, network, x[part], y[part], weight=len(part))
                step.flush()
        results.put((rank, make.__name__, keys[0], hessian(optimizer).tolist(), flat(network).tolist()))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_make_the_estimate_of_one_big_batch() -> None:
    found = {(rank, name): rest for rank, name, *rest in in_two_processes(_process, answers=4)}
    for make in BOTH:
        with pytest.MonkeyPatch.context() as patch:
            _alike(patch)
            network = model()
            optimizer = sophia(network)
            step = Step(optimizer, estimator=make(every=1))
            x, y = data(17)
            for rows in (slice(0, 12), slice(12, 17)):
                advance(step, network, x[rows], y[rows])
        for rank in range(2):
            _, curvature, weights = found[rank, make.__name__]
            torch.testing.assert_close(torch.tensor(curvature), hessian(optimizer), rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(torch.tensor(weights), flat(network), rtol=1e-5, atol=1e-6)
        assert found[0, make.__name__][0] != found[1, make.__name__][0]  # else their labels would go together


# It cannot be forgotten


def test_a_step_around_sophia_without_an_estimator_is_refused() -> None:
    with pytest.raises(UsageError, match=r"Sophia needs estimates.*estimator=GaussNewtonBartlett\(\).*Hutchinson\(\)"):
        Step(sophia(model()))


def test_logits_cannot_be_forgotten_even_where_no_estimate_is_due() -> None:
    network = model()
    step = Step(sophia(network), estimator=GaussNewtonBartlett(every=3))
    advance(step, network, *data())
    weights = flat(network)
    x, y = data()
    with pytest.raises(UsageError, match=r"pass them as step\(loss, logits=logits\)"):
        step(functional.cross_entropy(network(x), y))
    assert torch.equal(weights, flat(network))
    assert advance(step, network, x, y).updated


def test_a_plain_loop_that_forgets_is_stopped_before_it_changes_anything() -> None:
    p = torch.ones(2, requires_grad=True)
    optimizer = Sophia([p])
    p.grad = torch.ones(2)
    for _ in range(60):
        optimizer.step()
    optimizer.hutchinson((p**2).sum())
    for _ in range(100):
        optimizer.step()
    before = p.detach().clone(), float(optimizer.state[p]["step"])
    for _ in range(2):
        with pytest.raises(UsageError, match=r"no estimate of the Hessian for 100 steps.*estimator=.*hutchinson\(loss"):
            optimizer.step()
    assert torch.equal(before[0], p)
    assert before[1] == float(optimizer.state[p]["step"]) == 160
    optimizer.hutchinson((p**2).sum())
    optimizer.step()
    assert not torch.equal(before[0], p)


def test_estimates_as_rare_as_allowed_are_enough() -> None:
    p = torch.ones(2, requires_grad=True)
    step = Step(Sophia([p], lr=1e-4), estimator=Hutchinson(every=100))
    for _ in range(203):
        assert step((p**2).sum()).updated


def _used_up(network: nn.Module) -> Any:
    return Hutchinson(), (torch.ones(2, requires_grad=True) ** 2).sum(), None


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: Hutchinson(every=0), "every=0; it must be a whole number from 1 to 100"),
        (lambda: Hutchinson(every=101), "every=101; it must"),
        (lambda: Hutchinson(every=2.0), "every=2.0; it must"),
        (lambda: Hutchinson(micro_batches=0), "micro_batches=0; it must be a whole number of at least 1"),
        (lambda: GaussNewtonBartlett(seed=-1), "seed=-1"),
        (lambda: GaussNewtonBartlett(likelihood="normal"), "likelihood='normal'.*'bernoulli'.*Hutchinson"),
        (lambda: Step(AdamW([torch.ones(1, requires_grad=True)]), estimator=Hutchinson()), "AdamW does not use"),
        (lambda: Step(sophia(model()), estimator="hutchinson"), "estimator is a str; it must be GaussNewtonBartlett"),  # type: ignore[arg-type]
    ],
)
def test_bad_settings(call: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        call()


@pytest.mark.parametrize(
    ("estimator", "make", "said"),
    [
        (GaussNewtonBartlett(), lambda net, x: (net(x).sum(), net(x).detach()), "logits have no graph"),
        (GaussNewtonBartlett(), lambda net, x: (net(x).sum(), net(x)[0]), r"shape \(3,\).*bernoulli"),
        (GaussNewtonBartlett(), lambda net, x: (net(x).sum(), net(x)[:, :1]), r"shape \(12, 1\)"),
        (GaussNewtonBartlett(), lambda net, x: (net(x).sum(), [1]), "logits is a list"),
        (GaussNewtonBartlett(), lambda net, x: (net(x).sum(), lambda: None), "logits is a NoneType"),
        (
            GaussNewtonBartlett(),
            lambda net, x: (net(x).sum(), torch.zeros(4, 3, requires_grad=True) * 2),
            "finds no parameter of the optimizer in the graph",
        ),
        (Hutchinson(), lambda net, x: (net(x).sum(), net(x)), "logits have no effect with Hutchinson"),
        (None, lambda net, x: (net(x).sum(), net(x)), "logits have no effect without an estimator"),
    ],
)
def test_bad_calls_change_nothing(estimator: Estimator | None, make: Any, said: str) -> None:
    network = model()
    optimizer = sophia(network) if estimator is not None else AdamW(network.named_parameters())
    step = Step(optimizer, estimator=estimator)
    weights = flat(network)
    loss, logits = make(network, data()[0])
    with pytest.raises(UsageError, match=said):
        step(loss, logits=logits)
    assert torch.equal(weights, flat(network))
    assert not optimizer.state
    assert step.accumulated == 0
    assert all(p.grad is None for p in network.parameters())


def test_a_loss_without_second_derivatives_names_the_way_out() -> None:
    q = torch.randn(1, 1, 4, 8, requires_grad=True)
    step = Step(Sophia([q]), estimator=Hutchinson())
    with pytest.raises(UsageError, match=r"no second derivative.*GaussNewtonBartlett.*SDPBackend\.MATH"):
        step(functional.scaled_dot_product_attention(q, q, q, is_causal=True).square().sum())


def test_closures_and_a_second_step_are_refused() -> None:
    network = model()
    estimator = Hutchinson()
    step = Step(sophia(network), estimator=estimator)
    with pytest.raises(UsageError, match=r"closure\(\) makes no estimates.*Hutchinson\(every=10\)"):
        step.closure(lambda: network(data()[0]).sum())
    with pytest.raises(UsageError, match="already belongs to another optimizer"):
        Step(sophia(model()), estimator=estimator)
    Step(step.optimizer, estimator=estimator)  # the same run, made anew


def test_a_loss_that_fails_leaves_no_part_of_an_estimate() -> None:
    found = []
    for fails in (False, True):
        network = model()
        optimizer = sophia(network)
        step = Step(optimizer, estimator=Hutchinson(every=1), accumulate=2)
        if fails:
            advance(step, network, *data(seed=9))
            with pytest.raises(UsageError):
                step(torch.ones(1, requires_grad=True).sum())
        for seed in range(2):
            advance(step, network, *data(seed=seed))
        found.append(hessian(optimizer))
    assert torch.equal(*found)


# It trains


@pytest.mark.parametrize(("make", "rho"), [(GaussNewtonBartlett, 0.05), (Hutchinson, 0.01)])
def test_it_trains(make: Any, rho: float) -> None:
    network = model()
    step = Step(Sophia(network.named_parameters(), lr=0.02, rho=rho, weight_decay=0.0), estimator=make())
    x, y = data()
    losses = [advance(step, network, x, y).loss for _ in range(200)]
    assert losses[-1] < 0.1 < 0.9 < losses[0]
