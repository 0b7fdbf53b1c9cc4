"""Going on with another optimizer: schedules, number, averages and clipping go on, and so does a run that is loaded."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stepwell.errors import UsageError
from stepwell.optimizers import SAM, SGD, Adam, AdamW, Lookahead, Muon
from stepwell.schedules import Plateau, constant, linear
from stepwell.step import SWA, AutoClip, Average, Step
from stepwell.wrappers.swats import Swats
from tests.step.small import data, flat, loss, model, same


def updates(network: nn.Module, step: Step, numbers: range) -> None:
    for number in numbers:
        if getattr(step.optimizer, "needs_closure", False):
            step.closure(lambda number=number: loss(network, *data(seed=number)))
        else:
            step(loss(network, *data(seed=number)))


def test_the_schedule_goes_on_in_its_shape_from_the_rate_that_was_given() -> None:
    network = model()
    optimizer = AdamW([{"params": [p], "lr": lr} for p, lr in zip(network.parameters(), (1e-3, 2e-3, 1e-3, 0.0))])  # noqa: B905
    schedule = linear(20, to=0.0)
    step = Step(optimizer, {"lr": schedule, "weight_decay": linear(20, to=0.5)}, clip=AutoClip(50), ema=0.9)
    updates(network, step, range(7))
    norms, averages = copy.deepcopy(step.clip.state_dict()), copy.deepcopy(step.average.state_dict())
    shrink = [g["initial_lr"] * g["initial_weight_decay"] for g in optimizer.param_groups]
    before = flat(network)
    new = step.switch("sgd", lr=0.1, momentum=0.9)
    assert new is step.optimizer
    assert [group["lr"] for group in new.param_groups] == pytest.approx([0.1, 0.2, 0.1, 0.0])
    assert [g["initial_lr"] * g["initial_weight_decay"] for g in new.param_groups] == pytest.approx(shrink)
    assert step.number == 7
    assert same((norms, averages), (step.clip.state_dict(), step.average.state_dict()))
    assert torch.equal(flat(network), before)
    for number in range(7, 20):
        done = step(loss(network, *data(seed=number)))
        assert done.lr == pytest.approx(0.1 * schedule(number) / schedule(7))
    with pytest.raises(UsageError, match="has 20 steps and 20 updates have happened"):
        updates(network, step, range(1))


def test_without_a_schedule_and_with_a_plateau() -> None:
    network = model()
    step = Step(AdamW(network.parameters()))
    step.switch("lion", lr=1e-4)
    assert step(loss(network, *data())).lr == 1e-4
    watched = Step(AdamW(network.parameters()), constant(), plateau=Plateau(factor=0.5, patience=0))
    watched.observe(1.0)
    watched.observe(2.0)
    watched.switch("sgd", lr=0.4)
    assert watched(loss(network, *data())).lr == pytest.approx(0.4)
    watched.observe(3.0)
    assert watched(loss(network, *data())).lr == pytest.approx(0.2)


def test_swats_says_when_and_at_which_rate() -> None:
    network = model()
    step = Step(Swats(Adam(network.named_parameters(), lr=0.01, betas=(0.9, 0.95)), tolerance=0.01), linear(60, to=0.5))
    switched = None
    for number in range(60):
        step(loss(network, *data(seed=number % 3)))
        if isinstance(step.optimizer, Swats) and step.optimizer.ready and step.number < 60:
            switched, rate = step.number, step.optimizer.lr(0.9)
            step.switch("sgd", lr=step.optimizer, momentum=0.9)
            assert type(step.optimizer) is SGD
            assert step.optimizer.param_groups[0]["lr"] == pytest.approx(rate)
    assert switched is not None
    assert loss(network, *data()).item() < 0.95 * loss(model(), *data()).item()


CASES: dict[str, tuple[Callable[[Any], Any], str, dict[str, Any]]] = {
    "AdamW to SGD": (lambda p: AdamW(p, lr=0.01), "sgd", {"lr": 0.1, "momentum": 0.9}),
    "split and int8": (lambda p: AdamW(p, lr=0.01, weights="split", state="int8"), "sgd", {"lr": 0.1, "momentum": 0.9}),
    "torch's": (lambda p: torch.optim.AdamW(p, lr=0.01), "Lion", {"lr": 1e-3}),
    "Lookahead": (
        lambda p: Lookahead(Swats(AdamW(p, lr=0.01)), k=3, pullback="pullback"),
        "sgd",
        {"lr": 0.1, "momentum": 0.9},
    ),
    "SAM": (lambda p: SAM(SGD(p, lr=0.1, momentum=0.9)), "adamw", {"lr": 0.01}),
    "to L-BFGS": (lambda p: AdamW(p, lr=0.01, weight_decay=0.0), "lbfgs", {"lr": 0.5, "max_iter": 3}),
    "to Muon": (lambda p: AdamW(p, lr=0.01), "muon", {"lr": 0.02, "adamw_lr": 1e-3}),
    "from Muon": (lambda p: Muon(p, lr=0.02, adamw_lr=1e-3), "adamw", {"lr": 1e-3}),
    "back and forth": (lambda p: AdamW(p, lr=0.01), "adamw", {"lr": 0.02, "amsgrad": True}),
}


@pytest.mark.parametrize("at", [3, 8])
@pytest.mark.parametrize("average", [lambda: Average(0.8), lambda: SWA(start=2, every=2)], ids=["EMA", "SWA"])
@pytest.mark.parametrize("case", CASES)
def test_a_run_that_is_loaded_switches_or_has_switched(case: str, average: Any, at: int, tmp_path: Path) -> None:
    """Saved before the switch at update 5 or after it; the loading script is the same."""
    make, to, options = CASES[case]
    dtype = torch.bfloat16 if "split" in case else torch.float32

    def run(seed: int) -> tuple[nn.Module, Step]:
        network = model(seed).to(dtype)
        return network, Step(make(network.named_parameters()), linear(30, to=0.1), average=average(), clip=AutoClip(60))

    def go_on(network: nn.Module, step: Step, end: int) -> None:
        while step.number < end:
            if step.number == 5 and not isinstance(step._trained.switched, str):
                step.switch(to, **options)
            x, y = data(seed=step.number)

            def compute(x: Any = x, y: Any = y) -> torch.Tensor:
                return loss(network, x.to(dtype), y)

            if "BFGS" in type(step.optimizer).__name__ or getattr(step.optimizer, "needs_closure", False):
                step.closure(compute)
            else:
                step(compute())

    whole, whole_step = run(0)
    go_on(whole, whole_step, 12)
    first, first_step = run(0)
    go_on(first, first_step, at)
    first_step.save(tmp_path / "run.pt", first)
    second, second_step = run(4)
    second_step.load(tmp_path / "run.pt", second)
    go_on(second, second_step, 12)
    assert torch.equal(flat(whole), flat(second))
    assert same(whole_step.optimizer.state_dict(), second_step.optimizer.state_dict())
    with whole_step.averaged(), second_step.averaged():
        assert torch.equal(flat(whole), flat(second))
    assert second_step.optimizer.param_groups[0]["lr"] == whole_step.optimizer.param_groups[0]["lr"]


def _fresh(**options: Any) -> tuple[nn.Module, Step]:
    network = model()
    return network, Step(AdamW(network.named_parameters(), lr=0.01), **options)


def _within() -> None:
    network, step = _fresh(accumulate=2)
    step(loss(network, *data()))
    step.switch("sgd", lr=0.1)


def _at_zero() -> None:
    network, step = _fresh(schedule=linear(4, to=0.0).hold())
    updates(network, step, range(5))
    step.switch("sgd", lr=0.1)


def _inside() -> None:
    _, step = _fresh(ema=0.9)
    with step.averaged():
        step.switch("sgd", lr=0.1)


def _back() -> None:
    _, step = _fresh()
    saved = step.state_dict()
    step.switch("sgd", lr=0.1)
    step.load_state_dict(saved)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "within an accumulation": (
        _within,
        "1 of 2 micro-batches of an update have been accumulated; switch after an update",
    ),
    "at zero": (_at_zero, r"is 0 at update 5, so no rate can be reached"),
    "inside averaged": (_inside, r"switch\(\) inside `with step.averaged\(\)`"),
    "rates themselves": (
        lambda: _fresh(schedule=linear(9).between(0.0, 0.1))[1].switch("sgd", lr=0.1),
        "gives learning rates and not factors, so a rate for the new optimizer has no effect; make a new Step",
    ),
    "what it does not have": (
        lambda: _fresh(schedule={"beta1": constant()})[1].switch("sgd", lr=0.1),
        "group 0 of the optimizer has no 'beta1' to schedule",
    ),
    "unknown": (lambda: _fresh()[1].switch("sgdd", lr=0.1), "unknown optimizer 'sgdd'"),
    "a checkpoint from before": (_back, "the checkpoint was saved before the switch to SGD; make a new Step"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str) -> None:
    call, message = REFUSED[case]
    with pytest.raises(UsageError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_refused_switch_and_a_refused_load_change_nothing() -> None:
    network, step = _fresh(schedule={"lr": linear(9), "beta1": constant()})
    updates(network, step, range(2))
    before = step.optimizer, copy.deepcopy(step.optimizer.state_dict())
    with pytest.raises(UsageError, match="no 'beta1'"):
        step.switch("sgd", lr=0.1)
    assert step.optimizer is before[0]
    assert same(step.optimizer.state_dict(), before[1])
    updates(network, step, range(2, 4))

    _, other = _fresh()
    other.switch("sgd", lr=0.1)
    saved = other.state_dict()
    (group,) = saved["optimizer"]["param_groups"]
    group["param_names"] = ["another", *group["param_names"][1:]]
    _, third = _fresh()
    kept = third.optimizer
    with pytest.raises(UsageError, match="a different model"):
        third.load_state_dict(saved)
    assert third.optimizer is kept
    assert third._trained.switched is None
