"""Gradients that are released: each parameter is updated inside the backward pass, and the weights are the same."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import stepwell as sw
from stepwell.errors import UsageError
from stepwell.optimizers import TABLE, find
from stepwell.step import AdaptiveClip, AutoClip, ClipNorm, ClipRecentNorm, ClipValue, Hutchinson, Step
from tests.step.small import data, flat, loss, model, same

STEPS = 5


def wide(dtype: torch.dtype = torch.float32) -> nn.Module:
    """Matrices of more than 4,096 elements, which have codes, too."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 66), nn.Tanh(), nn.Linear(66, 70), nn.Tanh(), nn.Linear(70, 3)).to(dtype)


def optimizer_of(name: str, network: nn.Module, **options: Any) -> Any:
    return find(name)(network if name == "Muon" else network.named_parameters(), **options)


def trained(make: Any, release: bool, steps: int = STEPS, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    """A network and its Step after some updates."""
    network = wide(dtype)
    options = {"schedule": sw.schedules.linear(20), "ema": 0.9, "model": network, **options}
    step = Step(make(network), release=release, **options)
    x, y = data(dtype=dtype)
    done = [step(loss(network, x, y)) for _ in range(steps)]
    assert all(p.grad is None for p in network.parameters())
    return network, step, done


def names() -> list[str]:
    """The optimizers that can release gradients."""
    found = []
    for name in TABLE:
        cls = find(name)
        network = wide()
        try:
            Step(optimizer_of(name, network), release=True)
        except (UsageError, TypeError):
            continue
        found.append(cls.__name__)
    return found


def test_most_optimizers_can() -> None:
    assert {"AdamW", "SGD", "Lion", "LAMB", "LARS", "Adafactor", "Muon", "SOAP", "NAdam"} <= set(names())
    assert len(names()) >= 25


@pytest.mark.filterwarnings("ignore:.* is saved in train mode")
@pytest.mark.parametrize("name", names())
def test_the_weights_are_those_of_an_update_of_all(name: str) -> None:
    ours, theirs = (trained(lambda n: optimizer_of(name, n), release) for release in (True, False))
    is_of_matrices = any(signature.view != "element" for signature in find(name).signatures.values())
    if is_of_matrices:  # a stack of one matrix
        torch.testing.assert_close(flat(ours[0]), flat(theirs[0]), rtol=1e-4, atol=1e-6)
        return
    assert torch.equal(flat(ours[0]), flat(theirs[0]))
    assert same(ours[1].optimizer.state_dict()["state"], theirs[1].optimizer.state_dict()["state"])
    assert ours[1].number == theirs[1].number == STEPS
    assert [one.lr for one in ours[2]] == [one.lr for one in theirs[2]]
    for one, other in zip(ours[2], theirs[2], strict=True):
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-5)
        assert one.loss == other.loss
        assert one.updated
    with ours[1].averaged(), theirs[1].averaged():
        assert torch.equal(flat(ours[0]), flat(theirs[0]))


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (torch.float32, {"state": "int8"}),
        (torch.float32, {"state": "int4"}),
        (torch.float32, {"state": "bf16"}),
        (torch.float32, {"cautious": True}),
        (torch.float32, {"backend": "eager"}),
        (torch.bfloat16, {"weights": "split"}),
        (torch.bfloat16, {"weights": "stochastic"}),
        (torch.float64, {}),
    ],
)
def test_in_every_format(dtype: torch.dtype, options: dict[str, Any]) -> None:
    def make(network: nn.Module) -> Any:
        return sw.AdamW(network.named_parameters(), lr=0.01, **options)

    ours, theirs = (trained(make, release, dtype=dtype) for release in (True, False))
    assert torch.equal(flat(ours[0]), flat(theirs[0]))
    assert same(ours[1].optimizer.state_dict()["state"], theirs[1].optimizer.state_dict()["state"])


@pytest.mark.parametrize("clip", [ClipValue(0.001), AdaptiveClip(0.01)], ids=repr)
def test_clipping_of_single_gradients_is_as_ever(clip: Any) -> None:
    ours, theirs = (trained(lambda n: sw.SGD(n.named_parameters(), lr=0.5), r, clip=clip) for r in (True, False))
    assert torch.equal(flat(ours[0]), flat(theirs[0]))
    assert [one.clipped for one in ours[2]] == [one.clipped for one in theirs[2]]
    assert ours[2][0].clipped


