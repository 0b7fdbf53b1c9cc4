"""One GradScaler for several Steps, or for a Step and a plain loop: as without a scaler."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from stepwell.optimizers import SGD
from stepwell.step import Step
from tests.step.small import data, flat, loss, model


def gan(every: tuple[int, int], overflow: tuple[int, ...], scaler: Any, clip: float | None = None) -> list[Any]:
    """Two networks in turn, with accumulations of their own; all norms, and the weights at the end."""
    torch.manual_seed(0)
    one, other = nn.Linear(3, 3), nn.Linear(3, 1)
    steps = [
        Step(SGD(network.parameters(), lr=0.1), accumulate=n, scaler=scaler, clip_norm=clip)
        for network, n in zip((one, other), every, strict=True)
    ]
    noise, norms = torch.randn(12, 4, 3), []
    for number, z in enumerate(noise):
        blown = torch.inf if number in overflow else 1.0
        done = [steps[1]((other(one(z).detach()) - 1).square().mean() * blown)]
        other.requires_grad_(False)
        done.append(steps[0](other(one(z)).square().mean()))
        other.requires_grad_(True)
        norms += [d.grad_norm for d in done if d.updated]
    return [norms, flat(one), flat(other)]


@pytest.mark.parametrize("every", [(1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (3, 2)], ids=str)
@pytest.mark.parametrize("overflow", [(), (1,), (2, 5)], ids=str)
def test_two_steps_share_a_scaler(every: tuple[int, int], overflow: tuple[int, ...]) -> None:
    expected = gan(every, overflow, None)
    found = gan(every, overflow, torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3))
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    for ours, theirs in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("overflow", [(), (1,), (2, 5)], ids=str)
def test_the_scaler_is_updated_once_per_round_as_in_a_plain_loop(overflow: tuple[int, ...]) -> None:
    ours, theirs = (torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3) for _ in range(2))
    gan((1, 1), overflow, ours)
    networks = [model(), model()]
    optimizers = [torch.optim.SGD(network.parameters(), lr=0.1) for network in networks]
    for number in range(12):
        for network, optimizer in zip(networks, optimizers, strict=True):
            blown = torch.inf if number in overflow and network is networks[0] else 1.0
            theirs.scale(loss(network, *data()) * blown).backward()
            theirs.step(optimizer)
            optimizer.zero_grad()
        theirs.update()
    assert ours.state_dict() == theirs.state_dict()


def test_a_step_that_makes_no_updates_holds_nothing_up() -> None:
    """A finder, or a network that trains later."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    network = model()
    idle = Step(SGD(model().parameters(), lr=0.1), scaler=scaler)
    step = Step(SGD(network.parameters(), lr=0.1), scaler=scaler)
    scales = []
    for _ in range(6):
        step(loss(network, *data()) * torch.inf)
        scales.append(scaler.get_scale())
    assert scales[1:] == [2.0 ** (10 - k) for k in (2, 3, 4, 5, 6)]  # the second makes up for the first
    assert idle.number == 0


@pytest.mark.parametrize("blown", [None, "step", "loop"])
def test_a_step_between_unscale_and_step_of_a_plain_loop(blown: str | None) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1)
    mine, plain, whole = model(), model(1), model(1)
    step = Step(SGD(mine.parameters(), lr=0.1), scaler=scaler)
    optimizer, reference = (torch.optim.SGD(network.parameters(), lr=0.1) for network in (plain, whole))
    for number in range(4):
        factor = {name: torch.inf if number == 1 and blown == name else 1.0 for name in ("step", "loop")}
        scaler.scale(loss(plain, *data()) * factor["loop"]).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(plain.parameters(), 0.1)
        scale = scaler.get_scale()
        step(loss(mine, *data()) * factor["step"])
        assert scaler.get_scale() == scale  # left to the loop's own update
        scaler.step(optimizer)
        scaler.update()
        assert scaler.get_scale() == scale * (0.5 if number == 1 and blown else 2.0)  # both of their gradients count
        optimizer.zero_grad()
        if number != 1 or blown != "loop":
            loss(whole, *data()).backward()
            nn.utils.clip_grad_norm_(whole.parameters(), 0.1)
            reference.step()
            reference.zero_grad()
    torch.testing.assert_close(flat(plain), flat(whole), rtol=1e-5, atol=1e-6)
    scale = scaler.get_scale()
    step(loss(mine, *data()))  # the loop has ended, and the Step goes on by itself
    assert scaler.get_scale() == 2 * scale


def test_a_scale_set_within_an_accumulation_is_for_the_next_one() -> None:
    scaled, plain = model(), model()
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    steps = [Step(SGD(plain.parameters(), lr=0.1), accumulate=2)]
    steps.append(Step(SGD(scaled.parameters(), lr=0.1), accumulate=2, scaler=scaler))
    for seed in range(2):
        done = [step(loss(network, *data(seed=seed))) for step, network in zip(steps, (plain, scaled), strict=True)]
        if seed == 0:
            scaler.update(1024.0)
    assert done[0].grad_norm == pytest.approx(done[1].grad_norm, rel=1e-6)
