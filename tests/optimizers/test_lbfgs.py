"""L-BFGS: torch's numbers, and what torch's gets wrong: NaN in a line search, layouts, copies, checkpoints, hooks."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stepwell.errors import UsageError
from stepwell.groups.memory import state_elements
from stepwell.optimizers import LBFGS, create
from stepwell.step import Step
from tests.step.small import data, flat, loss, model, same

OPTIONS: dict[str, Any] = {
    "lr": 0.7,
    "max_iter": 4,
    "max_eval": 7,
    "tolerance_grad": 1e-5,
    "tolerance_change": 1e-7,
    "history_size": 3,
}


def closure_of(optimizer: torch.optim.Optimizer, network: nn.Module) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(network, *data())
        value.backward()
        return value

    return closure


@pytest.mark.parametrize("search", ["strong_wolfe", None])
def test_the_numbers_are_torchs(search: str | None) -> None:
    networks = [model(dtype=torch.float64) for _ in range(2)]
    x, y = data(dtype=torch.float64)
    optimizers = [
        torch.optim.LBFGS(networks[0].parameters(), line_search_fn=search, **OPTIONS),
        LBFGS(networks[1].parameters(), line_search_fn=search, **OPTIONS),
    ]
    seen: list[list[float]] = [[], []]
    for _ in range(20):
        for number, (network, optimizer) in enumerate(zip(networks, optimizers, strict=True)):

            def closure(network: Any = network, optimizer: Any = optimizer, number: int = number) -> Tensor:
                optimizer.zero_grad()
                value = loss(network, x, y)
                value.backward()
                seen[number].append(value.item())
                return value

            optimizer.step(closure)
    assert seen[0] == seen[1]  # every evaluation of every line search
    assert torch.equal(flat(networks[0]), flat(networks[1]))
    assert seen[1][-1] < 0.1 * seen[1][0]


def test_a_line_search_turns_back_where_the_loss_is_not_a_number() -> None:
    """x - log(x) has its minimum at 1 and no value below 0, where the first trial lands."""

    def run(make: Any) -> float:
        x = torch.tensor([5.0], requires_grad=True)
        optimizer = make([x], line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            value = (10 * (x - torch.log(x))).sum()
            value.backward()
            return value.detach()

        for _ in range(4):
            optimizer.step(closure)
        return x.item()

    assert not math.isfinite(run(torch.optim.LBFGS)) or run(torch.optim.LBFGS) < 0  # the fault
    assert run(LBFGS) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("search", ["strong_wolfe", None])
def test_at_lr_zero_nothing_moves(search: str | None) -> None:
    network = model()
    optimizer = LBFGS(network.parameters(), line_search_fn=search)
    closure = closure_of(optimizer, network)
    optimizer.step(closure)
    before, state = flat(network), copy.deepcopy(optimizer.state_dict()["state"])
    optimizer.param_groups[0]["lr"] = 0.0
    assert optimizer.step(closure).item() == loss(network, *data()).item()
    assert torch.equal(flat(network), before)
    assert same(optimizer.state_dict()["state"], state)


def test_a_step_that_ends_nowhere_changes_nothing() -> None:
    network = model()
    optimizer = LBFGS(network.parameters(), max_iter=2)
    closure = closure_of(optimizer, network)
    optimizer.step(closure)
    before = flat(network)

    def broken() -> Tensor:
        value = closure()
        for p in network.parameters():
            p.grad = torch.full_like(p, math.nan)
        return value

    optimizer.step(broken)
    assert torch.equal(flat(network), before)
    assert not optimizer.state[next(network.parameters())]
    assert optimizer.step(closure) > optimizer.step(closure)


@pytest.mark.parametrize("at", [2, 3, 5])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_step_that_is_interrupted_changes_nothing(at: int, error: type[BaseException]) -> None:
    networks = [model(), model()]
    optimizers = [LBFGS(n.parameters(), line_search_fn="strong_wolfe", **OPTIONS) for n in networks]
    for network, optimizer in zip(networks, optimizers, strict=True):
        for _ in range(2):
            optimizer.step(closure_of(optimizer, network))
    weights, state = flat(networks[1]), copy.deepcopy(optimizers[1].state_dict())
    calls = []

    def interrupted() -> Tensor:
        calls.append(1)
        if len(calls) == at:
            raise error
        return closure_of(optimizers[1], networks[1])()

    with pytest.raises(error):
        optimizers[1].step(interrupted)
    assert torch.equal(flat(networks[1]), weights)
    assert same(optimizers[1].state_dict(), state)
    for network, optimizer in zip(networks, optimizers, strict=True):
        optimizer.step(closure_of(optimizer, network))
    assert torch.equal(flat(networks[0]), flat(networks[1]))


def test_gradients_of_any_layout() -> None:
    def run(arrange: Callable[[Tensor], Tensor]) -> Tensor:
        torch.manual_seed(0)
        network = nn.Conv2d(2, 3, 3)
        with torch.no_grad():
            network.weight = nn.Parameter(arrange(network.weight))
        optimizer = LBFGS(network.parameters(), line_search_fn="strong_wolfe")
        x = torch.randn(2, 2, 5, 5)

        def closure() -> Tensor:
            optimizer.zero_grad()
            value = (network(x) - 1).pow(2).mean()
            value.backward()
            network.weight.grad = arrange(network.weight.grad)  # type: ignore[arg-type]
            return value

        for _ in range(3):
            optimizer.step(closure)
        return network.weight.detach()

    channels_last = run(lambda t: t.to(memory_format=torch.channels_last))
    torch.testing.assert_close(channels_last, run(lambda t: t.contiguous()), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("how", ["saved", "copied"])
@pytest.mark.parametrize("search", ["strong_wolfe", None])
def test_a_run_goes_on_bit_for_bit(how: str, search: str | None) -> None:
    options = {**OPTIONS, "line_search_fn": search}
    network = model()
    optimizer = LBFGS(network.named_parameters(), **options)
    for _ in range(3):
        optimizer.step(closure_of(optimizer, network))
    saved = optimizer.state_dict()
    if how == "saved":
        other = copy.deepcopy(network)
        file = io.BytesIO()
        torch.save(saved, file)
        file.seek(0)
        resumed = LBFGS(other.named_parameters())
        resumed.load_state_dict(torch.load(file, weights_only=True))
    else:
        resumed, other = copy.deepcopy((optimizer, network))
    kept = copy.deepcopy(saved)
    from_memory = LBFGS(copy.deepcopy(other).named_parameters())
    from_memory.load_state_dict(kept)
    for _ in range(4):
        optimizer.step(closure_of(optimizer, network))
        resumed.step(closure_of(resumed, other))
    assert torch.equal(flat(network), flat(other))
    # what was saved is not stepped along by a run that was loaded from it
    assert same(from_memory.state_dict()["state"], kept["state"])
    assert len(saved["state"][0]["old_dirs"]) == len(kept["state"][0]["old_dirs"])


def test_under_a_step_a_run_is_saved_and_goes_on() -> None:
    def run() -> tuple[nn.Module, Step]:
        network = model()
        optimizer = LBFGS(network.named_parameters(), line_search_fn="strong_wolfe", **OPTIONS)
        return network, Step(optimizer, ema=0.9)

    def updates(network: nn.Module, step: Step, count: int) -> None:
        for _ in range(count):
            assert step.closure(lambda: loss(network, *data())).updated

    whole, step = run()
    updates(whole, step, 6)
    first, first_step = run()
    updates(first, first_step, 3)
    second, second_step = run()
    second.load_state_dict(first.state_dict())
    second_step.load_state_dict(copy.deepcopy(first_step.state_dict()))
    updates(second, second_step, 3)
    assert torch.equal(flat(whole), flat(second))
    with step.averaged(), second_step.averaged():
        assert torch.equal(flat(whole), flat(second))


def test_hooks_run_once_also_where_torchs_own_was_made_before() -> None:
    network = model()
    torch.optim.LBFGS(network.parameters())  # from now on torch's step has torch's hooks around it
    optimizer = LBFGS(network.parameters())
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    optimizer.step(closure_of(optimizer, network))
    assert calls == ["before", "after"]


def test_what_it_holds_is_what_it_says() -> None:
    network = model()
    elements = sum(p.numel() for p in network.parameters())
    optimizer = LBFGS(network.parameters(), history_size=3, tolerance_change=0.0, tolerance_grad=0.0)
    for _ in range(2):
        optimizer.step(closure_of(optimizer, network))
    assert optimizer.state_bytes() == LBFGS.bytes_per_element(history_size=3) * elements
    assert 4 * state_elements(optimizer, optimizer.param_groups[0], (elements,)) == optimizer.state_bytes()
    assert state_elements("lbfgs", {}, (10,)) * 4 == LBFGS.bytes_per_element() * 10


def test_a_checkpoint_that_does_not_fit_is_refused() -> None:
    network = model()
    optimizer = LBFGS(network.named_parameters())
    optimizer.step(closure_of(optimizer, network))
    saved = optimizer.state_dict()
    named = list(network.named_parameters())
    wide = LBFGS(list(nn.Linear(5, 8).parameters()) + [p for _, p in named[2:]])
    with pytest.raises(UsageError, match=r"'d' of the checkpoint has 66 elements, the parameters have 72"):
        wide.load_state_dict(saved)
    with pytest.raises(UsageError, match=r"the checkpoint has '0.weight' where this model has '2.bias'"):
        LBFGS(named[::-1]).load_state_dict(saved)
    with pytest.raises(UsageError, match="the checkpoint has 4 parameters, this model 1"):
        LBFGS([torch.ones(66, requires_grad=True)]).load_state_dict(saved)
    with pytest.raises(UsageError, match="this is no state of L-BFGS"):
        LBFGS(named).load_state_dict(create("sgd", [{"params": [p]} for _, p in named]).state_dict())


def test_entries_of_the_user_are_carried() -> None:
    network = model()
    optimizer = LBFGS(network.parameters())
    optimizer.state["epoch"] = 7  # type: ignore[index]
    optimizer.step(closure_of(optimizer, network))
    saved = optimizer.state_dict()
    assert saved["state"]["epoch"] == 7
    again = LBFGS(network.parameters())
    again.load_state_dict(saved)
    assert again.state_dict()["state"]["epoch"] == 7


P, Q = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)

REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "lr": (lambda: LBFGS([P], lr=-1.0), "lr=-1.0 is out of range; it must be at least 0 and finite"),
    "max_iter": (lambda: LBFGS([P], max_iter=0), "max_iter=0 is out of range; it must be a whole number of at least 1"),
    "part": (lambda: LBFGS([P], max_iter=2.5), "max_iter=2.5 is out of range; it must be a whole number of at least 1"),  # type: ignore[arg-type]
    "history": (lambda: LBFGS([P], history_size=0), "history_size=0 is out of range"),
    "search": (
        lambda: LBFGS([P], line_search_fn="wolfe"),
        "line_search_fn='wolfe'; it must be one of 'strong_wolfe', None",
    ),
    "option": (lambda: LBFGS([P], max_iters=3), "unknown option max_iters=3: did you mean 'max_iter'"),
    "decay": (lambda: create("l-bfgs", [P], weight_decay=0.1), "unknown option weight_decay=0.1"),
    "in the group": (lambda: LBFGS([{"params": [P], "momentum": 0.9}]), "unknown option momentum=0.9 in the parameter"),
    "groups": (
        lambda: LBFGS([{"params": [P], "name": "a"}, {"params": [Q], "name": "b"}]),
        r"2 parameter groups \('a', 'b'\); it sees all weights as one vector",
    ),
    "a group later": (lambda: LBFGS([P]).add_param_group({"params": [Q]}), "2 parameter groups; it sees all weights"),
    "dtypes": (
        lambda: LBFGS([("a", P), ("b", torch.ones(1, dtype=torch.bfloat16, requires_grad=True))]),
        "'b' has dtype torch.bfloat16, 'a' has torch.float32; all weights are one vector",
    ),
    "nothing": (lambda: LBFGS([]), "the list of parameters is empty"),
    "a tensor": (lambda: LBFGS(P), "LBFGS: "),
    "no closure": (lambda: LBFGS([P]).step(), r"step\(\) needs a closure"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str) -> None:
    call, message = REFUSED[case]
    with pytest.raises(UsageError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_point_without_a_gradient_is_left_although_its_loss_is_lower() -> None:
    x = torch.tensor([3.0], requires_grad=True)
    optimizer = LBFGS([x], lr=8.0, line_search_fn="strong_wolfe", max_iter=4)
    visited = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (x - 20).square().sum()
        loss.backward()
        visited.append(float(x.detach()))
        if visited[-1] > 10:
            x.grad = torch.full((1,), math.nan)
        return loss

    optimizer.step(closure)
    assert max(visited) > 10
    assert 3 < float(x.detach()) <= 10
