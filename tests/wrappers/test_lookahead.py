"""Lookahead: its paper, one clock, slow weights of every kind, and the momentum at the end of a cycle."""

from __future__ import annotations

import copy
import functools
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stepwell.engine import formats, halves
from stepwell.errors import UsageError
from stepwell.optimizers import LBFGS, SGD, AdamW, Lookahead, ScheduleFreeSGD, create
from stepwell.optimizers.facts import record
from stepwell.schedules import linear
from stepwell.step import Step
from tests.contract.test_contract import problem, run
from tests.papers import lookahead as referee
from tests.step.small import data, flat, loss, model, same

FLOAT64 = {"rtol": 1e-11, "atol": 1e-13}
INSIDE = {"lr": 0.03, "momentum": 0.8, "weight_decay": 0.2}


def leaves(params: list[Tensor]) -> list[Tensor]:
    return [p.detach().clone().requires_grad_() for p in params]


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("pullback", ["none", "reset", "pullback"])
@pytest.mark.parametrize("inside", [SGD, torch.optim.SGD])
def test_equals_its_paper_in_float64(inside: Any, pullback: str, maximize: bool) -> None:
    params, grads = problem(torch.float64)
    ours = leaves(params)
    own = {"k": 3, "alpha": 0.7, "pullback": pullback}
    optimizer = Lookahead(inside(ours, maximize=maximize, **INSIDE), **own)
    run(optimizer, ours, grads)
    arrays = [[None if g is None else g.numpy() for g in row] for row in grads]
    for point in ("fast", "slow"):
        want = referee.trajectory([p.numpy() for p in params], arrays, maximize=maximize, point=point, **own, **INSIDE)
        for p, expected, start in zip(ours, want, params, strict=True):
            got = p if point == "fast" else optimizer.own[p]["slow"]
            np.testing.assert_allclose(got.detach().numpy(), expected, **FLOAT64)
            assert not np.allclose(expected, start.numpy())


def test_all_the_way_is_the_optimizer_inside_bit_for_bit() -> None:
    params, grads = problem()
    alone, ours = leaves(params), leaves(params)
    run(AdamW(alone, lr=0.02), alone, grads)
    run(Lookahead(AdamW(ours, lr=0.02), k=2, alpha=1.0), ours, grads)
    assert same([p.detach() for p in alone], [p.detach() for p in ours])


def test_weights_that_were_loaded_after_it_was_built_are_not_pulled_back() -> None:
    """A fault of many implementations: they take the slow weights when they are made."""
    p = torch.zeros(3, requires_grad=True)
    optimizer = Lookahead(SGD([p], lr=1.0), k=1, alpha=0.5)
    with torch.no_grad():
        p.fill_(100.0)
    p.grad = torch.ones(3)
    optimizer.step()
    assert p.tolist() == [99.5] * 3


def test_one_clock_and_a_late_group_begins_where_it_comes() -> None:
    p, q = torch.zeros(1, requires_grad=True), torch.full((1,), 10.0, requires_grad=True)
    optimizer = Lookahead(SGD([p], lr=1.0), k=4, alpha=0.5)
    places = []
    for step in range(8):
        if step == 2:
            optimizer.add_param_group({"params": [q]})
        for one in (p, q):
            one.grad = torch.ones(1)
        optimizer.step()
        places.append((p.item(), q.item()))
    assert [place[0] for place in places] == [-1, -2, -3, -2, -3, -4, -5, -4]
    assert [place[1] for place in places] == [10, 10, 9, 9, 8, 7, 6, 7]  # back from 8 half the way to 10, from 5 to 9
    assert optimizer.clock == 8


def test_frozen_parameters_cost_nothing_until_they_are_trained() -> None:
    p, frozen = torch.ones(2, requires_grad=True), torch.ones(2)
    optimizer = Lookahead(SGD([p, frozen], lr=1.0), k=1, alpha=0.5)
    p.grad = torch.ones(2)
    optimizer.step()
    assert frozen not in optimizer.own
    frozen.fill_(5.0).requires_grad_()
    frozen.grad = torch.ones(2)
    optimizer.step()
    assert frozen.tolist() == [4.5, 4.5]


# Precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_slow_weights_of_narrow_parameters_are_fp32(dtype: torch.dtype) -> None:
    """In bf16 half of a last place would be rounded away or up at each pull: the slow weights would stand or run."""
    p = torch.ones(64, dtype=dtype, requires_grad=True)
    optimizer = Lookahead(SGD([p], lr=1.0), k=1, alpha=0.01)
    slow = torch.ones(64)
    for _ in range(50):
        p.grad = torch.full_like(p, 0.0625)
        before = p.detach().float()
        optimizer.step()
        fast = (before - 0.0625).to(dtype).float()
        slow = slow + 0.01 * (fast - slow)
        assert torch.equal(p.detach(), slow.to(dtype))
    torch.testing.assert_close(optimizer.own[p]["slow"], slow, rtol=1e-6, atol=0.0)
    assert slow[0] < 1 - 50 * 0.01 * 0.06


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_split_weights_are_as_an_fp32_run(dtype: torch.dtype) -> None:
    params, grads = problem(dtype)
    narrow, wide = leaves(params), leaves([p.float() for p in params])
    optimizer = Lookahead(AdamW(narrow, lr=0.01, weights="split"), k=3, alpha=0.3)
    reference = Lookahead(AdamW(wide, lr=0.01), k=3, alpha=0.3)
    run(optimizer, narrow, grads)
    run(reference, wide, [[None if g is None else g.float() for g in row] for row in grads])
    for p, q in zip(narrow, wide, strict=True):
        joined = halves.join(p.detach(), optimizer.state[p]["low_bits"])
        if dtype == torch.bfloat16:
            assert torch.equal(joined, q.detach())
        else:  # fp16 has fewer exponents: below 2**-16 a split weight keeps 2**-40
            torch.testing.assert_close(joined, q.detach(), rtol=1e-5, atol=1e-7)
        assert torch.equal(optimizer.own[p]["slow"], reference.own[q]["slow"]) or dtype == torch.float16


@pytest.mark.parametrize("state", ["fp32", "bf16", "int8", "int4"])
@pytest.mark.parametrize("pullback", ["reset", "pullback"])
def test_the_momentum_of_every_format(state: str, pullback: str) -> None:
    generator = torch.Generator().manual_seed(0)
    p = torch.zeros(80, 64, requires_grad=True)
    optimizer = Lookahead(AdamW([p], lr=1e-3, betas=(0.5, 0.9), state=state), k=2, alpha=0.25, pullback=pullback)

    def momentum() -> Tensor:
        stored = optimizer.state[p]
        name = formats.found_format(stored, "exp_avg", p.numel())
        tensors = tuple(stored[key] for key in formats.state_names("exp_avg", name))
        return formats.read(name, True, tensors, p.numel(), torch.float32).view(80, 64)

    fast, before = torch.zeros(80, 64), torch.zeros(80, 64)
    for step in range(4):
        p.grad = torch.randn(80, 64, generator=generator).sign() * 0.5
        fast = momentum().lerp(p.grad, 0.5) if step else 0.5 * p.grad
        optimizer.step()
        if step % 2:
            fast = before = before.lerp(fast, 0.25) if pullback == "pullback" else torch.zeros(80, 64)
        # int4 has one code per octave; the momentum is read back at every step, so nothing adds up
        torch.testing.assert_close(momentum(), fast, rtol=0.0, atol={"fp32": 1e-7, "bf16": 2e-3}.get(state, 0.13))
    assert ("momentum" in optimizer.own[p]) == (pullback == "pullback")


def test_momentum_is_left_alone_unless_told_otherwise() -> None:
    params, grads = problem()
    alone, ours = leaves(params), leaves(params)
    plain, optimizer = SGD(alone, lr=0.1, momentum=0.9), Lookahead(SGD(ours, lr=0.1, momentum=0.9), k=2)
    run(plain, alone, grads[:6])
    run(optimizer, ours, grads[:6])
    for p, q in zip(alone, ours, strict=True):
        assert same(dict(plain.state[p]), dict(optimizer.state[q]))