def test_recent_norms_clip() -> None:
    """With SGD at lr 1 the weights move by the clipped gradient."""
    network = model()
    step = Step(sw.SGD(network.named_parameters(), lr=1.0), clip=ClipRecentNorm(0.1, window=3), release=True)
    x, y = data()
    moves, norms = [], []
    for factor in (1.0, 1.0, 1.0, 50.0, 1.0):
        before = flat(network)
        done = step(loss(network, x, y) * factor)
        moves.append(float((flat(network) - before).norm()))
        norms.append(done.grad_norm)
        assert done.clipped
    assert 0.1 < moves[0] < 0.2  # without a norm before it, each gradient is clipped by those that came earlier
    assert moves[1] == pytest.approx(0.1 * norms[1] / max(norms[0], norms[1]), rel=0.05)
    assert moves[3] < 0.2  # a gradient 50 times as large moves the weights twice as far at the most
    assert moves[4] == pytest.approx(0.1 * norms[4] / sorted(norms[1:4])[1], rel=0.05)


def test_recent_norms_are_part_of_a_checkpoint(tmp_path: Path) -> None:
    def make() -> Any:
        network = wide()
        optimizer = sw.AdamW(network.named_parameters(), lr=0.01)
        return network, Step(optimizer, model=network, clip=ClipRecentNorm(0.01, window=3), release=True, ema=0.9)

    x, y = data()
    network, step = make()
    for _ in range(3):
        step(loss(network, x, y))
    step.save(tmp_path / "checkpoint.pt")
    for _ in range(3):
        step(loss(network, x, y))
    again, resumed = make()
    resumed.load(tmp_path / "checkpoint.pt")
    assert resumed.number == 3
    for _ in range(3):
        resumed(loss(again, x, y))
    assert torch.equal(flat(again), flat(network))
    _, other = make()
    other.clip = ClipRecentNorm(0.01, window=5)
    with pytest.raises(UsageError, match="window of 3 norms, this Step has window=5"):
        other.load(tmp_path / "checkpoint.pt")


def test_without_release_recent_norms_clip_at_least_as_the_norm() -> None:
    def after(clip: Any) -> Tensor:
        network = model()
        step = Step(sw.SGD(network.named_parameters(), lr=1.0), clip=clip)
        before = flat(network)
        step(loss(network, *data()))
        return flat(network) - before

    torch.testing.assert_close(after(ClipRecentNorm(0.1)), after(ClipNorm(0.1)))


def test_a_gradient_is_freed_before_the_next_is_complete() -> None:
    network = nn.Sequential(*[nn.Linear(64, 64, bias=False) for _ in range(8)])
    step = Step(sw.AdamW(network.named_parameters()), release=True)
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def look(p: Tensor) -> None:
        nonlocal most
        assert p.grad is not None
        alive.append(weakref.ref(p.grad))
        most = max(most, sum(one() is not None for one in alive))

    for p in network.parameters():  # before those of the Step, which are registered by its first backward pass
        p.register_post_accumulate_grad_hook(look)
    for _ in range(3):
        step(network(torch.randn(4, 64)).square().mean())
    gc.collect()
    assert len(alive) == 24
    assert most == 1


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"state": "bf16"}])
def test_sgd_adds_up_gradients_in_its_buffer(options: dict[str, Any]) -> None:
    def after(release: bool) -> Any:
        network = wide()
        optimizer = sw.SGD(network.named_parameters(), lr=0.1, momentum=0.9, **options)
        step = Step(optimizer, sw.schedules.linear(10), accumulate=3, release=release, model=network)
        x, y = data()
        done = [step(loss(network, x[i % 3 :: 3], y[i % 3 :: 3])) for i in range(12)]
        assert [one.updated for one in done] == [False, False, True] * 4
        assert step.number == 4
        return flat(network), step.optimizer.state_dict()["state"], done

    ours, theirs = after(True), after(False)
    rtol = 0.05 if "state" in options else 1e-5  # the buffer is rounded three times for each update
    torch.testing.assert_close(ours[0], theirs[0], rtol=rtol, atol=1e-3 if "state" in options else 1e-6)
    assert [float(one["step"]) for one in ours[1].values()] == [float(one["step"]) for one in theirs[1].values()]
    for one, other in zip(ours[2], theirs[2], strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-3)


