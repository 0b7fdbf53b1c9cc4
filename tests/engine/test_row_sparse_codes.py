"""Row-sparse gradients of parameters whose state is in blocks of codes: no kernel leaves the memory of a row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import stepwell as sw

STATES = ("int8", "int4")


def coo(places: Tensor, values: Tensor, shape: torch.Size) -> Tensor:
    return torch.sparse_coo_tensor(places, values, shape, check_invariants=True)


def same(make: Any, backends: tuple[str, str] = ("cpu", "eager"), name: str = "AdamW", **options: Any) -> None:
    """Weights and state after a dense and a sparse gradient, on two backends."""
    found = []
    for backend in backends:
        torch.manual_seed(0)
        p, dense, sparse = make()
        optimizer = getattr(sw, name)([p], lr=0.01, backend=backend, **options)
        for gradient in (dense, sparse):
            p.grad = gradient
            optimizer.gradient_norm()
            optimizer.step()
        found.append([p.detach(), *(value for _, value in sorted(optimizer.state[p].items()))])
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("state", STATES)
def test_a_gradient_that_is_sparse_in_all_dimensions(state: str) -> None:
    def make() -> tuple[nn.Parameter, Tensor, Tensor]:
        p = nn.Parameter(torch.zeros(70, 100))
        torch.gather(p, 1, torch.tensor([[3], [5]]), sparse_grad=True).sum().backward()
        assert p.grad is not None
        return p, torch.randn(70, 100), p.grad

    same(make, state=state, betas=(0.9, 0.99))


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("width", [64, 67, 256])
def test_a_gradient_that_is_sparse_in_two_of_three_dimensions(state: str, width: int) -> None:
    def make() -> tuple[nn.Parameter, Tensor, Tensor]:
        p = nn.Parameter(torch.zeros(40, 5, width))
        places = torch.tensor([[0, 7, 39], [1, 2, 4]])
        return p, torch.randn(p.shape), coo(places, torch.randn(3, width), p.shape)

    same(make, state=state, betas=(0.9, 0.99))


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("width", [60, 63, 64, 100, 129, 256])
def test_rows_of_any_width(state: str, width: int) -> None:
    def make() -> tuple[nn.Parameter, Tensor, Tensor]:
        p = nn.Parameter(torch.zeros(80, width))
        places = torch.tensor([[7, 0, 7, 79]])
        return p, torch.randn(p.shape), coo(places, torch.randn(4, width), p.shape)

    same(make, state=state, betas=(0.9, 0.99))


@pytest.mark.parametrize("state", ["fp32", "int8"])
def test_a_sparse_gradient_without_rows_counts_as_a_step(state: str) -> None:
    def make() -> tuple[nn.Parameter, Tensor, Tensor]:
        none = coo(torch.zeros(1, 0, dtype=torch.long), torch.zeros(0, 100), torch.Size((70, 100)))
        return nn.Parameter(torch.zeros(70, 100)), torch.ones(70, 100), none

    same(make, name="NAdam", state=state)
