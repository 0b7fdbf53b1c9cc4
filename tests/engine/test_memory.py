"""Parameters that share a storage, and a run that is interrupted between two steps."""

from __future__ import annotations

import pytest
import torch

import stepwell
from stepwell import UsageError
from tests.contract.test_contract import assert_bits_equal, leaves, problem, run


@pytest.mark.parametrize("backend", ["eager", "cpu"])
def test_views_of_one_storage_are_parameters_like_others(backend: str) -> None:
    store, apart = torch.randn(30, generator=torch.Generator().manual_seed(0)), []
    views = [store[:8], store[8:20], store[20:].view(2, 5)]
    apart = leaves(views)
    views = [view.requires_grad_() for view in views]
    for params in (views, apart):
        optimizer = stepwell.AdamW(params, lr=0.1, backend=backend)
        for step in range(3):
            for i, p in enumerate(params):
                p.grad = torch.full(p.shape, 1.0 + i - step)
            optimizer.step()
    assert_bits_equal([v.detach() for v in views], [p.detach() for p in apart])


@pytest.mark.parametrize("backend", ["eager", "cpu"])
def test_interleaved_columns_are_right(backend: str) -> None:
    store = torch.zeros(6, 4)
    even, odd = store[:, ::2].requires_grad_(), store[:, 1::2].requires_grad_()
    optimizer = stepwell.SGD([even, odd], lr=1.0, backend=backend)
    even.grad, odd.grad = torch.ones(6, 2), torch.full((6, 2), 2.0)
    optimizer.step()
    assert torch.equal(store, -torch.tensor([1.0, 2.0, 1.0, 2.0]).expand(6, 4))


@pytest.mark.parametrize("backend", ["eager", "cpu"])
def test_parameters_that_overlap_are_refused_by_name(backend: str) -> None:
    store = torch.zeros(30)
    a, b = store[:20].requires_grad_(), store[15:].requires_grad_()
    a.grad, b.grad = torch.ones(20), torch.ones(15)
    with pytest.raises(UsageError, match="'a' and 'b' share memory"):
        stepwell.AdamW([("a", a), ("b", b)], backend=backend).step()
    assert not store.any()


STORE = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
SHARED = {
    "a tensor and its transposed": (STORE[:, :6].contiguous(), lambda w: (w, w.t())),
    "columns that overlap": (STORE.clone(), lambda w: (w[:, :4], w[:, 2:])),
    "a tensor and its columns": (STORE.clone(), lambda w: (w, w[:, 3:5])),
    "columns and a row": (STORE.clone(), lambda w: (w[:, :2], w[3])),
    "one inside the gaps and on the edge of another": (STORE.clone(), lambda w: (w[:, ::4], w[2:3, 1:5])),
}


@pytest.mark.parametrize("backend", ["eager", "cpu"])
@pytest.mark.parametrize("case", SHARED)
def test_slices_that_overlap_are_refused_by_name(case: str, backend: str) -> None:
    store, views = SHARED[case]
    before = store.clone()
    a, b = (view.detach().requires_grad_() for view in views(store))
    a.grad, b.grad = torch.ones(a.shape), torch.ones(b.shape)
    with pytest.raises(UsageError, match=r"'[ab]' and '[ab]' share memory"):
        stepwell.AdamW([("a", a), ("b", b)], backend=backend).step()
    assert torch.equal(store, before)


def test_slices_that_interleave_are_parameters_like_others() -> None:
    views = [STORE[:, ::4], STORE[:, 1:4], STORE[:, 5:], STORE.view(-1)[:0], STORE[0, 0:0]]
    for view in views:
        view.grad = torch.zeros(view.shape)
    before = STORE.clone()
    stepwell.SGD([view.requires_grad_() for view in views], lr=1.0, backend="eager").step()
    assert torch.equal(STORE, before)


@pytest.mark.parametrize("backend", ["eager", "cpu"])
@pytest.mark.parametrize("shape", [(4,), (3, 4)])
def test_an_expanded_parameter_is_refused_by_name(shape: tuple[int, ...], backend: str) -> None:
    w = torch.ones(*shape[:-1], 1).expand(shape).requires_grad_()
    w.grad = torch.ones(shape)
    optimizer = stepwell.AdamW([("w", w)], backend=backend)
    with pytest.raises(UsageError, match="'w' share memory"):
        optimizer.step()
    assert not optimizer.state[w]
    assert bool((w == 1).all())


@pytest.mark.parametrize("backend", ["eager", "cpu"])
def test_negated_views_have_the_sign_that_they_show(backend: str) -> None:
    p, q = torch.zeros(3, requires_grad=True), torch._neg_view(torch.full((3,), -2.0)).requires_grad_()
    p.grad, q.grad = torch._neg_view(torch.ones(3)), torch.ones(3)
    stepwell.SGD([p, q], lr=1.0, backend=backend).step()
    assert p.tolist() == [1.0] * 3
    assert q.tolist() == [1.0] * 3


@pytest.mark.parametrize("backend", ["eager", "cpu"])
def test_a_run_interrupted_between_two_steps_goes_on_as_if_it_had_not_been(backend: str) -> None:
    params, grads = problem()
    straight, stopped = leaves(params), leaves(params)
    run(stepwell.AdamW(straight, lr=0.1, backend=backend), straight, grads)
    optimizer = stepwell.AdamW(stopped, lr=0.1, backend=backend)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    run(optimizer, stopped, grads[:4])
    handle = optimizer.register_step_post_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(optimizer, stopped, grads[4:5])
    handle.remove()
    run(optimizer, stopped, grads[5:])
    assert_bits_equal(straight, stopped)
