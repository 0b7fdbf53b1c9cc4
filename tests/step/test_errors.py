"""Bad input: one clear line each, and nothing half-changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from stepwell.errors import UsageError
from stepwell.optimizers import SGD
from stepwell.schedules import Plateau, Scheduler, cosine, linear, warmup
from stepwell.step import AdaptiveClip, AutoClip, Average, ClipNorm, ClipValue, Hutchinson, Step
from tests.step.small import data, flat, loss, model, same


def sgd(network: nn.Module | None = None) -> SGD:
    return SGD((network or model()).named_parameters(), lr=0.1, momentum=0.9)


ARGUMENTS: dict[str, tuple[Callable[[], Any], str]] = {
    "accumulate 0": (lambda: Step(sgd(), accumulate=0), "accumulate=0; it must be a whole number of at least 1"),
    "accumulate 2.5": (lambda: Step(sgd(), accumulate=2.5), "accumulate=2.5; it must be a whole number"),  # type: ignore[arg-type]
    "accumulate True": (lambda: Step(sgd(), accumulate=True), "accumulate=True; it must be a whole number"),
    "clip norm 0": (lambda: Step(sgd(), clip_norm=0), "clip_norm=0; it must be a finite number above 0"),
    "clip norm below": (lambda: Step(sgd(), clip_norm=-1.0), "clip_norm=-1.0; it must be a finite number above 0"),
    "clip norm nan": (lambda: Step(sgd(), clip_norm=float("nan")), "clip_norm=nan; it must be a finite number"),
    "clip value 0": (lambda: ClipValue(0), "max_value=0; it must be a finite number above 0"),
    "agc 0": (lambda: AdaptiveClip(0.0), "ratio=0.0; it must be a finite number above 0"),
    "agc pattern": (
        lambda: Step(sgd(), clip=AdaptiveClip(exclude=["head.*"])),
        "exclude='head.*' matches no parameter's name; the last are 0.bias, 2.weight, 2.bias",
    ),
    "percentile 0": (lambda: AutoClip(0), r"percentile=0; it must be in \(0, 100\]"),
    "window 0": (lambda: AutoClip(window=0), "window=0; it must be a whole number from 1"),
    "two clips": (lambda: Step(sgd(), clip_norm=1.0, clip=ClipNorm(2)), "both given; give one"),
    "clip no clip": (lambda: Step(sgd(), clip=1.0), "clip=1.0; it must be a ClipValue"),  # type: ignore[arg-type]
    "ema 1": (lambda: Step(sgd(), ema=1.0), r"ema=1.0; it must be in \[0, 1\)"),
    "no optimizer": (lambda: Step(model()), "optimizer is a Sequential; it must be a torch.optim.Optimizer"),  # type: ignore[arg-type]
    "no scaler": (lambda: Step(sgd(), scaler=True), "scaler is a bool; it must be a torch.amp.GradScaler"),
    "frozen": (
        lambda: Step(SGD(model().requires_grad_(False).parameters())),
        "no parameter of the optimizer requires a gradient",
    ),
    "plateau as schedule": (lambda: Step(sgd(), Plateau()), "pass plateau="),  # type: ignore[arg-type]
    "no schedule": (lambda: Step(sgd(), 0.1), "it must be a schedule for lr"),  # type: ignore[arg-type]
    "too long": (lambda: Step(sgd(), cosine(100), total_steps=50), "100 steps long and the run has 50"),
    "too short": (lambda: Step(sgd(), cosine(50), total_steps=100), "50 steps long and the run has 100"),
    "long warmup": (
        lambda: Step(sgd(), warmup(200).then(cosine()), total_steps=100),
        "the warmup of .* is 200 steps long and the run has 100",
    ),
    "steps below zero": (
        lambda: Step(sgd(), cosine(), total_steps=-1),
        "total_steps=-1; it must be a whole number of at least 1",
    ),
    "steps without schedule": (lambda: Step(sgd(), total_steps=5), "no effect without a schedule"),
    "unknown number": (lambda: Step(sgd(), {"beta": cosine(5)}), "no 'beta' to schedule"),
    "generator": (lambda: Step(sgd(), generators={"data": 3}), r"generators\['data'\] is a int"),
    "generators without names": (lambda: Step(sgd(), generators=[torch.Generator()]), "generators is a list"),  # type: ignore[arg-type]
    "no plateau at all": (lambda: Step(sgd(), plateau=3), "plateau=3; it must be a Plateau"),  # type: ignore[arg-type]
    "model no module": (lambda: Step(sgd(), model=3), "model is a int; it must be the trained torch.nn.Module"),  # type: ignore[arg-type]
    "short loader": (
        lambda: Step(sgd(), accumulate=4).batches([1, 2]),
        "the loader has 2 batches, fewer than accumulate=4",
    ),
    "no averages": (lambda: Step(sgd()).averaged().__enter__(), "this Step has no averages"),
    "no plateau": (lambda: Step(sgd()).observe(1.0), "observe.. needs a plateau"),
    "closure and accumulation": (
        lambda: Step(sgd(), accumulate=2).closure(lambda: torch.zeros(())),
        "closure.. cannot be combined with accumulate=2",
    ),
    "save without model": (lambda: Step(sgd()).save("x.pt"), "pass the model"),
    "keep 0": (lambda: Step(sgd()).save("x.pt", model(), keep=0), "keep=0; it must be a whole number"),
    "extra": (lambda: Step(sgd()).save("x.pt", model(), extra={"a": object()}), r"extra\['a'\] is a object"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments(case: str) -> None:
    call, message = ARGUMENTS[case]
    with pytest.raises(UsageError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


REFUSED_SCHEDULES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown number": ({"schedule": {"lr": cosine(5), "beta": cosine(5)}}, "no 'beta' to schedule"),
    "out of range": ({"schedule": {"lr": warmup(5), "momentum": 2 * cosine(5)}}, "makes momentum 1.8 at step 0"),
    "estimator": ({"schedule": warmup(5), "estimator": Hutchinson()}, "does not use estimates"),
}


@pytest.mark.parametrize("case", REFUSED_SCHEDULES)
def test_a_refused_schedule_leaves_nothing_in_the_groups(case: str) -> None:
    """An initial_lr that stayed behind would be the lr of the next schedule, whatever lr is by then."""
    options, message = REFUSED_SCHEDULES[case]
    network = model()
    parts = [{"params": [p], "lr": torch.tensor(0.1) if i else 0.1} for i, p in enumerate(network.parameters())]
    optimizer = torch.optim.SGD(parts, momentum=0.9)  # type: ignore[arg-type]
    before = [{k: str(v) for k, v in group.items()} for group in optimizer.param_groups]
    for make in (Step, Scheduler):
        if make is Scheduler and "estimator" in options:
            continue
        with pytest.raises(UsageError, match=message):
            make(optimizer, **options)
        assert [{k: str(v) for k, v in group.items()} for group in optimizer.param_groups] == before
    optimizer.param_groups[0]["lr"] = 0.5
    assert Step(optimizer, warmup(5))(loss(network, *data())).lr == 0.1  # a fifth of 0.5


def used_up(network: nn.Module) -> torch.Tensor:
    value = loss(network, *data())
    value.backward()
    return value


def vector(network: nn.Module) -> torch.Tensor:
    return network(data()[0]).sum(1)


LOSSES: dict[str, tuple[Callable[[nn.Module], Any], dict[str, Any], str]] = {
    "float": (lambda network: 1.0, {}, "loss is a float; it must be a scalar tensor"),
    "vector": (vector, {}, r"loss has shape \(12,\); it must be a scalar, such as loss.mean\(\)"),
    "detached": (lambda network: loss(network, *data()).detach(), {}, "loss has no graph"),
    "used up": (used_up, {}, r"backward\(\) has already run on this loss"),
    "another model": (lambda network: loss(model(), *data()), {}, "no parameter of the optimizer has a gradient"),
    "weight 0": (lambda network: loss(network, *data()), {"weight": 0}, "weight=0; it must be a finite number above 0"),
    "weight below 0": (
        lambda network: loss(network, *data()),
        {"weight": torch.tensor(-3.0)},
        r"weight=a Tensor .*; it must be a finite number above 0",
    ),
    "weight nan": (
        lambda network: loss(network, *data()),
        {"weight": torch.tensor(torch.nan)},
        r"weight=a Tensor .*; it must be a finite number above 0",
    ),
    "weight vector": (
        lambda network: loss(network, *data()),
        {"weight": torch.ones(2)},
        r"weight has shape \(2,\); it must be one number",
    ),
}


@pytest.mark.parametrize("case", LOSSES)
def test_losses(case: str) -> None:
    make, options, message = LOSSES[case]
    network = model()
    step = Step(sgd(network), linear(9), ema=0.9)
    step(loss(network, *data()))
    weights, state = flat(network), _state(step)
    with pytest.raises(UsageError, match=message) as caught:
        step(make(network), **options)
    assert "\n" not in str(caught.value)
    assert torch.equal(flat(network), weights)
    assert same(_state(step), state)
    assert step(loss(network, *data())).updated  # and the run goes on


def _state(step: Step) -> list[Any]:
    momentum = [step.optimizer.state[p]["momentum_buffer"].clone() for p in step.optimizer.param_groups[0]["params"]]
    return [step.number, step.skipped, step.accumulated, step.optimizer.param_groups[0]["lr"], momentum]


def test_a_failing_backward_drops_the_accumulation() -> None:
    network = model()
    step = Step(sgd(network), accumulate=2)
    step(loss(network, *data()))
    half = torch.ones((), requires_grad=True)
    with pytest.raises(UsageError, match=r"backward\(\) has already run on this loss"):
        step(used_up(network) * half)
    assert step.accumulated == 0
    assert all(p.grad is None for p in network.parameters())


def test_past_the_horizon() -> None:
    network = model()
    step = Step(sgd(network), linear(2), accumulate=2)
    for seed in range(4):
        step(loss(network, *data(seed=seed)))
    weights = flat(network)
    with pytest.raises(UsageError, match=r"linear\(2\) has 2 steps and 2 updates have happened"):
        step(loss(network, *data()))
    assert torch.equal(flat(network), weights)
    assert all(p.grad is None for p in network.parameters())


def test_a_skipped_update_does_not_use_up_the_schedule() -> None:
    network = model()
    step = Step(sgd(network), linear(2))
    for factor in (1.0, torch.inf, 1.0):
        step(loss(network, *data()) * factor)
    assert (step.number, step.skipped) == (2, 1)


def test_gradient_release_is_refused_with_the_reason() -> None:
    network = model()

    def release(tensor: torch.Tensor) -> None:
        tensor.grad = None

    for p in network.parameters():
        p.register_post_accumulate_grad_hook(release)
    with pytest.raises(UsageError, match=r"gradient release.*need all gradients together"):
        Step(sgd(network))(loss(network, *data()))


def test_inside_averaged_nothing_trains() -> None:
    network = model()
    step = Step(sgd(network), ema=Average(0.9))
    with step.averaged():
        for act in (lambda: step(loss(network, *data())), step.state_dict, lambda: step.averaged().__enter__()):
            with pytest.raises(UsageError, match="would act on the averages"):
                act()
    assert step(loss(network, *data())).updated