# Evaluation


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_slow_weights_are_evaluated_and_the_fast_ones_come_back(
    dtype: torch.dtype, error: type[BaseException] | None
) -> None:
    params, grads = problem(dtype)
    ours = leaves(params)
    optimizer = Lookahead(SGD(ours, lr=0.1), k=5)
    with optimizer.evaluating():  # before the first step there is one point
        assert same([p.detach() for p in ours], params)
    run(optimizer, ours, grads[:7])
    before = [p.detach().clone() for p in ours]
    try:
        with optimizer.evaluating():
            assert same([p.detach() for p in ours], [optimizer.own[p]["slow"].to(dtype) for p in ours])
            assert not torch.equal(ours[0], before[0])
            load = lambda: optimizer.load_state_dict({})  # noqa: E731
            for act in (optimizer.step, optimizer.update, optimizer.state_dict, load, optimizer.evaluating().__enter__):
                with pytest.raises(UsageError, match=r"inside `with optimizer.evaluating\(\)` would act on other"):
                    act()
            if error:
                raise error
    except KeyboardInterrupt:
        pass
    assert same(before, [p.detach() for p in ours])
    run(optimizer, ours, grads[7:10])
    with optimizer.evaluating():
        assert optimizer.clock == 10  # the end of a cycle: the slow weights are the weights
        assert same([p.detach() for p in ours], [optimizer.own[p]["slow"].to(dtype) for p in ours])


# Around it


@pytest.mark.parametrize("inside", [SGD, torch.optim.SGD])
def test_a_skipped_update_is_none_on_the_clock(inside: Any) -> None:
    network, plain = model(), model()
    step = Step(Lookahead(inside(network.named_parameters(), lr=0.3), k=2), linear(9), clip_norm=0.5)
    other = Step(Lookahead(inside(plain.named_parameters(), lr=0.3), k=2), linear(9), clip_norm=0.5)
    for number in range(7):
        value = loss(network, *data(seed=number))
        done = step(value * (torch.nan if number in (1, 3, 4) else 1.0))
        assert done.skipped == (number in (1, 3, 4))
        if number not in (1, 3, 4):
            other(loss(plain, *data(seed=number)))
    assert step.optimizer.clock == other.optimizer.clock == 4
    assert torch.equal(flat(network), flat(plain))


