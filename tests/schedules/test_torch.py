"""Every torch scheduler against our form, value for value over 1,000 updates."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as theirs

from stepwell.schedules import (
    Plateau,
    Schedule,
    Scheduler,
    constant,
    cosine,
    cosine_restarts,
    cyclic,
    exponential,
    from_function,
    linear,
    multi_step,
    one_cycle,
    polynomial,
    product_of,
    step,
)

STEPS = 1000
LR = 0.2

# torch multiplies the rate by a ratio at every step: 1,000 roundings of half a unit in the last place, 1.1e-13 in all.
# Its cosine divides by 1 + cos(...) near the end of the half wave, where that is small: the relative error there is
# larger, and the absolute error stays below 1e-12 of the rate.
RELATIVE, ABSOLUTE = 1e-9, 1e-12 * LR


@dataclass(frozen=True)
class Row:
    name: str
    make: Callable[[Any], Any]
    ours: Schedule | dict[str, Schedule]
    adam: bool = False


def _wave(step: int) -> float:
    return 0.5 + 0.5 * math.sin(step / 30)


def _sequential(optimizer: Any) -> Any:
    rise = theirs.LinearLR(optimizer, start_factor=0.1, total_iters=100)
    fall = theirs.StepLR(optimizer, 200, gamma=0.5)
    last = theirs.ExponentialLR(optimizer, 0.99)
    return theirs.SequentialLR(optimizer, [rise, fall, last], milestones=[100, 600])


TABLE = [
    Row("ConstantLR", lambda o: theirs.ConstantLR(o, 0.3, total_iters=50), constant(50, factor=0.3).then(constant())),
    Row("LinearLR", lambda o: theirs.LinearLR(o, 0.25, 0.9, total_iters=400), linear(400, start=0.25, to=0.9).hold()),
    Row("CosineAnnealingLR", lambda o: theirs.CosineAnnealingLR(o, STEPS), cosine(STEPS)),
    Row("CosineAnnealingLR eta_min", lambda o: theirs.CosineAnnealingLR(o, STEPS, eta_min=0.02), cosine(STEPS, to=0.1)),
    Row("PolynomialLR", lambda o: theirs.PolynomialLR(o, 700, power=2.0), polynomial(700, power=2.0).hold()),
    Row("PolynomialLR 0.9", lambda o: theirs.PolynomialLR(o, STEPS, power=0.9), polynomial(STEPS, power=0.9)),
    Row("ExponentialLR", lambda o: theirs.ExponentialLR(o, 0.995), exponential(0.995)),
    Row("StepLR", lambda o: theirs.StepLR(o, 130, gamma=0.3), step(130, gamma=0.3)),
    Row(
        "MultiStepLR",
        lambda o: theirs.MultiStepLR(o, [100, 100, 850], gamma=0.5),
        multi_step([100, 100, 850], gamma=0.5),
    ),
    Row(
        "OneCycleLR",
        lambda o: theirs.OneCycleLR(o, LR, total_steps=STEPS, pct_start=0.25),
        one_cycle(STEPS, peak=0.25).with_momentum(0.85, 0.95),
    ),
    Row(
        "OneCycleLR Adam linear three phases",
        lambda o: theirs.OneCycleLR(
            o, LR, total_steps=STEPS, anneal_strategy="linear", three_phase=True, div_factor=10, final_div_factor=100
        ),
        one_cycle(STEPS, start=0.1, end=0.001, shape="linear", three_phase=True).with_momentum(0.85, 0.95),
        adam=True,
    ),
    Row(
        "CosineAnnealingWarmRestarts",
        lambda o: theirs.CosineAnnealingWarmRestarts(o, 150, eta_min=0.02),
        cosine_restarts(150, to=0.1),
    ),
    Row(
        "CosineAnnealingWarmRestarts mult",
        lambda o: theirs.CosineAnnealingWarmRestarts(o, 40, T_mult=3),
        cosine_restarts(40, mult=3),
    ),
    Row(
        "CyclicLR",
        lambda o: theirs.CyclicLR(o, 0.02, LR, step_size_up=70, step_size_down=30),
        cyclic(70, 30, low=0.1).with_momentum(0.8, 0.9),
    ),
    Row(
        "CyclicLR triangular2 Adam",
        lambda o: theirs.CyclicLR(o, 0.05, LR, step_size_up=64, mode="triangular2"),
        cyclic(64, low=0.25, mode="triangular2").with_momentum(0.8, 0.9),
        adam=True,
    ),
    Row(
        "CyclicLR exp_range",
        lambda o: theirs.CyclicLR(o, 0.02, LR, 50, mode="exp_range", gamma=0.998, cycle_momentum=False),
        cyclic(50, low=0.1, mode="exp_range", gamma=0.998),
    ),
    Row(
        "CyclicLR scale_fn",
        lambda o: theirs.CyclicLR(o, 0.02, LR, 50, scale_fn=_wave, scale_mode="iterations", cycle_momentum=False),
        cyclic(50, low=0.1, height=_wave, height_of="step"),
    ),
    Row("LambdaLR", lambda o: theirs.LambdaLR(o, _wave), from_function(_wave)),
    Row("MultiplicativeLR", lambda o: theirs.MultiplicativeLR(o, _wave), product_of(_wave)),
    Row(
        "SequentialLR",
        _sequential,
        linear(100, start=0.1, to=1.0).then(step(200, gamma=0.5).until(500)).then(exponential(0.99)),
    ),
    Row(
        "ChainedScheduler",
        lambda o: theirs.ChainedScheduler(
            [theirs.LinearLR(o, 0.1, total_iters=100), theirs.ExponentialLR(o, 0.998), theirs.StepLR(o, 300, 0.5)]
        ),
        linear(100, start=0.1, to=1.0).hold() * exponential(0.998) * step(300, gamma=0.5),
    ),
]


def make_optimizer(adam: bool = False, lr: float = LR) -> torch.optim.Optimizer:
    parameters = [torch.nn.Parameter(torch.zeros(2))]
    if adam:
        return torch.optim.AdamW(parameters, lr=lr, betas=(0.95, 0.99))
    return torch.optim.SGD(parameters, lr=lr, momentum=0.95)


def momentum_of(optimizer: torch.optim.Optimizer) -> float:
    group = optimizer.param_groups[0]
    return group["momentum"] if "momentum" in group else group["betas"][0]


def run(optimizer: torch.optim.Optimizer, scheduler: Any, steps: int = STEPS) -> list[tuple[float, float]]:
    """(lr, momentum) that each update uses."""
    seen = []
    for _ in range(steps):
        seen.append((optimizer.param_groups[0]["lr"], momentum_of(optimizer)))
        optimizer.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # SequentialLR uses the deprecated step(epoch) itself
            scheduler.step()
    return seen


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_equals_torch(row: Row) -> None:
    reference = make_optimizer(row.adam)
    expected = run(reference, row.make(reference), STEPS - 1)  # OneCycleLR leaves its curve at the step after the last
    expected.append((reference.param_groups[0]["lr"], momentum_of(reference)))
    optimizer = make_optimizer(row.adam)
    got = run(optimizer, Scheduler(optimizer, row.ours))
    for k, (ours, torchs) in enumerate(zip(got, expected, strict=True)):
        assert ours == pytest.approx(torchs, rel=RELATIVE, abs=ABSOLUTE), f"update {k}"


def test_table_names_every_torch_scheduler() -> None:
    """A scheduler that torch adds must get a row here (ReduceLROnPlateau has its own test)."""
    there = {
        name
        for name, value in vars(theirs).items()
        if isinstance(value, type) and issubclass(value, theirs.LRScheduler) and not name.startswith("_")
    }
    assert there - {"LRScheduler", "ReduceLROnPlateau"} == {row.name.split()[0] for row in TABLE}


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
def test_plateau_equals_torch(mode: str, threshold_mode: str) -> None:
    generator = torch.Generator().manual_seed(3)
    noise = torch.rand(STEPS, generator=generator).tolist()
    metrics = [1 + 4 / (1 + k / 20) + 0.3 * x for k, x in enumerate(noise)]
    if mode == "max":
        metrics = [8 - m for m in metrics]
    options: dict[str, Any] = {"factor": 0.7, "patience": 6, "threshold": 1e-3, "cooldown": 4, "mode": mode}
    reference = make_optimizer()
    scheduler = theirs.ReduceLROnPlateau(reference, **options, threshold_mode=threshold_mode, min_lr=1e-3 * LR, eps=0)  # type: ignore[arg-type]
    optimizer = make_optimizer()
    ours = Scheduler(optimizer, constant(), plateau=Plateau(**options, threshold_mode=threshold_mode, least=1e-3))
    seen = set()
    for metric in metrics:
        scheduler.step(metric)
        ours.observe(metric)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(reference.param_groups[0]["lr"], rel=1e-12)
        seen.add(optimizer.param_groups[0]["lr"])
    assert len(seen) > 5


def test_plateau_with_a_negative_metric() -> None:
    """With a negative loss, torch takes getting worse (-10 to -9.9995) for an improvement."""
    reference = make_optimizer()
    scheduler = theirs.ReduceLROnPlateau(reference, patience=0, factor=0.5)
    ours = Plateau(patience=0, factor=0.5)
    for metric in (-10.0, -9.9995, -9.999):
        scheduler.step(metric)
        ours.observe(metric)
    assert reference.param_groups[0]["lr"] == LR
    assert ours.factor == 0.25


def test_torch_chain_is_no_product_where_ours_is() -> None:
    """torch's cosine computes the next rate from the current one, as if nobody else had changed it: with eta_min, a
    chain of it with a warmup is not the product of the two. Ours is the closed form."""
    reference = make_optimizer()
    chain = theirs.ChainedScheduler(
        [theirs.LinearLR(reference, 0.01, total_iters=500), theirs.CosineAnnealingLR(reference, STEPS, eta_min=0.1)]
    )
    expected = [
        LR * (0.01 + 0.99 * min(k, 500) / 500) * (0.5 + 0.5 * (1 + math.cos(math.pi * k / STEPS)) / 2)
        for k in range(STEPS)
    ]
    torchs = [lr for lr, _ in run(reference, chain)]
    optimizer = make_optimizer()
    product = linear(500, start=0.01, to=1.0).hold() * cosine(STEPS, to=0.5)
    ours = [lr for lr, _ in run(optimizer, Scheduler(optimizer, product))]
    assert ours == pytest.approx(expected, rel=1e-12)
    assert max(abs(a - b) / b for a, b in zip(torchs, expected, strict=True)) > 0.2


def test_torch_sequential_resumes_wrongly_and_ours_does_not() -> None:
    """Resumed in the usual order (optimizer, its state, scheduler, its state), torch's SequentialLR sets the rate back
    to the initial one when it is made and then goes on by ratios from there."""
    schedule = TABLE[[row.name for row in TABLE].index("SequentialLR")].ours

    def resumed(make: Callable[[Any], Any], at: int) -> tuple[list[float], list[float]]:
        optimizer = make_optimizer()
        scheduler = make(optimizer)
        run(optimizer, scheduler, at)
        saved = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
        whole = [lr for lr, _ in run(optimizer, scheduler, 50)]
        other = make_optimizer()
        other.load_state_dict(saved[0])
        second = make(other)
        second.load_state_dict(saved[1])
        return whole, [lr for lr, _ in run(other, second, 50)]

    whole, again = resumed(_sequential, 700)
    assert max(abs(a - b) / b for a, b in zip(again, whole, strict=True)) > 0.5
    whole, again = resumed(lambda optimizer: Scheduler(optimizer, schedule), 700)
    assert again == whole
