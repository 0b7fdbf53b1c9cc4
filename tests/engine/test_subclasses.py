"""Tensors that wrap others, and steps inside of what traces programs: as in torch, or refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils._pytree import tree_map

import stepwell
from stepwell import UsageError


class Wrapper(torch.Tensor):
    """Keeps its numbers in another tensor, of which libtorch knows nothing."""

    inner: torch.Tensor
    refused: Any = ()

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Any:
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, strides=inner.stride(), dtype=inner.dtype)

    def __init__(self, inner: torch.Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in cls.refused:
            raise NotImplementedError(str(func))
        out = func(*tree_map(lambda t: t.inner if isinstance(t, Wrapper) else t, args), **(kwargs or {}))
        return cls(out) if func is torch.ops.aten.detach.default else out


class Stubborn(Wrapper):
    refused = (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)


@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_two_tensors_in_one_move_as_in_torch(backend: str) -> None:
    ends = []
    for make in (lambda ps: torch.optim.AdamW(ps, lr=0.1), lambda ps: stepwell.AdamW(ps, lr=0.1, backend=backend)):
        p = nn.Parameter(TwoTensor(torch.ones(8, 8), torch.full((8, 8), 2.0)))
        optimizer = make([p])
        for _ in range(3):
            optimizer.zero_grad()
            (p * p).sum().backward()
            optimizer.step()
        ends.append((p.a.detach(), p.b.detach()))
    torch.testing.assert_close(ends[0], ends[1])
    assert not torch.equal(*ends[0])


def test_a_wrapper_moves_by_operations_on_the_whole_or_is_refused_by_name() -> None:
    p = nn.Parameter(Wrapper(torch.ones(8, 8)))
    p.grad = Wrapper(torch.ones(8, 8))
    stepwell.AdamW([("w", p)], lr=0.1).step()
    assert bool((p.inner < 0.95).all())  # type: ignore[attr-defined]

    p = nn.Parameter(Stubborn(torch.ones(8, 8)))
    p.grad = Stubborn(torch.ones(8, 8))
    with pytest.raises(UsageError, match="'w' is a Stubborn, which cannot do an operation that the update needs"):
        stepwell.AdamW([("w", p)], lr=0.1).step()
    assert bool((p.inner == 1).all())  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda ps: stepwell.AdamW(ps, backend="cpu"), "elements are stored in other tensors"),
        (lambda ps: stepwell.AdamW(ps, state="bf16"), "state='fp32' and weights='native'"),
        (lambda ps: stepwell.Shampoo(ps), "its rule works on whole matrices"),
    ],
)
def test_what_a_wrapper_cannot_have_is_refused_by_name(make: Any, reason: str) -> None:
    p = nn.Parameter(Wrapper(torch.ones(80, 80)))
    p.grad = Wrapper(torch.ones(80, 80))
    with pytest.raises(UsageError, match=reason):
        make([("w", p)]).step()


def test_a_subclass_without_operations_of_its_own_is_a_tensor_like_others() -> None:
    class Named(torch.Tensor):
        pass

    p = nn.Parameter(torch.ones(8).as_subclass(Named))
    p.grad = torch.ones(8)
    stepwell.SGD([p], lr=0.5, backend="cpu").step()
    assert p.tolist() == [0.5] * 8


def test_fake_tensors_and_function_transforms_are_refused() -> None:
    p = torch.ones(4, requires_grad=True)
    p.grad = torch.ones(4)
    optimizer = stepwell.AdamW([p])
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(UsageError, match="FakeTensorMode is active"):
        optimizer.step()
    with pytest.raises(UsageError, match="inside a function transform"):
        torch.func.vmap(lambda x: (optimizer.step(), x)[1])(torch.ones(3))
    assert bool((p == 1).all())
    with FakeTensorMode():
        fake = nn.Parameter(torch.ones(4))
        fake.grad = torch.ones(4)
    with pytest.raises(UsageError, match="FakeTensor"):
        stepwell.AdamW([("w", fake)]).step()


def test_a_step_in_inference_mode_leaves_state_that_later_steps_can_use() -> None:
    p, q = torch.ones(4, requires_grad=True), torch.ones(4, requires_grad=True)
    ours, plain = stepwell.AdamW([p], lr=0.1), stepwell.AdamW([q], lr=0.1)
    for step in range(3):
        p.grad, q.grad = torch.ones(4), torch.ones(4)
        with torch.inference_mode(step != 2):
            ours.step()
        plain.step()
    assert torch.equal(p, q)
    (p * 2).sum().backward()


@pytest.mark.slow
@pytest.mark.parametrize("around", [False, True])
def test_a_compiled_step_is_a_break_of_the_graph(around: bool) -> None:
    torch.manual_seed(0)
    model, plain = nn.Linear(8, 8), nn.Linear(8, 8)
    plain.load_state_dict(model.state_dict())

    def loop(network: nn.Module) -> Any:
        optimizer = stepwell.AdamW(network, lr=0.1)
        if around:
            step = stepwell.Step(optimizer, clip_norm=1.0)
            return lambda x: step(network(x).square().sum()).updated

        def bare(x: torch.Tensor) -> None:
            optimizer.zero_grad()
            network(x).square().sum().backward()
            optimizer.step()

        return bare

    compiled, eager = torch.compile(loop(model), backend="eager"), loop(plain)
    for k in range(4):
        x = torch.full((2, 8), 1.0 + k)
        compiled(x)
        eager(x)
    torch.testing.assert_close(model.weight, plain.weight)