@pytest.mark.parametrize("options", [{}, {"pullback": "reset"}, {"pullback": "pullback"}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_where_the_flag_is_not_read_the_cycle_ends_under_it(
    dtype: torch.dtype, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: whether the update at the end of a cycle happened is known on the device only."""
    params, grads = problem(dtype)
    results = []
    for unread in (False, True):
        monkeypatch.setattr("stepwell.wrappers.lookahead._waits", lambda flag, unread=unread: unread)
        ours = leaves(params)
        optimizer = Lookahead(SGD(ours, lr=0.1, momentum=0.9, weights="split"), k=2, alpha=0.3, **options)
        for number, row in enumerate(grads[:9]):
            for p, g in zip(ours, row, strict=True):
                p.grad = None if g is None else g.clone()
            before = copy.deepcopy(([p.detach() for p in ours], list(optimizer.own.values())))
            optimizer.update(1.0, torch.tensor(float(number in (3, 4, 7))))
            if number in (3, 4, 7):
                assert same(before[0], [p.detach() for p in ours])
                for kept, now in zip(before[1], optimizer.own.values(), strict=True):
                    assert same(kept["slow"], now["slow"])
                    if now.get("momentum", torch.zeros(1)).any():  # 0 until a cycle ends
                        assert same(kept["momentum"], now["momentum"])
        assert optimizer.clock == 6
        results.append([p.detach() for p in ours] + [optimizer.state[p]["momentum_buffer"] for p in ours])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6 if dtype == torch.float32 else 1e-2, atol=1e-6)


def test_accumulation_scaling_and_clipping_reach_the_optimizer_inside() -> None:
    whole, parts = model(), model()
    alone = Step(SGD(whole.named_parameters(), lr=0.3), clip_norm=0.1)
    step = Step(
        Lookahead(SGD(parts.named_parameters(), lr=0.3), alpha=1.0),
        clip_norm=0.1,
        accumulate=2,
        scaler=torch.amp.GradScaler("cpu", init_scale=64.0),
    )
    x, y = data()
    for _ in range(3):
        alone(loss(whole, x, y))
        for half in (slice(0, 6), slice(6, 12)):
            step(loss(parts, x[half], y[half]))
    torch.testing.assert_close(flat(whole), flat(parts), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "inside", [SGD, torch.optim.SGD, functools.partial(torch.optim.SGD, fused=True)], ids=["ours", "torch", "fused"]
)
def test_a_scaler_of_torch_skips_and_unscales(inside: Any) -> None:
    network, plain = model(), model()
    optimizer, alone = (Lookahead(inside(n.parameters(), lr=0.3), k=2) for n in (network, plain))
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=99, backoff_factor=1.0 - 2**-1)
    for number in range(5):
        optimizer.zero_grad()
        scaler.scale(loss(network, *data()) * (torch.inf if number == 1 else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        if number != 1:
            alone.zero_grad()
            loss(plain, *data()).backward()
            alone.step()
    assert optimizer.clock == 4
    assert torch.equal(flat(network), flat(plain))


@pytest.mark.parametrize("inside", [SGD, torch.optim.SGD, functools.partial(torch.optim.SGD, fused=True)])
def test_a_closure_under_a_step_is_the_same_update(inside: Any) -> None:
    network, other = model(), model()
    step, closed = (
        Step(Lookahead(inside(n.named_parameters(), lr=0.3), k=2), linear(9), clip_norm=0.3) for n in (network, other)
    )
    for number in range(6):
        blown = torch.nan if number == 2 else 1.0
        done = step(loss(network, *data(seed=number)) * blown)
        likewise = closed.closure(lambda n=number, b=blown: loss(other, *data(seed=n)) * b)
        assert (done.skipped, done.lr) == (likewise.skipped, likewise.lr)
        assert done.skipped or done.grad_norm == likewise.grad_norm
    assert step.optimizer.clock == closed.optimizer.clock == 5
    torch.testing.assert_close(flat(network), flat(other), rtol=1e-6, atol=1e-7)  # one clips in the kernel


# State


@pytest.mark.parametrize("how", ["saved", "copied"])
@pytest.mark.parametrize("at", [5, 6, 7])
@pytest.mark.parametrize("inside", [SGD, torch.optim.SGD])
def test_a_run_goes_on_bit_for_bit_also_in_the_middle_of_a_cycle(inside: Any, at: int, how: str) -> None:
    params, grads = problem(torch.bfloat16)
    ours = leaves(params)
    optimizer = Lookahead(inside(ours, **INSIDE), k=3, alpha=0.3, pullback="pullback")
    run(optimizer, ours, grads[:at])
    if how == "saved":
        others = leaves(ours)
        resumed: Any = Lookahead(inside(others, lr=1.0, momentum=0.1))
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        resumed.load_state_dict(torch.load(file, weights_only=True))
        assert (resumed.k, resumed.alpha, resumed.pullback, resumed.clock) == (3, 0.3, "pullback", at)
    else:
        resumed, others = copy.deepcopy((optimizer, ours))
    run(optimizer, ours, grads[at:])
    run(resumed, others, grads[at:])
    assert same([p.detach() for p in ours], [p.detach() for p in others])
    assert same(optimizer.state_dict(), resumed.state_dict())


def test_slow_weights_are_found_by_name() -> None:
    network = model()
    optimizer = Lookahead(AdamW(network.named_parameters(), lr=0.1), k=5)
    for _ in range(7):
        optimizer.step(lambda: _backward(optimizer, network))
    other = copy.deepcopy(network)
    turned = Lookahead(AdamW(list(other.named_parameters())[::-1], lr=0.1), k=5)
    turned.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(5):
        optimizer.step(lambda: _backward(optimizer, network))
        turned.step(lambda: _backward(turned, other))
    assert torch.equal(flat(network), flat(other))


def _backward(optimizer: Any, network: nn.Module) -> Tensor:
    optimizer.zero_grad()
    value = loss(network, *data())
    value.backward()
    return value


def test_what_does_not_fit_is_named_and_changes_nothing() -> None:
    network = model()
    optimizer = Lookahead(torch.optim.SGD(network.named_parameters(), lr=0.1), k=2)
    optimizer.step(lambda: _backward(optimizer, network))
    saved = optimizer.state_dict()
    wide = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    other = Lookahead(torch.optim.SGD(wide.named_parameters(), lr=0.7), k=4)
    with pytest.raises(
        UsageError, match=r"'lookahead_slow' of the parameter '0.weight' has shape \(7, 5\) in the checkpoint.*\(8, 5\)"
    ):
        other.load_state_dict(saved)
    assert (other.k, other.clock, other.param_groups[0]["lr"], other.own) == (4, 0, 0.7, {})
    (group,) = saved["param_groups"]
    settings = {"Lookahead": {"k": 2, "alpha": 0.5, "pullback": "none"}}
    with pytest.raises(UsageError, match="Lookahead: the checkpoint has no 'clock'"):
        optimizer.load_state_dict({**saved, "param_groups": [{**group, "wrappers": settings}]})


# Names, options, facts

P = torch.ones(2, requires_grad=True)
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "k": (lambda: Lookahead(SGD([P]), k=0), "Lookahead: k=0; it must be a whole number of at least 1"),
    "part": (lambda: Lookahead(SGD([P]), k=2.5), "k=2.5; it must be a whole number"),  # type: ignore[arg-type]
    "alpha": (lambda: Lookahead(SGD([P]), alpha=0.0), r"alpha=0.0 is out of range; it must be in \(0, 1\]"),
    "alpha above": (lambda: Lookahead(SGD([P]), alpha=1.5), r"alpha=1.5 is out of range"),
    "pullback": (
        lambda: Lookahead(SGD([P]), pullback="rest"),
        "pullback='rest'; it must be one of 'none', 'reset', 'pullback'",
    ),
    "no momentum": (
        lambda: Lookahead(SGD([P]), pullback="reset"),
        "pullback='reset', and SGD has no momentum here; give it some",
    ),
    "parameters": (lambda: Lookahead([P]), "optimizer is a list; it wraps an optimizer"),  # type: ignore[arg-type]
    "averages": (
        lambda: Lookahead(ScheduleFreeSGD([P])),
        "ScheduleFreeSGD averages its weights itself, and pulling them back would tear its points apart",
    ),
    "L-BFGS": (
        lambda: Lookahead(LBFGS([P])),
        "L-BFGS takes its curvature from the steps that it made, and these would be taken back",
    ),
    "option": (
        lambda: create("lookahead", [P], alfa=0.5),
        "Lookahead around AdamW: unknown option alfa=0.5: did you mean 'alpha'",
    ),
    "base": (lambda: create("look-ahead", [P], base="adamww"), "unknown optimizer 'adamww': did you mean 'AdamW'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str) -> None:
    call, message = REFUSED[case]
    with pytest.raises(UsageError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_what_it_says_about_itself() -> None:
    network = model()
    optimizer = create("lookahead", network, base="lion", k=6, lr=1e-4)
    optimizer.step(lambda: _backward(optimizer, network))
    assert optimizer.state_bytes() == Lookahead.bytes_per_element(base="lion") * flat(network).numel()
    assert repr(optimizer) == "Lookahead(k=6, alpha=0.5, pullback='none') around Lion"
    facts = record(Lookahead)
    assert (facts["kind"], facts["needs"], facts["state_bytes"]) == ("wrapper", ["warmup"], 12.0)
