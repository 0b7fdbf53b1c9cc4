"""GPU kernels in Triton's interpreter, on CPU tensors: the same bits as the CPU kernels.

Triton decides when it is imported whether it interprets, so these run in a process of their own:
`tests/engine/test_gpu.py` starts it with TRITON_INTERPRET=1.
"""

import itertools
from typing import Any

import pytest
import torch

from stepwell.optimizers import find
from tests.contract.table import MATRIX, SUMMED, rows
from tests.contract.test_contract import assert_bits_equal, leaves, run
from tests.engine.test_rows import sparse, steps, table

pytestmark = pytest.mark.filterwarnings("ignore:.*(overflow|divide by zero|invalid value).*:RuntimeWarning")

SIZES = [(2, 2100), (7,)]  # four whole programs and a rest, one of which ends inside a block; a small tensor
FIRST = [row for row in rows() if row.id.endswith("-0") and row.values[0] not in MATRIX]


def problem(dtype: torch.dtype) -> tuple[list[torch.Tensor], list[list[Any]]]:
    generator = torch.Generator().manual_seed(0)
    draw = lambda shape: torch.randn(shape, generator=generator).to(dtype)  # noqa: E731
    grads: list[list[Any]] = [[draw(shape) for shape in SIZES] for _ in range(3)]
    grads[0][1] = None  # a late gradient
    return [draw(shape) for shape in SIZES], grads


def both(name: str, dtype: torch.dtype, options: dict[str, Any]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    params, grads = problem(dtype)
    results = []
    for backend in ("cpu", "gpu"):
        ours = leaves(params)
        optimizer = find(name)(ours, backend=backend, **options)
        run(optimizer, ours, grads)
        results.append([*ours, *(v for p in ours for v in optimizer.state[p].values())])
    return results[0], results[1]


@pytest.mark.parametrize(("name", "options"), [r.values for r in FIRST], ids=[r.id for r in FIRST])
def test_every_rule(name: str, options: dict[str, Any]) -> None:
    ours, theirs = both(name, torch.float32, options)
    for x, y in zip(ours, theirs, strict=True):
        # Sums are added in another order, and powers are exp2 and log2 instead of the C library's pow: a number that
        # is 1e-16 off is another float32 now and then.
        close = 2e-5 if name in SUMMED else 2e-6
        torch.testing.assert_close(x, y, rtol=close, atol=close)


FORMATS = [
    (dtype, state, weights)
    for dtype, state, weights in itertools.product(
        (torch.float32, torch.bfloat16, torch.float16),
        ("fp32", "bf16", "int8", "int4"),
        ("native", "stochastic", "split"),
    )
    if dtype != torch.float32 or weights == "native"
]


@pytest.mark.parametrize(("dtype", "state", "weights"), FORMATS)
def test_every_format_bit_for_bit(dtype: torch.dtype, state: str, weights: str) -> None:
    ours, theirs = both("Lion", dtype, {"lr": 0.01, "weight_decay": 0.1, "state": state, "weights": weights})
    assert_bits_equal(ours, theirs)


def test_float64() -> None:
    ours, theirs = both("AdamW", torch.float64, {"lr": 0.01})
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


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
