"""On a GPU: nothing waits for the device, and the numbers are those of the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from stepwell.optimizers import AdamW, Sophia
from stepwell.schedules import linear
from stepwell.step import AutoClip, Clip, ClipNorm, Estimator, GaussNewtonBartlett, Hutchinson, Step
from tests.step.small import data, flat, loss, model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


@pytest.fixture
def no_waiting() -> Iterator[None]:
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("clip", [None, ClipNorm(0.1), AutoClip(50)], ids=repr)
def test_nothing_waits_for_the_device(clip: Clip | None, no_waiting: None) -> None:
    network = model().cuda()
    x, y = (part.cuda() for part in data())
    scaler = torch.amp.GradScaler("cuda", init_scale=64.0)
    step = Step(AdamW(network.named_parameters()), linear(50), clip=clip, scaler=scaler, ema=0.9, accumulate=2)
    for _ in range(4):  # what is made once may wait
        step(loss(network, x, y))
    torch.cuda.set_sync_debug_mode("error")
    done = [step(loss(network, x, y)) for _ in range(6)]
    torch.cuda.set_sync_debug_mode("default")
    assert [one.updated for one in done] == [False, True] * 3
    assert step.number == 5


@pytest.mark.parametrize("estimator", [GaussNewtonBartlett(every=1), Hutchinson(every=1)], ids=repr)
def test_estimates_do_not_wait_for_the_device_either(estimator: Estimator, no_waiting: None) -> None:
    found = []
    for device in ("cpu", "cuda"):
        network = model().to(device)
        x, y = (part.to(device) for part in data())
        step = Step(Sophia(network.named_parameters()), estimator=estimator.fresh(), accumulate=2)
        for number in range(10):
            torch.cuda.set_sync_debug_mode("error" if device == "cuda" and number > 3 else "default")
            logits = network(x)
            value = torch.nn.functional.cross_entropy(logits, y)
            step(value, logits=logits if estimator.takes_logits else None)
        torch.cuda.set_sync_debug_mode("default")
        found.append(torch.cat([slots["hessian"].cpu().reshape(-1) for slots in step.optimizer.state.values()]))
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-5)  # both draw the same


def test_the_numbers_are_those_of_the_cpu() -> None:
    found = []
    for device in ("cpu", "cuda"):
        network = model(dtype=torch.float64).to(device)
        step = Step(AdamW(network.named_parameters(), lr=0.01), linear(9), clip_norm=0.2, ema=0.5, accumulate=2)
        for seed in range(12):
            x, y = data(seed=seed, dtype=torch.float64)
            blown = torch.nan if seed == 5 else 1.0
            step(loss(network, x.to(device), y.to(device)) * blown)
        assert (step.number, step.skipped) == (5, 1)
        with step.averaged():
            averaged = flat(network).cpu()
        found.append((flat(network).cpu(), averaged, step.optimizer.param_groups[0]["lr"]))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)  # the factor is fp32
