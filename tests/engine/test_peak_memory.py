"""A step needs no memory beside parameters, gradients and state: the peak is that of torch's allocator."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import stepwell
from stepwell.engine import formats
from stepwell.optimizers import TABLE, create, find

SIDES, COUNT = (512, 520), 4
KIB = 2**10
FORMATS: dict[str, dict[str, Any]] = {"fp32": {}}
FORMATS |= {state: {"state": state} for state in formats.STATES if state != "fp32"}
FORMATS |= {weights: {"weights": weights} for weights in formats.WEIGHTS if weights != "native"}
# Copies of one matrix in float32: a product cannot be made in place, and a step of which a part is written is refused.
# The second number: with weights in bf16.
WORK = {"Muon": (6, 8), "SOAP": (10, 15), "Shampoo": (12, 16), "Adafactor": (7, 7)}


def transient(act: Callable[[], Any]) -> int:
    """The most bytes that were allocated during a call, beyond those that stay."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the profiler
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            act()
    events: Any = seen.profiler.kineto_results.events()
    now = most = 0
    for event in sorted((one for one in events if one.name() == "[memory]"), key=lambda one: one.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most - now


def made(name: str, format_: str) -> tuple[Any, int]:
    """An optimizer with gradients, and 1 % of what they, parameters and state need."""
    dtype = torch.bfloat16 if format_ in ("split", "stochastic") else torch.float32
    model = nn.Sequential(*[nn.Linear(*SIDES, bias=False) for _ in range(COUNT)]).to(dtype)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) * 0.01
    optimizer = create(name, model, **FORMATS[format_])
    held = 2 * sum(p.numel() * p.itemsize for p in model.parameters())
    return optimizer, held // 100


def cases() -> list[tuple[str, str]]:
    found = []
    for name in TABLE:
        cls: Any = find(name)
        if hasattr(cls, "signatures") and not getattr(cls, "needs_closure", False):
            own = cls.__name__ in ("AdamW8bit", "AdamW4bit", "SparseAdam")
            found += [(cls.__name__, format_) for format_ in FORMATS if not own or format_ in ("fp32", "split")]
    return found


@pytest.mark.parametrize(("name", "format_"), cases())
def test_a_step_needs_no_memory_beside(name: str, format_: str) -> None:
    optimizer, hundredth = made(name, format_)
    matrix = 4 * SIDES[0] * SIDES[1]
    allowed = WORK.get(name, (0, 0))[format_ in ("split", "stochastic")] * matrix + hundredth + 64 * KIB
    for _ in range(2):  # with the first, the state is made
        assert transient(optimizer.step) <= allowed


def test_many_matrices_need_no_more_than_one() -> None:
    for name, (copies, _) in WORK.items():
        model = nn.Sequential(*[nn.Linear(*SIDES, bias=False) for _ in range(12)])
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter) * 0.01
        optimizer = create(name, model)
        optimizer.step()
        assert transient(optimizer.step) <= (copies + 1) * 4 * SIDES[0] * SIDES[1], name


def test_nor_do_a_step_with_clipping_and_averages() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(*SIDES, bias=False) for _ in range(COUNT)])
    step = stepwell.Step(stepwell.AdamW(model.named_parameters()), clip_norm=1.0, model=model, ema=0.9)

    def update() -> None:
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        step.update()

    update()
    held = sum(4 * p.numel() for p in model.parameters())
    assert transient(update) <= 1.1 * held  # the gradients, which this function makes


def test_the_measure_sees_what_is_allocated() -> None:
    assert transient(lambda: torch.ones(2**20).sum()) == pytest.approx(4 * 2**20, rel=0.01)
    kept: list[Any] = []
    assert transient(lambda: kept.append(torch.ones(2**20))) < KIB
