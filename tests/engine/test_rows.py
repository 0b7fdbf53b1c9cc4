"""Row-sparse gradients: the rows that are touched are updated as if they were the whole tensor, the others are not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import stepwell
from stepwell import UsageError
from stepwell.optimizers import find
from tests.contract.table import ROWS

ROWS_OF_TABLE, WIDTH = 40, 256  # 10,240 elements: more than keep fp32 under int8
BY_ELEMENT = [
    name for name in ROWS if find(name).view == "element" and not find(name).sums and not hasattr(find(name), "train")
]


def sparse(ids: list[int], values: Tensor, rows: int = ROWS_OF_TABLE) -> Tensor:
    return torch.sparse_coo_tensor(torch.tensor([ids]), values, (rows, *values.shape[1:]), check_invariants=True)


def table(width: int = WIDTH, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(ROWS_OF_TABLE, width, generator=torch.Generator().manual_seed(3)).to(dtype)


def steps(width: int = WIDTH, dtype: torch.dtype = torch.float32) -> list[tuple[list[int], Tensor]]:
    """Rows of three updates; unordered, and one of them twice."""
    generator = torch.Generator().manual_seed(5)
    ids = [[7, 3, 39], [3, 12, 3, 0], [39, 7]]
    return [(rows, torch.randn(len(rows), width, generator=generator).to(dtype)) for rows in ids]


@pytest.mark.parametrize("backend", ["eager", "cpu"])
@pytest.mark.parametrize("name", BY_ELEMENT)
def test_touched_rows_are_updated_like_a_tensor_of_their_own(name: str, backend: str) -> None:
    """Every row once per step, always the same ones: what a dense step does to a tensor of these rows alone."""
    options = ROWS[name][0]
    rows, start = [5, 17, 30], table()
    embedding, alone = start.clone().requires_grad_(), start[rows].clone().requires_grad_()
    optimizer = find(name)([embedding], backend=backend, **options)
    dense = find(name)([alone], backend=backend, **options)
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        values = torch.randn(3, WIDTH, generator=generator)
        embedding.grad, alone.grad = sparse(rows, values), values
        if hasattr(optimizer, "add_hessian"):
            ones = torch.ones_like(start)
            optimizer.add_hessian({embedding: ones})
            dense.add_hessian({alone: ones[rows]})
        optimizer.step()
        dense.step()
    others = [row for row in range(ROWS_OF_TABLE) if row not in rows]
    assert torch.equal(embedding[others], start[others])
    assert not torch.equal(embedding[rows], start[rows])
    if optimizer.param_groups[0]["state"] == "fp32":  # blocks of codes are other ones
        assert torch.equal(embedding[rows], alone)


FORMATS: list[Any] = [
    (torch.float32, {}),
    (torch.float32, {"state": "bf16"}),
    (torch.float32, {"state": "int8"}),
    (torch.float32, {"state": "int4"}),
    (torch.bfloat16, {"weights": "stochastic", "state": "bf16"}),
    (torch.bfloat16, {"weights": "split", "state": "int8"}),
    (torch.float16, {"weights": "split"}),
    (torch.float64, {}),
]


@pytest.mark.parametrize("width", [256, 250])  # rows of whole blocks, and rows that cut them
@pytest.mark.parametrize(("dtype", "options"), FORMATS)
def test_kernel_and_definition_agree_in_every_format(dtype: torch.dtype, options: dict[str, Any], width: int) -> None:
    results = []
    for backend in ("eager", "cpu"):
        weight, vector = table(width, dtype).requires_grad_(), torch.ones(5, dtype=dtype, requires_grad=True)
        optimizer = stepwell.AdamW([weight, vector], lr=0.01, weight_decay=0.1, backend=backend, **options)
        for ids, values in steps(width, dtype):
            weight.grad, vector.grad = sparse(ids, values), torch.ones(5, dtype=dtype)
            optimizer.step()
        results.append([weight, vector, *optimizer.state[weight].values(), *optimizer.state[vector].values()])
    for x, y in zip(*results, strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("width", [256, 250])
@pytest.mark.parametrize("state", ["bf16", "int8", "int4"])
def test_untouched_state_keeps_its_bits(state: str, width: int) -> None:
    weight = table(width).requires_grad_()
    optimizer = stepwell.AdamW([weight], state=state)
    weight.grad = torch.randn(ROWS_OF_TABLE, width, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    before = {key: value.clone() for key, value in optimizer.state[weight].items()}
    weight.grad = sparse([20], torch.ones(1, width))
    optimizer.step()
    rows_of_codes = {"bf16": 1, "int8": 1, "int4": 2}[state]
    for slot in ("exp_avg", "exp_avg_sq"):
        # the row's own codes, and those of the blocks it shares with its neighbours
        change = (optimizer.state[weight][slot].flatten() != before[slot].flatten()).nonzero().flatten()
        changed = change * rows_of_codes // width
        assert changed.min() >= 18
        assert changed.max() <= 22
        assert 20 in changed.tolist()


@pytest.mark.parametrize("backend", ["eager", "cpu"])
def test_a_gradient_without_rows_counts_as_a_step(backend: str) -> None:
    weight = table().requires_grad_()
    optimizer = stepwell.AdamW([weight], backend=backend)
    weight.grad = sparse([], torch.zeros(0, WIDTH))
    optimizer.step()
    assert float(optimizer.state[weight]["step"]) == 1
    assert torch.equal(weight, table())


@pytest.mark.parametrize("backend", ["eager", "cpu"])
def test_rules_that_see_the_whole_tensor_take_the_gradient_as_dense(backend: str) -> None:
    results = []
    for dense in (False, True):
        weight = table().requires_grad_()
        optimizer = stepwell.LAMB([weight], lr=0.1, backend=backend)
        for ids, values in steps():
            gradient = sparse(ids, values)
            weight.grad = gradient.to_dense() if dense else gradient
            optimizer.step()
        results.append(weight)
    assert torch.equal(*results)


@pytest.mark.parametrize("backend", ["eager", "cpu"])
def test_what_cannot_be_done_by_rows_is_refused_by_name(backend: str) -> None:
    weight = table().t().contiguous().t().requires_grad_()
    optimizer = stepwell.AdamW([("embed.weight", weight)], backend=backend)
    weight.grad = sparse([1], torch.ones(1, WIDTH))
    with pytest.raises(UsageError, match=r"'embed.weight' is row-sparse.*not contiguous"):
        optimizer.step()


@pytest.mark.parametrize("backend", ["eager", "cpu"])
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # of torch.optim.Adagrad
@pytest.mark.parametrize("sparse_dimensions", [1, 2, 3])
@pytest.mark.parametrize("name", ["SGD", "Adagrad", "SparseAdam"])
def test_gradients_that_are_sparse_in_several_dimensions_are_as_in_torch(
    name: str, sparse_dimensions: int, backend: str
) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (7, 5, 3)
    start = torch.randn(shape, generator=generator)
    mine, theirs = (start.clone().requires_grad_() for _ in range(2))
    both = (
        getattr(stepwell, name)([mine], lr=0.1, backend=backend),
        getattr(torch.optim, name)([theirs], lr=0.1),
    )
    for _ in range(4):
        places = [torch.randint(n, (6,), generator=generator) for n in shape[:sparse_dimensions]]
        values = torch.randn(6, *shape[sparse_dimensions:], generator=generator)
        for p, optimizer in zip((mine, theirs), both, strict=True):
            p.grad = torch.sparse_coo_tensor(torch.stack(places), values, shape, check_invariants=False)
            optimizer.step()
    torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", ["eager", "cpu"])
@pytest.mark.parametrize("state", ["fp32", "int8"])
@pytest.mark.parametrize("width", [256, 250])
def test_the_norm_of_all_gradients(backend: str, state: str, width: int) -> None:
    weight, vector = table(width).requires_grad_(), torch.zeros(1000, dtype=torch.bfloat16, requires_grad=True)
    without, matrix = torch.zeros(3, requires_grad=True), torch.zeros(70, 90, requires_grad=True)
    optimizer = stepwell.AdamW([weight, vector, without, matrix], state=state, backend=backend)
    assert float(optimizer.gradient_norm()) == 0
    weight.grad = sparse([3, 1], torch.full((2, width), 2.0))
    vector.grad = torch.full((1000,), 3.0, dtype=torch.bfloat16)
    matrix.grad = torch.full((90, 70), 0.5).t()
    expected = (2 * width * 4 + 1000 * 9 + 6300 * 0.25) ** 0.5
    assert float(optimizer.gradient_norm()) == pytest.approx(expected, rel=1e-6)
    optimizer.step()
    matrix.grad[3, 4] = torch.inf
    assert float(optimizer.gradient_norm()) == torch.inf
    matrix.grad[3, 4] = torch.nan
    assert bool(optimizer.gradient_norm().isnan())


@pytest.mark.parametrize("backend", ["eager", "cpu"])
def test_the_norm_of_a_million_equal_numbers(backend: str) -> None:
    """float32 sums in one go would be 4e-4 off; of a gradient whose elements are one number in memory, too."""
    weight = torch.zeros(1000, 1001, requires_grad=True)
    optimizer = stepwell.SGD([weight], backend=backend)
    for gradient in (torch.full_like(weight, 0.68371), torch.tensor(0.68371).expand_as(weight)):
        weight.grad = gradient
        assert float(optimizer.gradient_norm()) == pytest.approx(0.68371 * weight.numel() ** 0.5, rel=3e-6)


def test_torch_sparse_adam_is_adam_with_such_gradients() -> None:
    ours, theirs = table(dtype=torch.float64).requires_grad_(), table(dtype=torch.float64).requires_grad_()
    optimizer = stepwell.Adam([ours], lr=0.02, betas=(0.8, 0.95), eps=0.0)  # torch puts eps elsewhere
    peer = torch.optim.SparseAdam([theirs], lr=0.02, betas=(0.8, 0.95), eps=1e-300)
    for ids, values in steps(dtype=torch.float64):
        ours.grad, theirs.grad = sparse(ids, values), sparse(ids, values)
        optimizer.step()
        peer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
