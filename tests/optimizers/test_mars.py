"""MARS with an AdamW inside for what is not a matrix, as the authors' code has it."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor

import stepwell
from stepwell.errors import UsageError

OWN: dict[str, Any] = {"lr": 0.02, "weight_decay": 0.1, "gamma": 0.1, "eps": 1e-4}
INNER: dict[str, Any] = {"adamw_lr": 0.05, "adamw_betas": (0.8, 0.7), "adamw_weight_decay": 0.3}


def tensors() -> list[tuple[str, Tensor]]:
    torch.manual_seed(0)
    shapes = {"weight": (5, 4), "bias": (5,), "filter": (3, 2, 2, 2), "scale": ()}
    return [(name, torch.randn(shape, dtype=torch.float64).requires_grad_()) for name, shape in shapes.items()]


def run(optimizer: Any, named: list[tuple[str, Tensor]], steps: range) -> None:
    for step in steps:
        for place, (_, p) in enumerate(named):
            torch.manual_seed(100 * step + place)
            p.grad = torch.randn_like(p) * 3
        optimizer.step()


def test_matrices_are_mars_and_the_rest_is_adamw() -> None:
    named, alone = tensors(), tensors()
    both = stepwell.MARS(named, optimize_1d=False, **OWN, **INNER)
    run(both, named, range(5))
    matrices = stepwell.MARS(alone[:1], **OWN)
    others = stepwell.AdamW(alone[1:], lr=0.05, betas=(0.8, 0.7), weight_decay=0.3, eps=1e-4)
    for step in range(5):
        for place, (_, p) in enumerate(alone):
            torch.manual_seed(100 * step + place)
            p.grad = torch.randn_like(p) * 3
        matrices.step()
        others.step()
    for (name, p), (_, q) in zip(named, alone, strict=True):
        assert torch.equal(p, q), name
    assert "last_grad" in both.state[named[0][1]]
    assert "last_grad" not in both.state[named[1][1]]


def test_all_of_it_is_mars_unless_told() -> None:
    named = tensors()
    optimizer = stepwell.MARS(named, **OWN)
    run(optimizer, named, range(2))
    assert all("last_grad" in optimizer.state[p] for _, p in named)
    assert len(optimizer.param_groups) == 1


def test_a_group_may_say_itself_and_one_may_come_later() -> None:
    named = tensors()
    optimizer = stepwell.MARS([{"params": named[:1], "use_mars": False}], optimize_1d=False, **OWN, **INNER)
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["use_mars"]) == (0.05, False)
    optimizer.add_param_group({"params": [named[2], named[1]], "lr": 0.01})
    optimizer.add_param_group({"params": named[3:], "use_mars": True})
    assert [(g["use_mars"], g["lr"]) for g in optimizer.param_groups] == [(False, 0.05), (False, 0.01), (True, 0.02)]
    run(optimizer, named, range(2))
    with pytest.raises(UsageError):
        optimizer.add_param_group({"parameters": []})


def test_a_run_is_resumed() -> None:
    whole, first, second = tensors(), tensors(), tensors()
    run(stepwell.MARS(whole, optimize_1d=False, **OWN, **INNER), whole, range(6))
    before = stepwell.MARS(first, optimize_1d=False, **OWN, **INNER)
    run(before, first, range(3))
    buffer = io.BytesIO()
    torch.save(before.state_dict(), buffer)
    buffer.seek(0)
    with torch.no_grad():
        for (_, p), (_, q) in zip(first, second, strict=True):
            q.copy_(p)
    after = stepwell.MARS(second, optimize_1d=False, **OWN, **INNER)
    after.load_state_dict(torch.load(buffer, weights_only=True))
    run(after, second, range(3, 6))
    assert all(torch.equal(p, q) for (_, p), (_, q) in zip(whole, second, strict=True))
