"""Random bits go by the place in the whole tensor: columns of a matrix are rounded as the whole matrix is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stepwell.engine import sharding
from stepwell.optimizers import find

ROWS = 40


def updated(weights: Tensor, grads: list[Tensor], backend: str, state: str) -> Tensor:
    vector = torch.ones(7, dtype=torch.bfloat16, requires_grad=True)
    parameter = weights.clone().requires_grad_()
    optimizer = find("AdamW")([parameter, vector], lr=0.01, weights="stochastic", state=state, backend=backend)
    for gradient in grads:
        parameter.grad, vector.grad = gradient.clone(), torch.ones_like(vector)
        optimizer.step()
    return parameter.detach()


def check(
    backend: str,
    monkeypatch: pytest.MonkeyPatch,
    state: str = "bf16",
    columns: int = 120,
    part: slice = slice(30, 80),
) -> None:
    """A part that is said to be columns of a whole has the bits of the whole."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(ROWS, columns, generator=generator).bfloat16()
    grads = [torch.randn(ROWS, columns, generator=generator).bfloat16() for _ in range(4)]
    width = part.stop - part.start
    expected = updated(weights, grads, "eager", state)[:, part]
    alone = updated(weights[:, part].contiguous(), [g[:, part].contiguous() for g in grads], backend, state)
    assert not torch.equal(alone, expected)  # other bits
    shape = (ROWS, width)
    monkeypatch.setattr(sharding, "rows_here", lambda t: (width, columns - width) if t.shape == shape else None)
    monkeypatch.setattr(sharding, "first_element", lambda t, exact=True: part.start if t.shape == shape else 0)
    ours = updated(weights[:, part].contiguous(), [g[:, part].contiguous() for g in grads], backend, state)
    assert torch.equal(ours, expected)


@pytest.mark.parametrize("backend", ["eager", "cpu"])
def test_columns_are_rounded_as_the_whole(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(backend, monkeypatch)


@pytest.mark.parametrize("state", ["int8", "int4"])
@pytest.mark.parametrize("backend", ["eager", "cpu"])
def test_columns_that_are_whole_blocks_have_the_codes_of_the_whole(
    backend: str, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(backend, monkeypatch, state, 768, slice(256, 512))
