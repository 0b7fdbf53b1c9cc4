"""GPU kernels in Triton's interpreter, on CPU tensors: what the matrix of the contract (`test_matrix.py`) leaves out.

Triton decides when it is imported whether it interprets, so these run in a process of their own:
`tests/engine/test_gpu.py` starts it with TRITON_INTERPRET=1.
"""

from typing import Any

import pytest
import torch

from stepwell.optimizers import find
from tests.contract.test_contract import assert_bits_equal, leaves, run
from tests.engine.test_rows import sparse, steps, table

pytestmark = pytest.mark.filterwarnings("ignore:.*(overflow|divide by zero|invalid value).*:RuntimeWarning")

SIZES = [(2, 2100), (7,)]  # four whole programs and a rest, one of which ends inside a block; a small tensor


def problem(dtype: torch.dtype) -> tuple[list[torch.Tensor], list[list[Any]]]:
    generator = torch.Generator().manual_seed(0)
    draw = lambda shape: torch.randn(shape, generator=generator).to(dtype)  # noqa: E731
    grads: list[list[Any]] = [[draw(shape) for shape in SIZES] for _ in range(3)]
    grads[0][1] = None  # a late gradient
    return [draw(shape) for shape in SIZES], grads


def test_a_skipped_step_changes_nothing_and_scaling_is_undone() -> None:
    params, grads = problem(torch.float32)
    plain, scaled = leaves(params), leaves(params)
    run(find("AdamW")(plain, backend="gpu"), plain, grads)
    optimizer = find("AdamW")(scaled, backend="gpu")
    optimizer.grad_scale = torch.tensor(1024.0)
    for row in grads:
        optimizer.found_inf = torch.ones(())
        run(optimizer, scaled, [[torch.full_like(p, torch.nan) for p in scaled]])
        optimizer.found_inf = torch.zeros(())
        run(optimizer, scaled, [[None if g is None else g * 1024 for g in row]])
    assert_bits_equal(plain, scaled)


@pytest.mark.parametrize("width", [256, 250])  # rows of whole blocks of codes, and rows that cut them
@pytest.mark.parametrize(
    ("dtype", "options"),
    [(torch.float32, {}), (torch.float32, {"state": "int8"}), (torch.bfloat16, {"weights": "split", "state": "bf16"})],
)
def test_row_sparse_gradients(dtype: torch.dtype, options: dict[str, Any], width: int) -> None:
    results = []
    for backend in ("cpu", "gpu"):
        weight = table(width, dtype).requires_grad_()
        vector = torch.ones(1500, dtype=dtype, requires_grad=True)
        optimizer = find("adamw")([weight, vector], lr=0.01, backend=backend, **options)
        for ids, values in steps(width, dtype):
            weight.grad, vector.grad = sparse(ids, values), torch.ones(1500, dtype=dtype)
            norm = optimizer.gradient_norm()
            optimizer.step()
        results.append(
            [weight, vector, norm, *(optimizer.state[weight][key] for key in sorted(optimizer.state[weight]))]
        )
    for x, y in zip(*results, strict=True):
        # powers are another function here (see above)
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6 if x.dtype.is_floating_point else 1)


def test_columns_are_rounded_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.engine.test_places import check

    check("gpu", monkeypatch)


@pytest.mark.parametrize("state", ["int8", "int4"])
def test_columns_that_are_whole_blocks_have_the_codes_of_the_whole(state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.engine.test_places import check

    check("gpu", monkeypatch, state, 768, slice(256, 512))
