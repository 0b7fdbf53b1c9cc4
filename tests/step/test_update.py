"""`step.update()`: the update of a loop whose backward pass is run by something else."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from stepwell.errors import UsageError
from stepwell.optimizers import LBFGS, AdamW
from stepwell.schedules import linear
from stepwell.step import Step
from tests.step.small import data, flat, loss, model, same


def make(network: Any, **more: Any) -> Step:
    return Step(AdamW(network.named_parameters(), lr=0.05), linear(10), clip_norm=0.1, ema=0.9, **more)


def test_it_is_the_update_of_a_step_with_the_same_gradients() -> None:
    one, other = model(), model()
    called, updated = make(one), make(other)
    for number in range(4):
        batch = data(seed=number)
        ours = called(loss(one, *batch))
        value = loss(other, *batch)
        value.backward()
        theirs = updated.update(value)
        assert float(theirs.loss) == float(ours.loss)
        assert float(theirs.grad_norm) == float(ours.grad_norm)
        assert (theirs.lr, bool(theirs.clipped)) == (ours.lr, bool(ours.clipped))
        assert all(parameter.grad is None for parameter in other.parameters())
    assert same(flat(one), flat(other))
    assert called.number == updated.number == 4
    assert called.average is not None
    assert updated.average is not None
    assert all(map(torch.equal, called.average.averages, updated.average.averages))


def test_several_backward_passes_are_added_up() -> None:
    one, other = model(), model()
    step, updated = make(one), make(other)
    step(loss(one, *data(seed=1)) + loss(one, *data(seed=2)))
    for seed in (1, 2):
        loss(other, *data(seed=seed)).backward()
    done = updated.update()
    assert math.isnan(float(done.loss))
    torch.testing.assert_close(flat(other), flat(one), rtol=1e-6, atol=1e-7)


def test_gradients_that_are_not_finite_are_skipped() -> None:
    network = model()
    step = make(network)
    before = flat(network).clone()
    (loss(network, *data(seed=1)) * math.inf).backward()
    step.update()
    assert (step.number, step.skipped) == (0, 1)
    assert torch.equal(flat(network), before)


def test_a_scaler_s_factor_is_taken_out() -> None:
    one, other = model(), model()
    called, scaler = make(one), torch.amp.GradScaler("cpu", init_scale=1024.0)
    updated = make(other, scaler=scaler)
    called(loss(one, *data(seed=1)))
    scaler.scale(loss(other, *data(seed=1))).backward()
    updated.update()
    torch.testing.assert_close(flat(other), flat(one), rtol=1e-6, atol=1e-7)


def test_listeners_hear_the_loss_that_is_given() -> None:
    network = model()
    step, heard = make(network), []
    step.on_loss(lambda value: heard.append(float(value.detach())))
    for given in (True, False):
        value = loss(network, *data(seed=1))
        value.backward()
        step.update(value if given else None)
    assert len(heard) == 1


def test_what_it_cannot_do_is_said() -> None:
    network = model()
    step = make(network, accumulate=2)
    with pytest.raises(UsageError, match=r"no parameter of the optimizer has a gradient"):
        step.update()
    step(loss(network, *data(seed=1)))
    with pytest.raises(UsageError, match=r"1 of 2 micro-batches of an update have been accumulated; update\(\) takes"):
        step.update()
    with pytest.raises(UsageError, match=r"it must be a scalar tensor, or None"):
        make(model()).update(torch.ones(3))
    with pytest.raises(UsageError, match=r"call step.closure\(.*\) instead of step.update\(\)"):
        Step(LBFGS(model().parameters())).update()
    with pytest.raises(UsageError, match=r"group=7; it must be a process group of torch\.distributed"):
        Step(AdamW(model().parameters()), group=7)  # type: ignore[arg-type]  # which is refused
