"""Random bits go by the place in the whole tensor: columns of a matrix are rounded as the whole matrix is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stepwell.engine import sharding
from stepwell.optimizers import find

ROWS, COLUMNS, FIRST, WIDTH = 40, 120, 30, 50  # the part: columns 30 to 79


def updated(weights: Tensor, grads: list[Tensor], backend: str) -> Tensor:
    vector = torch.ones(7, dtype=torch.bfloat16, requires_grad=True)
    parameter = weights.clone().requires_grad_()
    optimizer = find("AdamW")([parameter, vector], lr=0.01, weights="stochastic", state="bf16", backend=backend)
    for gradient in grads:
        parameter.grad, vector.grad = gradient.clone(), torch.ones_like(vector)
        optimizer.step()
    return parameter.detach()


def check(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that is said to be columns of a whole has the bits of the whole."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(ROWS, COLUMNS, generator=generator).bfloat16()
    grads = [torch.randn(ROWS, COLUMNS, generator=generator).bfloat16() for _ in range(4)]
    part = slice(FIRST, FIRST + WIDTH)
    expected = updated(weights, grads, "eager")[:, part]
    alone = updated(weights[:, part].contiguous(), [g[:, part].contiguous() for g in grads], backend)
    assert not torch.equal(alone, expected)  # other bits
    shape = (ROWS, WIDTH)
    monkeypatch.setattr(sharding, "rows_here", lambda t: (WIDTH, COLUMNS - WIDTH) if t.shape == shape else None)
    monkeypatch.setattr(sharding, "first_element", lambda t, exact=True: FIRST if t.shape == shape else 0)
    ours = updated(weights[:, part].contiguous(), [g[:, part].contiguous() for g in grads], backend)
    assert torch.equal(ours, expected)


@pytest.mark.parametrize("backend", ["eager", "cpu"])
def test_columns_are_rounded_as_the_whole(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(backend, monkeypatch)