def test_a_parameter_whose_gradient_is_not_finite_is_left_and_others_are_updated() -> None:
    network = model()
    step = Step(sw.AdamW(network.named_parameters(), lr=0.1), sw.schedules.linear(10), release=True)
    x, y = data()
    step(loss(network, x, y))
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    state = {p: {k: v.clone() for k, v in step.optimizer.state[p].items()} for p in network.parameters()}
    first = network[0].weight
    hook = first.register_hook(lambda gradient: gradient * torch.nan)
    done = step(loss(network, x, y))
    hook.remove()
    assert done.updated
    assert not torch.isfinite(torch.tensor(done.grad_norm))
    assert torch.equal(first, before["0.weight"])
    assert same(dict(step.optimizer.state[first]), state[first])
    assert not torch.equal(network[2].weight, before["2.weight"])
    now = flat(network)
    done = step(loss(network, x, y) * torch.nan)  # all gradients
    assert done.skipped
    assert torch.equal(flat(network), now)
    assert (step.number, step.skipped) == (2, 1)
    assert step(loss(network, x, y)).updated


def test_other_backward_passes_leave_gradients_alone() -> None:
    network = model()
    step = Step(sw.AdamW(network.named_parameters(), lr=0.1), release=True)
    x, y = data()
    step(loss(network, x, y))
    before = flat(network)
    loss(network, x, y).backward()
    assert all(p.grad is not None for p in network.parameters())
    assert torch.equal(flat(network), before)
    del step
    gc.collect()
    loss(network, x, y).backward()  # the hooks of a Step that is gone do nothing
    assert torch.equal(flat(network), before)


def test_an_update_of_all_in_between_is_as_ever() -> None:
    def after(release: bool) -> Tensor:
        network = wide()
        optimizer = sw.AdamW(network.named_parameters(), lr=0.01, state="int8")
        step = Step(optimizer, release=release)
        x, y = data()
        for turn in range(4):
            if turn == 2:
                loss(network, x, y).backward()
                with pytest.warns(UserWarning, match=r"optimizer\.step"):
                    optimizer.step()
                optimizer.zero_grad()
            step(loss(network, x, y))
        return flat(network)

    assert torch.equal(after(True), after(False))


class Tied(nn.Module):
    """One matrix in two places, one of which may be run again in the backward pass."""

    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.matrix, self.reentrant = nn.Linear(5, 5), reentrant

    def forward(self, x: Tensor) -> Tensor:
        first = torch.tanh(self.matrix(x))
        if self.reentrant is None:
            return self.matrix(first)  # type: ignore[no-any-return]  # a Module's call
        from torch.utils.checkpoint import checkpoint

        return checkpoint(self.matrix, first, use_reentrant=self.reentrant)  # type: ignore[no-any-return]


def test_tied_parameters_are_updated_once() -> None:
    def after(release: bool, reentrant: bool | None) -> Tensor:
        network = Tied(reentrant)
        step = Step(sw.AdamW(network.named_parameters(), lr=0.1), release=release)
        step(network(data()[0]).square().mean())
        return flat(network)

    for reentrant in (None, False):
        assert torch.equal(after(True, reentrant), after(False, reentrant))
    with pytest.raises(UsageError, match=r"got gradients twice in one backward pass.*use_reentrant=False"):
        after(True, True)


