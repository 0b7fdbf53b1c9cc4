"""Gradients are found without objects of Python where they are ordinary, and steps are the same in every case."""

from __future__ import annotations

import gc
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import stepwell
from stepwell.engine import gradient_pointers, pointers
from stepwell.engine.gradient_pointers import GradientPointers


def made(*gradients: Tensor | None, shape: tuple[int, ...] = (4, 3)) -> list[Tensor]:
    """Parameters with these gradients."""
    found = []
    for gradient in gradients:
        p = torch.zeros(shape, requires_grad=True)
        p.grad = gradient
        found.append(p)
    return found


def of(params: list[Tensor]) -> GradientPointers:
    return GradientPointers(params, params)


def test_gradients_are_found_and_held_until_the_release() -> None:
    params = made(torch.ones(4, 3), None, torch.ones(4, 3))
    found = of(params)
    present = found.take()
    assert present is not None
    assert present.tolist() == [True, False, True]
    assert [a or None for a in found.addresses.tolist()] == [
        p.grad.data_ptr() if p.grad is not None else None for p in params
    ]
    address = int(found.addresses[0])
    params[0].grad = None
    others = [torch.full((4, 3), 7.0) for _ in range(64)]  # would get memory that was freed
    assert address not in [other.data_ptr() for other in others]
    found.release()
    again = found.take()
    assert again is not None
    assert again.tolist() == [False, False, True]
    found.release()


@pytest.mark.parametrize("drop", ["release", "object"])
def test_nothing_is_kept_alive_afterwards(drop: str) -> None:
    memory = np.ones((4, 3), dtype=np.float32)
    params = made(torch.from_numpy(memory))
    found = of(params)
    assert found.take() is not None
    params[0].grad = None
    gc.collect()
    held = sys.getrefcount(memory)
    if drop == "release":
        found.release()
    else:
        del found
        gc.collect()
    assert sys.getrefcount(memory) < held


@pytest.mark.parametrize(
    "gradient",
    [
        torch.ones(4, 3).to_sparse(1),
        torch.ones(3, 4).t(),
        torch.ones(4, 6)[:, ::2],
        torch.complex(torch.zeros(4, 3), torch.ones(4, 3)).conj().imag,
        torch._neg_view(torch.ones(4, 3)),
    ],
    ids=["sparse", "transposed", "with gaps", "negated with gaps", "negated"],
)
def test_unusual_gradients_are_left_to_python(gradient: Tensor) -> None:
    memory = np.ones((4, 3), dtype=np.float32)
    params = made(torch.from_numpy(memory), gradient)
    found = of(params)
    held = sys.getrefcount(memory)
    assert found.take() is None
    params[0].grad = None
    gc.collect()
    assert sys.getrefcount(memory) == held - 1  # nothing is kept
    given = [torch.ones(4, 3), gradient]
    params = made(*given)
    expected = [p.detach() - 0.1 * g.to_dense() for p, g in zip(params, given, strict=True)]
    stepwell.SGD(params, lr=0.1).step()
    for p, value in zip(params, expected, strict=True):
        assert torch.equal(p, value)


def test_freed_memory_is_left_to_python() -> None:
    freed = torch.ones(4, 3)
    params = made(torch.ones(4, 3), freed)
    freed.untyped_storage().resize_(0)
    assert of(params).take() is None


# A subclass that answers for its gradient.
Named: Any = type("Named", (torch.nn.Parameter,), {"grad": property(lambda self: torch.full_like(self.detach(), 2.0))})


class Loud(Tensor):
    """A subclass whose attributes are torch functions of its own."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return super().__torch_function__(func, types, args, kwargs or {})


def test_a_subclass_is_asked_for_its_gradient() -> None:
    named = Named(torch.zeros(4, 3))
    stepwell.SGD([named], lr=0.5).step()
    assert torch.equal(named.detach(), torch.full((4, 3), -1.0))
    assert of([named]).take() is None
    loud = torch.zeros(4, 3).as_subclass(Loud).requires_grad_()
    assert of([loud]).take() is None
    plain = torch.nn.Parameter(torch.zeros(4, 3))
    assert of([plain]).take() is not None


def test_without_the_functions_steps_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained() -> list[Tensor]:
        torch.manual_seed(0)
        params = [torch.randn(5, 3, requires_grad=True) for _ in range(4)]
        optimizer = stepwell.AdamW(params, lr=0.1)
        for turn in range(4):
            for number, p in enumerate(params):
                p.grad = torch.randn(5, 3) if (turn + number) % 3 else None
            optimizer.step()
        return [p.detach().clone() for p in params]

    quick = trained()
    taken = []
    monkeypatch.setattr(GradientPointers, "take", lambda self: taken.append(self))
    assert all(map(torch.equal, quick, trained()))
    assert taken
    monkeypatch.undo()
    monkeypatch.setattr(pointers, "library", lambda: None)
    assert all(map(torch.equal, quick, trained()))


def test_this_torch_has_the_functions() -> None:
    """Where a new torch lacks one, steps are right and slower, which nobody would see."""
    library = pointers.library()
    assert library is not None
    assert library.looks_at_gradients
    assert gradient_pointers.GradientPointers(made(None), made(None)).take() is not None


def test_a_step_that_is_refused_keeps_no_gradient() -> None:
    memory = np.ones((4, 3), dtype=np.float32)
    shared = torch.zeros(24)
    params = [shared[:12].view(4, 3).requires_grad_(), shared[12:].view(4, 3).requires_grad_()]
    optimizer = stepwell.SGD(params, lr=0.1)
    for p in params:
        p.grad = torch.ones(4, 3)
    optimizer.step()
    params[1].data = shared[6:18].view(4, 3)
    params[0].grad = torch.from_numpy(memory)
    with pytest.raises(stepwell.UsageError, match="share memory"):
        optimizer.step()
    held = sys.getrefcount(memory)
    params[0].grad = None
    gc.collect()
    assert sys.getrefcount(memory) == held - 1


@pytest.mark.parametrize(
    "unusual", [lambda g: g.t().contiguous().t(), lambda g: g.to_sparse(1)], ids=["layout", "sparse"]
)
def test_what_an_interrupted_step_looked_up_is_forgotten(unusual: Any) -> None:
    params = made(torch.ones(4, 3), torch.ones(4, 3))
    optimizer = stepwell.SGD(params, lr=1.0)
    optimizer.step()
    optimizer.prepare()  # and Ctrl-C before the update
    params[1].grad = unusual(torch.ones(4, 3))
    optimizer.step()
    for p in params:
        assert torch.equal(p.detach(), torch.full((4, 3), -2.0))


def test_another_order_of_memory_when_some_other_parameter_has_its_first_gradient() -> None:
    def run(backend: Any) -> Tensor:
        torch.manual_seed(0)
        params = [torch.randn(4, 3).requires_grad_(), torch.randn(4, 3).requires_grad_()]
        optimizer = stepwell.AdamW(params, lr=0.1, backend=backend)
        params[0].grad = torch.randn(4, 3)
        optimizer.step()
        params[0].data = params[0].data.t().contiguous().t()
        for p in params:
            p.grad = torch.randn(4, 3)
        optimizer.step()
        return torch.stack([p.detach() for p in params])

    assert torch.equal(run("cpu"), run("eager"))
