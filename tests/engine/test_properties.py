"""Whatever tensors look like, the kernels of the CPU compute what the definition does: shapes, layouts, dtypes, groups,
missing and row-sparse gradients, thread counts, drawn at random."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stepwell.optimizers import find

# around the blocks of codes (128, 256), of sums (2,048), and the size below which state stays fp32 (4,096)
LENGTHS = st.sampled_from([0, 1, 2, 3, 127, 128, 129, 255, 256, 257, 2047, 2048, 2049, 4095, 4096, 4097])
FEW = st.integers(1, 3)
SHAPES = st.one_of(
    st.just(()),
    st.tuples(LENGTHS),
    st.tuples(FEW, LENGTHS),
    st.tuples(LENGTHS, FEW),
    st.tuples(st.integers(10, 40), st.sampled_from([128, 250, 256])),
    st.tuples(FEW, st.integers(0, 20), st.integers(1, 70)),
    st.tuples(FEW, st.integers(1, 33), FEW, st.integers(1, 50)),
)


def _reversed(x: Tensor) -> Tensor:
    return x.permute(tuple(reversed(range(x.ndim))))


# how a tensor of these numbers may lie in memory
LAYOUTS: dict[str, Any] = {
    "contiguous": lambda x: x.clone(),
    "transposed": lambda x: _reversed(_reversed(x).contiguous()),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x.clone(),
    "gaps between elements": lambda x: x[..., None].expand(*x.shape, 2).clone()[..., 0],
    "gaps between rows": lambda x: torch.cat([x, x], dim=-1)[..., : x.shape[-1]] if x.ndim else x.clone(),
    "at an odd address": lambda x: torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape),
}
OF_GRADIENTS = {
    **LAYOUTS,
    "expanded": lambda x: x.flatten()[:1].reshape([1] * x.ndim).expand(x.shape) if x.numel() else x,
    "row-sparse": None,
}
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@dataclass
class Tensors:
    """A parameter, and how its gradients come."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    layout: str
    group: int
    gradients: list[str]  # per step, the layout; "" where there is none
    scales: list[float]


@st.composite
def tensors(draw: st.DrawFn, steps: int, dtypes: tuple[torch.dtype, ...]) -> Tensors:
    dtype = draw(st.sampled_from(dtypes))
    # float32 squares of 1e-20 are denormal, of 1e-30 zero
    scales = [1.0, 100.0, 1e-5] if dtype == torch.float16 else [1.0, 100.0, 1e-5, 1e-20, 1e-30]
    return Tensors(
        draw(SHAPES),
        dtype,
        draw(st.sampled_from(list(LAYOUTS))),
        draw(st.integers(0, 2)),
        draw(st.lists(st.sampled_from(["", *OF_GRADIENTS, "contiguous"]), min_size=steps, max_size=steps)),
        draw(st.lists(st.sampled_from(scales), min_size=steps, max_size=steps)),
    )


@dataclass
class Problem:
    tensors: list[Tensors]
    rates: list[float]  # of the groups
    threads: list[int]  # of the steps
    seed: int


STEPS = 3


@st.composite
def problems(draw: st.DrawFn, dtypes: tuple[torch.dtype, ...] = DTYPES) -> Problem:
    return Problem(
        draw(st.lists(tensors(STEPS, dtypes), min_size=1, max_size=5)),
        draw(st.lists(st.sampled_from([0.0, 1e-3, 0.1]), min_size=3, max_size=3)),
        draw(st.lists(st.integers(1, 2), min_size=STEPS, max_size=STEPS)),
        draw(st.integers(0, 1000)),
    )


@pytest.fixture(scope="module", autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def gradient(one: Tensors, step: int, p: Tensor, generator: torch.Generator) -> Tensor | None:
    values = (torch.randn(one.shape, generator=generator) * one.scales[step]).to(one.dtype)
    layout = one.gradients[step]
    if layout != "row-sparse":
        return OF_GRADIENTS[layout](values) if layout else None
    if not p.is_contiguous() or p.ndim == 0 or p.numel() == 0:  # these have no rows, or are refused by name
        return values
    rows = torch.randint(len(values), (int(torch.randint(4, (), generator=generator)),), generator=generator)
    return torch.sparse_coo_tensor(rows[None], values[rows], one.shape, check_invariants=True)


def trained(name: str, backend: str, problem: Problem, options: dict[str, Any]) -> tuple[list[Any], list[float]]:
    """All bits of weights and state after the steps, and the norm of the gradients before each."""
    generator = torch.Generator().manual_seed(problem.seed)
    params, groups = [], [{"params": [], "lr": rate, "weight_decay": rate} for rate in problem.rates]
    for one in problem.tensors:
        start = torch.randn(one.shape, generator=generator).to(one.dtype)
        params.append(LAYOUTS[one.layout](start).detach().requires_grad_())
        groups[one.group]["params"].append(params[-1])
    optimizer = find(name)([group for group in groups if group["params"]], backend=backend, **options)
    norms = []
    for step in range(STEPS):
        torch.set_num_threads(problem.threads[step])
        for one, p in zip(problem.tensors, params, strict=True):
            p.grad = gradient(one, step, p, generator)
        norms.append(float(optimizer.gradient_norm()))
        optimizer.step()
    return [{"p": p.detach(), **optimizer.state.get(p, {})} for p in params], norms


def assert_equal(name: str, problem: Problem, options: dict[str, Any]) -> None:
    definition, norms = trained(name, "eager", problem, options)
    kernels, their_norms = trained(name, "cpu", problem, options)
    for norm, theirs in zip(norms, their_norms, strict=True):
        assert math.isclose(norm, theirs, rel_tol=1e-5, abs_tol=1e-18)  # float32 squares, in any order
    for one, other in zip(definition, kernels, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            if name == "LAMB":  # so are its sums
                torch.testing.assert_close(other[key], value, rtol=2e-5, atol=2e-6)
            else:
                assert torch.equal(other[key], value), key


@pytest.mark.slow
@settings(max_examples=60)
@given(problems(), st.sampled_from(["native", "stochastic", "split"]))
def test_adamw(problem: Problem, weights: str) -> None:
    assert_equal("AdamW", problem, {"weights": weights})


@pytest.mark.slow
@settings(max_examples=60)
@given(problems(), st.sampled_from(["native", "stochastic", "split"]))
def test_adamw_in_int8(problem: Problem, weights: str) -> None:
    assert_equal("AdamW", problem, {"weights": weights, "state": "int8"})


@pytest.mark.slow
@settings(max_examples=60)
@given(problems(), st.booleans())
def test_lion(problem: Problem, maximize: bool) -> None:
    assert_equal("Lion", problem, {"maximize": maximize})


@pytest.mark.slow
@settings(max_examples=60)
@given(problems((torch.float32, torch.float64)))
def test_lamb_with_sums(problem: Problem) -> None:
    assert_equal("LAMB", problem, {})