def test_frozen_and_unused_parameters_stay_as_they_are() -> None:
    network = wide()
    network[0].weight.requires_grad_(False)
    network.add_module("unused", nn.Linear(3, 3))
    step = Step(sw.AdamW(network.named_parameters(), lr=0.1), release=True)
    before = flat(network)
    x, y = data()
    step(nn.functional.cross_entropy(network[:5](x), y))
    moved = (flat(network) != before).split([p.numel() for p in network.parameters()])
    assert [bool(one.any()) for one in moved] == [False, *[True] * 5, False, False]
    network[0].weight.requires_grad_(True)  # a parameter that is trained from now on
    step(nn.functional.cross_entropy(network[:5](x), y))
    assert not torch.equal(network[0].weight, before[:330].view(66, 5))


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "torch": (lambda p: torch.optim.AdamW(p), {}, "AdamW updates all parameters together"),
    "wrapper": (lambda p: sw.Lookahead(sw.AdamW(p)), {}, "Lookahead updates all parameters together"),
    "prodigy": (lambda p: sw.Prodigy(p), {}, "Prodigy follows sums over the gradients of all parameters"),
    "lbfgs": (lambda p: sw.LBFGS(p), {}, "LBFGS"),
    "sophia": (lambda p: sw.Sophia(p), {"estimator": Hutchinson()}, "Sophia needs estimates"),
    "norm": (lambda p: sw.AdamW(p), {"clip_norm": 1.0}, r"ClipNorm\(1\) needs the norm.*ClipRecentNorm"),
    "auto": (lambda p: sw.AdamW(p), {"clip": AutoClip()}, "AutoClip.*needs the norm"),
    "adam": (lambda p: sw.AdamW(p), {"accumulate": 2}, "AdamW keeps no plain sum of them"),
    "nesterov": (
        lambda p: sw.SGD(p, momentum=0.9, nesterov=True), {"accumulate": 2}, "needs momentum above 0, nesterov=False",
    ),
    "scaler": (lambda p: sw.AdamW(p), {"scaler": torch.amp.GradScaler("cpu")}, "a scaler decides by all gradients"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_needs_all_gradients_is_refused_by_name(case: str) -> None:
    make, options, said = REFUSED[case]
    network = model()
    with pytest.raises(UsageError, match=f"release=True is not possible: .*{said}"):
        Step(make(list(network.named_parameters())), release=True, **options)


def test_calls_that_need_gradients_are_refused() -> None:
    network = model()
    x, y = data()
    step = Step(sw.SGD(network.named_parameters(), lr=0.1, momentum=0.9), release=True, accumulate=2)
    with pytest.raises(UsageError, match="the sum of the weights is known when the gradients are gone"):
        step(loss(network, x, y), weight=3)
    step(loss(network, x, y))
    with pytest.raises(UsageError, match="1 of 2 micro-batches of an update cannot end it"):
        step.flush()
    step(loss(network, x, y))
    with pytest.raises(UsageError, match=r"update\(\) takes gradients that are freed"):
        step.update()
    step.clip = ClipNorm(1.0)
    with pytest.raises(UsageError, match="needs the norm of the whole gradient"):
        step(loss(network, x, y))
    step.clip = None
    step.optimizer.register_step_pre_hook(lambda *_: None)
    with pytest.raises(UsageError, match="a hook before the optimizer's step would see no gradient"):
        step(loss(network, x, y))
    with pytest.raises(UsageError, match="release=3; it must be"):
        Step(sw.AdamW(network.named_parameters()), release=3)


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """They average a gradient after it is complete, also where the Step does not know the model."""
    monkeypatch.setattr("stepwell.step.release.is_one_of_several", lambda: True)
    with pytest.raises(UsageError, match="the processes of a distributed model average their gradients after"):
        Step(sw.AdamW(model().named_parameters()), release=True)


def test_hooks_after_the_step_run_once() -> None:
    network = model()
    optimizer = sw.AdamW(network.named_parameters())
    seen: list[int] = []
    optimizer.register_step_post_hook(lambda *_: seen.append(1))
    step = Step(optimizer, release=True)
    step(loss(network, *data()))
    assert seen == [1]


def test_without_a_gradient_it_says_so() -> None:
    network, other = model(), model()
    step = Step(sw.AdamW(network.named_parameters()), release=True)
    with pytest.raises(UsageError, match="no parameter of the optimizer has a gradient after backward"):
        step(loss(other, *data()))
    step(loss(network, *data()))
    assert step.number == 1


def test_another_optimizer_releases_too() -> None:
    network = wide()
    step = Step(sw.SGD(network.named_parameters(), lr=0.1, momentum=0.9), release=True, model=network)
    x, y = data()
    step(loss(network, x, y))
    step.switch("adamw", lr=0.01)
    before = flat(network)
    assert step(loss(network, x, y)).updated
    assert not torch.equal(flat(network), before)
    assert all(p.grad is None for p in network.parameters())


def one(value: float = 0.0) -> nn.Parameter:
    return nn.Parameter(torch.full((1,), value))


def both(act: Any) -> list[Any]:
    """What a function finds with and without release."""
    return [act(release) for release in (True, False)]


def test_a_parameter_without_a_gradient_in_some_micro_batches_moves_once() -> None:
    def after(release: bool) -> Any:
        a, b = one(), one()
        step = Step(sw.SGD([a, b], lr=1.0, momentum=0.9, weight_decay=0.1), accumulate=2, release=release)
        for loss_ in ((a + b).sum(), (a + b).sum(), (2 * a).sum(), (2 * b).sum(), (a - b).sum(), a.sum()):
            step(loss_)
        return a, b, [float(step.optimizer.state[p]["step"]) for p in (a, b)]

    ours, theirs = both(after)
    torch.testing.assert_close(ours[0], theirs[0])
    torch.testing.assert_close(ours[1], theirs[1])
    assert ours[2] == theirs[2] == [3.0, 3.0]


def test_a_gradient_that_is_not_finite_is_left_out_of_the_sum() -> None:
    w, v = one(), one()
    step = Step(sw.SGD([w, v], lr=1.0, momentum=0.9), accumulate=2, release=True)
    step((w + v).sum())
    step((w + v).sum())
    step((w * float("inf") + v).sum())
    step((2 * w + v).sum())
    assert float(step.optimizer.state[w]["momentum_buffer"]) == pytest.approx(0.9 + 1.0)
    assert float(step.optimizer.state[w]["step"]) == 2
    step((2 * w + v).sum())
    step((w * float("inf") + v).sum())
    assert float(w.detach()) == pytest.approx(-1.0 - 1.9 - (0.9 * 1.9 + 1.0))


def test_accumulate_cannot_change_within_an_update() -> None:
    w = one()
    step = Step(sw.SGD([w], lr=1.0, momentum=0.9), accumulate=2, release=True)
    step(w.sum())
    step.accumulate = 4
    with pytest.raises(UsageError, match="accumulate cannot change from 2 to 4 within an update"):
        step(w.sum())


@pytest.mark.parametrize(
    ("options", "more", "said"),
    [({"cautious": True}, {}, "cautious=False"), ({}, {"clip": ClipValue(1.0)}, "each of 2 micro-batches")],
)
def test_what_needs_the_sum_is_refused(options: dict[str, Any], more: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Step(sw.SGD([one()], lr=1.0, momentum=0.9, **options), accumulate=2, release=True, **more)


def test_a_switched_or_replaced_optimizer_is_the_one_that_updates() -> None:
    def after(release: bool) -> Any:
        w = nn.Parameter(torch.ones(3))
        step = Step(sw.AdamW([w], lr=0.1, weight_decay=0.0), release=release)
        step(w.sum())
        step.switch("sgd", lr=0.01, momentum=0.0)
        step(100 * w.sum())
        step.optimizer = sw.SGD([w], lr=0.01)
        step(w.sum())
        return w

    torch.testing.assert_close(*both(after))


def test_a_state_that_is_replaced_starts_anew() -> None:
    def after(release: bool) -> Any:
        w = one()
        optimizer = sw.AdamW([w], lr=1.0)
        step = Step(optimizer, release=release)
        step(w.sum())
        optimizer.state = {}
        step(w.sum())
        return w, optimizer.state[w]

    ours, theirs = both(after)
    assert same(dict(ours[1]), dict(theirs[1]))
    assert torch.equal(ours[0], theirs[0])


def test_a_parameter_that_left_the_optimizer_keeps_its_gradient() -> None:
    a, b = one(), one()
    optimizer = sw.SGD([a, b], lr=1.0)
    step = Step(optimizer, release=True)
    step((a + b).sum())
    optimizer.param_groups[0]["params"].pop()
    step((a + b).sum())
    assert b.grad is not None
    assert (a.item(), b.item()) == (-2.0, -1.0)


def test_parameters_that_come_to_share_memory_are_refused() -> None:
    a, b = nn.Parameter(torch.ones(10)), nn.Parameter(torch.ones(10))
    step = Step(sw.AdamW([a, b], lr=0.1), release=True)
    step((a * b).sum())
    b.data = a.data
    with pytest.raises(UsageError, match="memory"):
        step((a * b).sum())


def test_a_model_of_another_dtype_or_layout_is_followed() -> None:
    def after(release: bool) -> Any:
        torch.manual_seed(0)
        network: nn.Module = nn.Linear(70, 66)
        step = Step(sw.AdamW(network.named_parameters(), lr=0.1, state="int4"), release=release)
        x = torch.ones(2, 70)
        step(network(x).sum())
        network.weight.data = network.weight.data.t().contiguous().t()
        step(network(x).sum())
        network.double()
        step(network(x.double()).sum())
        step(network(x.double()).square().sum())
        return flat(network)

    assert torch.equal(*both(after))


def test_an_empty_sparse_gradient_is_clipped_by_value() -> None:
    def after(release: bool) -> Any:
        p = nn.Parameter(torch.zeros(10, 4))
        step = Step(sw.AdamW([p], lr=0.1), clip=ClipValue(1.0), release=release)
        step(nn.functional.embedding(torch.empty(0, dtype=torch.long), p, sparse=True).sum())
        step(nn.functional.embedding(torch.tensor([3, 3]), p, sparse=True).sum())
        return p

    assert torch.equal(*both(after))
