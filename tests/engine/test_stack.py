"""Stacks for matrix rules: what kernels copy and write is what torch's operations would, whatever a rule returns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stepwell.engine import Optimizer, Slot
from stepwell.engine.backends import stack, stacks
from stepwell.engine.kernels import stacked
from stepwell.optimizers import SOAP, Adafactor, Muon, Shampoo

MATRIX: list[Any] = [Muon, SOAP, Shampoo, Adafactor]


def addresses(tensors: list[Tensor]) -> np.ndarray:
    return np.array([t.data_ptr() for t in tensors], dtype=np.int64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("count", "shape"), [(1, (1,)), (3, (5, 7)), (2, (300, 401)), (130, (64, 64))])
def test_copies_and_the_application(count: int, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tensors = [torch.randn(shape, dtype=dtype) for _ in range(count)]
    found = stacked.gather(addresses(tensors), shape, dtype)
    assert torch.equal(found, torch.stack(tensors))
    others = torch.randn(count, *shape, dtype=dtype)
    before = [t.clone() for t in tensors]
    act = stacked.application(others, addresses(tensors), 0.9, 0.3)
    assert all(map(torch.equal, tensors, before))
    act()
    expected = [b.mul(0.9).sub(0.3 * o) for b, o in zip(before, others, strict=True)]
    assert all(map(torch.equal, tensors, expected))
    act()  # again, as after an interruption
    assert all(map(torch.equal, tensors, expected))
    stacked.scatter(others, addresses(tensors))
    assert all(map(torch.equal, tensors, others))


def swapping(g: Any, p: Any, t: Any, first: Any, second: Any) -> Any:
    return second, second, first


def keeping_the_gradient(g: Any, p: Any, t: Any, first: Any, second: Any) -> Any:
    return first - second, g, first


def keeping_the_weights(g: Any, p: Any, t: Any, first: Any, second: Any) -> Any:
    return g + p, p, first


def returning_views(g: Any, p: Any, t: Any, first: Any, second: Any) -> Any:
    return g.mT.contiguous().mT, g.mT.contiguous().mT, first


def changing_nothing(g: Any, p: Any, t: Any, first: Any, second: Any) -> Any:
    return first, first, second


def averaging(g: Any, p: Any, t: Any, first: Any, second: Any) -> Any:
    return g.mean(-1, keepdim=True), first + g.mean(), second


def transposing(g: Any, p: Any, t: Any, first: Any, second: Any) -> Any:
    return g, (first + g).reshape(-1, 12, 8).mT.reshape(g.shape), first


def inside(g: Any, p: Any, t: Any, first: Any, second: Any) -> Any:
    return (lambda x: x * p)(g), first + g, second


def overwriting(g: Any, p: Any, t: Any, first: Any, second: Any) -> Any:
    return g.mul_(2), first.add_(g), second.sub_(first)


def trained(rule: Any, decay: str | None, count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)

    class Own(Optimizer):
        slots = (Slot("first"), Slot("second"))
        view = "matrix"

        def __init__(self, params: Any, **options: Any) -> None:
            super().__init__(params, {"lr": 0.3, "weight_decay": 0.1}, options)

    one = type("One", (Own,), {"rule": rule, "decay": decay, "__init__": Own.__init__})
    params = [torch.randn(8, 12, generator=generator).requires_grad_() for _ in range(count)]
    optimizer: Any = one(params)
    for _ in range(4):
        for p in params:
            p.grad = torch.randn(8, 12, generator=generator)
        given = [p.grad.clone() for p in params if p.grad is not None]
        optimizer.step()
        assert all(torch.equal(p.grad, g) for p, g in zip(params, given, strict=True) if p.grad is not None)
    kept = [optimizer.state[p][name] for p in params for name in ("first", "second")]
    return [t.detach().clone() for t in [*params, *kept]]


@pytest.mark.parametrize("decay", ["decoupled", "coupled", None])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("module", ["stepwell.optimizers.own", "somebody"])
@pytest.mark.parametrize(
    "rule",
    [
        *(swapping, keeping_the_gradient, keeping_the_weights, returning_views, changing_nothing, averaging),
        *(transposing, inside, overwriting),
    ],
)
def test_whatever_a_rule_returns(
    rule: Any, count: int, decay: str | None, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if rule is overwriting and module != "somebody":
        return  # no rule of this package does
    monkeypatch.setattr(rule, "__module__", module)
    used = []
    original = stack.ByAddress.store
    monkeypatch.setattr(stack.ByAddress, "store", lambda self, slots: (used.append(1), original(self, slots))[1])
    quick = trained(rule, decay, count)
    assert used
    for module in (stack, stacks):
        monkeypatch.setattr(module, "has_addresses", lambda launch: False)
    used.clear()
    plain = trained(rule, decay, count)
    assert not used
    assert all(map(torch.equal, quick, plain))


@pytest.mark.parametrize("cls", MATRIX)
@pytest.mark.parametrize("shapes", [[(24, 16)], [(16, 24), (16, 24)], [(3, 4, 5, 5)]])
def test_rules_do_not_change_what_they_are_given(cls: Any, shapes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = stacks.direct_stack

    def watched(rule: Any, g: Any, p: Any, t: Any, slots: Any, **options: Any) -> Any:
        given = [x for x in (g, p, *slots) if x is not None]
        before = [x.clone() for x in given]
        found = yield from original(rule, g, p, t, slots, **options)
        assert all(map(torch.equal, given, before))
        seen.append(found)
        return found

    monkeypatch.setattr(stacks, "direct_stack", watched)
    for options in ({}, {"weight_decay": 0.3}, {"maximize": True}):
        params = [torch.randn(shape).requires_grad_() for shape in shapes]
        optimizer = cls([{"params": params, **({"use_muon": True} if cls is Muon else {})}], lr=0.01, **options)
        for _ in range(3):
            for p in params:
                p.grad = torch.randn_like(p)
            optimizer.step()
    assert seen


@pytest.mark.parametrize("cls", MATRIX)
def test_an_interrupted_write_is_completed_once(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(interrupted: bool) -> list[Tensor]:
        torch.manual_seed(0)
        params = [(f"{i}.weight", torch.randn(32, 24).requires_grad_()) for i in range(2)]
        optimizer = cls(params, lr=0.01, weight_decay=0.1)
        for turn in range(3):
            for _, p in params:
                p.grad = torch.randn_like(p)
            if interrupted and turn == 2:
                original = stack.Plain.store

                def store(self: Any, slots: Any, original: Any = original) -> None:
                    monkeypatch.undo()
                    original(self, slots)
                    raise KeyboardInterrupt

                monkeypatch.setattr(stack.Plain, "store", store)
                with pytest.raises(KeyboardInterrupt):
                    optimizer.step()
            else:
                optimizer.step()
        state = [v for s in optimizer.state.values() for v in s.values() if isinstance(v, Tensor)]
        return [t.detach().clone() for t in [*[p for _, p in params], *state]]

    assert all(map(torch.equal, run(False), run(True)))


@pytest.mark.parametrize("cls", MATRIX)
def test_where_a_gradient_begins_in_memory_changes_no_bit(cls: Any) -> None:
    """Gradients that are views of a bucket, as those of DistributedDataParallel, begin anywhere."""

    def run(shift: int) -> list[Tensor]:
        torch.manual_seed(0)
        params = [torch.randn(8, 1024).requires_grad_()]
        optimizer = cls([{"params": params, **({"use_muon": True} if cls is Muon else {})}], lr=0.01)
        for _ in range(3):
            bucket = torch.zeros(shift + 8 * 1024)
            params[0].grad = bucket[shift:].view(8, 1024).copy_(torch.randn(8, 1024))
            optimizer.step()
        state = [v for v in optimizer.state[params[0]].values() if isinstance(v, Tensor)]
        return [t.detach().clone() for t in [*params, *state]]

    aligned = run(0)
    for shift in (1, 3, 9):
        assert all(map(torch.equal, aligned, run(shift)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_direction_of_another_dtype_stays_inside(dtype: torch.dtype) -> None:
    class Own(Optimizer):
        slots, decay, view = (), None, "matrix"
        rule = staticmethod(lambda g, p, t: g.to(dtype))

        def __init__(self, params: Any, **options: Any) -> None:
            super().__init__(params, {"lr": 0.5, "weight_decay": 0.0}, options)

    buffer = torch.ones(64)
    p = buffer[:16].view(4, 4).requires_grad_()
    p.grad = torch.ones(4, 4)
    Own([p]).step()
    assert torch.equal(buffer, torch.cat([torch.full((16,), 0.5), torch.ones(48)]))


def test_a_second_write_stores_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swapping, "__module__", "stepwell.optimizers.own")
    once = trained(swapping, "decoupled", 1)
    original = stack.ByAddress.store
    twice = lambda self, slots: (original(self, slots), original(self, slots))  # noqa: E731  # as after Ctrl-C
    monkeypatch.setattr(stack.ByAddress, "store", twice)
    assert all(map(torch.equal, once, trained(swapping, "decoupled", 1)))
