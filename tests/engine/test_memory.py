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
