"""What a user does with the memory of weights, gradients and state between steps: followed, or refused by name."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import stepwell
from stepwell import UsageError
from stepwell.engine import pointers
from stepwell.engine.gradient_pointers import GradientPointers

SIZE = 5_000
MAKES: dict[str, Callable[[Any], Any]] = {
    "fp32": lambda ps: stepwell.AdamW(ps, lr=0.01, backend="cpu"),
    "eager": lambda ps: stepwell.AdamW(ps, lr=0.01, backend="eager"),
    "int8": lambda ps: stepwell.AdamW(ps, lr=0.01, state="int8", backend="cpu"),
    "int4": lambda ps: stepwell.AdamW(ps, lr=0.01, state="int4", backend="cpu"),
    "bf16": lambda ps: stepwell.Lion(ps, lr=0.01, state="bf16", backend="cpu"),
    "numbers": lambda ps: stepwell.Prodigy(ps, backend="cpu"),
    "matrix": lambda ps: stepwell.Adafactor(ps, lr=0.01),
}


def tensors_of(optimizer: Any, but: tuple[str, ...] = ()) -> list[tuple[str, Tensor]]:
    return [(k, v) for state in optimizer.state.values() for k, v in state.items() if k not in but]


def put_elsewhere(optimizer: Any) -> None:
    for _, value in tensors_of(optimizer):
        value.data = value.data.clone()


def share(optimizer: Any) -> None:
    for _, value in tensors_of(optimizer):
        value.share_memory_()


def free_and_fill(optimizer: Any) -> None:
    for _, value in tensors_of(optimizer, but=("step",)):
        kept, size = value.clone(), value.untyped_storage().nbytes()
        value.untyped_storage().resize_(0)
        value.untyped_storage().resize_(size)
        value.copy_(kept)


def update_in_place(optimizer: Any) -> None:
    for p in list(optimizer.state):
        optimizer.state[p] |= {k: v.clone() for k, v in optimizer.state[p].items()}


def pop_and_put_back(optimizer: Any) -> None:
    for p in list(optimizer.state):
        state = optimizer.state[p]
        items = [state.popitem() for _ in range(len(state))]
        for name, value in reversed(items):
            state.setdefault(name, value.clone())


def transpose_twice(optimizer: Any) -> None:
    for _, value in tensors_of(optimizer, but=("step",)):
        if value.ndim == 2:
            value.data = value.data.t().contiguous().t()


def train(make: Callable[[Any], Any], disturb: Callable[[Any], None] | None, shape: tuple[int, ...]) -> Any:
    p = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    optimizer = make([("w", p)])
    for step in range(6):
        p.grad = torch.randn(shape, generator=torch.Generator().manual_seed(step + 1))
        optimizer.step()
        if step == 2 and disturb is not None:
            disturb(optimizer)
    return p.detach(), {k: v.detach().float() for k, v in optimizer.state[p].items()}


@pytest.mark.parametrize(
    "disturb", [put_elsewhere, share, free_and_fill, update_in_place, pop_and_put_back, transpose_twice]
)
@pytest.mark.parametrize("make", MAKES)
def test_state_that_is_moved_is_used_where_it_lies_now(make: str, disturb: Callable[[Any], None]) -> None:
    shape = (50, 100) if make == "matrix" or disturb is transpose_twice else (SIZE,)
    want, want_state = train(MAKES[make], None, shape)
    got, state = train(MAKES[make], disturb, shape)
    if disturb is transpose_twice and make in ("int8", "int4"):
        assert (got - want).abs().mean() < 1e-2  # three steps of 0.01; other elements share a block
        return
    assert torch.equal(got, want)
    assert all(torch.equal(state[name], value) for name, value in want_state.items())


@pytest.mark.parametrize("make", MAKES)
def test_moments_reset_through_data_begin_at_zero(make: str) -> None:
    def zero(optimizer: Any) -> None:
        for _, value in tensors_of(optimizer):
            if value.ndim:
                value.zero_()

    def zero_elsewhere(optimizer: Any) -> None:
        for _, value in tensors_of(optimizer):
            if value.ndim:
                value.data = torch.zeros_like(value)

    shape = (50, 100) if make == "matrix" else (SIZE,)
    assert torch.equal(train(MAKES[make], zero_elsewhere, shape)[0], train(MAKES[make], zero, shape)[0])


def test_other_processes_see_the_counts_that_are_shared() -> None:
    p = torch.zeros(8, requires_grad=True)
    optimizer = stepwell.AdamW([p])
    p.grad = torch.ones(8)
    optimizer.step()
    steps = torch.tensor(1.0).share_memory_()
    optimizer.state[p]["step"] = steps
    optimizer.step()
    assert optimizer.state[p]["step"] is steps
    assert steps.item() == 2


@pytest.mark.parametrize("make", ["fp32", "eager", "int8"])
@pytest.mark.parametrize("what", ["state", "weights", "gradient"])
@pytest.mark.parametrize("size", [0, 100])
def test_memory_that_was_freed_or_cut_is_refused_by_name(make: str, what: str, size: int) -> None:
    p = torch.ones(SIZE, requires_grad=True)
    optimizer = MAKES[make]([("w", p)])
    p.grad = torch.ones(SIZE)
    optimizer.step()
    lost = {"state": optimizer.state[p]["exp_avg"], "weights": p, "gradient": p.grad}[what]
    lost.untyped_storage().resize_(size)
    with pytest.raises(UsageError, match=r"'w'.* no memory for its elements"):
        optimizer.step()
    assert int(optimizer.state[p]["step"]) == 1


@pytest.mark.parametrize("backend", ["cpu", "eager"])
def test_transposed_weights_keep_their_moments(backend: str) -> None:
    def run(turn: bool) -> Tensor:
        p = torch.arange(12.0).view(3, 4).square().view(3, 4)[:, :3].contiguous().requires_grad_()
        optimizer = stepwell.AdamW([p], lr=0.1, backend=backend)
        g = torch.arange(9.0).view(3, 3) - 4
        for step in range(4):
            if turn and step == 2:
                p.data = p.data.t()
                for name in ("exp_avg", "exp_avg_sq"):
                    optimizer.state[p][name].data = optimizer.state[p][name].data.t()
            p.grad = g.t().clone() if turn and step >= 2 else g.clone()
            optimizer.step()
        return p.detach().t() if turn else p.detach()

    assert torch.equal(run(True), run(False))


def test_weights_moved_onto_other_weights_are_refused() -> None:
    p, q = torch.zeros(8, requires_grad=True), torch.zeros(8, requires_grad=True)
    optimizer = stepwell.SGD([("p", p), ("q", q)], lr=1.0)
    p.grad, q.grad = torch.ones(8), torch.ones(8)
    optimizer.step()
    q.data = p.data
    with pytest.raises(UsageError, match="'p' and 'q' share memory"):
        optimizer.step()
    assert torch.equal(p, torch.full((8,), -1.0))


def test_state_given_to_two_parameters_is_refused() -> None:
    p, q = torch.zeros(8, requires_grad=True), torch.zeros(8, requires_grad=True)
    optimizer = stepwell.AdamW([("p", p), ("q", q)])
    p.grad, q.grad = torch.ones(8), torch.ones(8)
    optimizer.step()
    optimizer.state[q]["exp_avg"] = optimizer.state[p]["exp_avg"]
    with pytest.raises(
        UsageError, match=r"the state 'exp_avg' of '[pq]' and the state 'exp_avg' of '[pq]' share memory"
    ):
        optimizer.step()


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize("mode", ["r", "cut"])
def test_memory_of_a_file_that_is_read_only_or_cut_is_refused(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(4 * 100_000))
    array = np.memmap(path, dtype=np.float32, mode="r" if mode == "r" else "r+")
    p = torch.from_numpy(array).requires_grad_()
    optimizer = stepwell.SGD([("w", p)], lr=1.0, backend="cpu")
    p.grad = torch.ones(100_000)
    if mode == "cut":
        optimizer.step()
        assert p[0] == -1
        path.write_bytes(b"")
    with pytest.raises(UsageError, match=r"'w' is in (read-only memory|memory that is no longer valid)"):
        optimizer.step()


@pytest.mark.parametrize("rows", [[0, 9], [-1, 2]])
@pytest.mark.parametrize("backend", ["cpu", "eager"])
def test_rows_that_a_parameter_does_not_have_are_refused(rows: list[int], backend: str) -> None:
    table = torch.zeros(5, 4, requires_grad=True)
    optimizer = stepwell.AdamW([("table", table)], backend=backend)
    with torch.sparse.check_sparse_tensor_invariants(False):
        table.grad = torch.sparse_coo_tensor(torch.tensor([rows]), torch.ones(2, 4), (5, 4))
        with pytest.raises(UsageError, match="the sparse gradient of 'table' has indices"):
            optimizer.step()
    assert not table.any()


@pytest.mark.parametrize("state", ["int8", "int4"])
@pytest.mark.parametrize("backend", ["cpu", "eager"])
def test_codes_and_scales_that_were_both_cut_are_refused(state: str, backend: str) -> None:
    """Their shapes may fit one another; nobody can see that each scale stands by its own codes."""
    p = nn.Parameter(torch.randn(144, 64))
    optimizer = stepwell.Adam([p], lr=0.01, state=state, backend=backend)
    p.grad = torch.randn_like(p)
    optimizer.step()
    kept = {
        key: value if value.ndim == 0 else value[torch.arange(len(value)) % 3 != 0]
        for key, value in optimizer.state[p].items()
    }
    new = nn.Parameter(torch.randn(96, 64))
    del optimizer.state[p]
    optimizer.param_groups[0]["params"][0] = new
    optimizer.state[new] = kept
    new.grad = torch.randn_like(new)
    before = new.detach().clone()
    with pytest.raises(UsageError, match=r"each scale belongs to its codes.*assign a float32 tensor"):
        optimizer.step()
    assert torch.equal(new, before)


@pytest.mark.parametrize("state", ["int8", "int4"])
def test_codes_go_along_with_a_copy_a_checkpoint_or_an_edit_of_the_same_shape(state: str) -> None:
    p = nn.Parameter(torch.randn(600, 4, generator=torch.Generator().manual_seed(0)))
    optimizer = stepwell.Adam([p], lr=0.01, state=state)

    def step(optimizer: Any) -> Tensor:
        (one,) = optimizer.param_groups[0]["params"]
        one.grad = torch.full_like(one, 0.5)
        optimizer.step()
        return cast(Tensor, one.detach().clone())

    step(optimizer)
    copied = copy.deepcopy(optimizer)
    loaded = stepwell.Adam([nn.Parameter(p.detach().clone())], lr=0.01, state=state)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    optimizer.state[p] = {key: value.clone() for key, value in optimizer.state[p].items()}
    expected = step(optimizer)
    assert torch.equal(step(copied), expected)
    assert torch.equal(step(loaded), expected)


@pytest.mark.parametrize("state", ["int8", "int4"])
def test_codes_pruned_or_grown_by_hand_are_refused_and_numbers_in_their_place_encoded(state: str) -> None:
    def surgery(change: Callable[[Tensor], Tensor]) -> Any:
        p = nn.Parameter(torch.randn(9000, 4))
        optimizer = stepwell.Adam([p], lr=0.01, state=state)
        p.grad = torch.randn(9000, 4)
        optimizer.step()
        kept = optimizer.state[p]
        new = nn.Parameter(change(p.detach()))
        for name in ("exp_avg", "exp_avg_sq"):
            kept[name] = change(kept[name])
        del optimizer.state[p]
        optimizer.param_groups[0]["params"][0] = new
        optimizer.state[new] = kept
        new.grad = torch.randn_like(new)
        return optimizer

    for change in (
        lambda t: t[torch.arange(t.shape[0]) % 3 != 0],
        lambda t: t[1:],  # as many blocks as before
        lambda t: torch.cat([t, torch.zeros(1000, *t.shape[1:], dtype=t.dtype)]),
    ):
        with pytest.raises(UsageError, match="exp_avg"):
            surgery(change).step()

    p = nn.Parameter(torch.randn(9000, 4, generator=torch.Generator().manual_seed(0)))
    q = nn.Parameter(p.detach().clone())
    ours, wide = stepwell.Adam([p], lr=0.01, state=state), stepwell.Adam([q], lr=0.01)
    for _ in range(3):
        for one, optimizer in ((p, ours), (q, wide)):
            one.grad = torch.full_like(one, 0.5)
            optimizer.step()
            optimizer.state[one]["exp_avg"] = torch.full_like(one, 0.3)
    assert ours.state[p]["exp_avg"].dtype == torch.float32  # what was put there last, and is encoded at the next step
    off = (p - q).detach()  # codes of 4 bits are right in the mean
    assert off.mean().abs() < 1e-3
    assert off.abs().max() < (2e-3 if state == "int8" else 2e-2)


@pytest.mark.parametrize("backend", ["cpu", "eager"])
def test_a_backward_pass_through_weights_that_a_step_changed_raises(backend: str) -> None:
    w = torch.ones(4, requires_grad=True)
    optimizer = stepwell.SGD([w], lr=0.1, backend=backend)
    loss = (w * w).sum()
    w.grad = torch.ones(4)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("make", MAKES)
def test_gradients_and_a_deleted_optimizer_are_freed_at_once(make: str) -> None:
    p = torch.zeros(50, 100, requires_grad=True)
    optimizer = MAKES[make]([p])
    gc.collect()
    gc.disable()
    try:
        for _ in range(2):
            p.grad = torch.ones(50, 100)
            gradient = weakref.ref(p.grad.untyped_storage())
            optimizer.step()
            optimizer.zero_grad()
            assert gradient() is None
        slots = [weakref.ref(value.untyped_storage()) for _, value in tensors_of(optimizer)]
        assert slots
        del optimizer
        assert [slot() for slot in slots] == [None] * len(slots)
    finally:
        gc.enable()


def test_state_that_is_replaced_is_freed_at_once() -> None:
    p = torch.zeros(SIZE, requires_grad=True)
    optimizer = stepwell.AdamW([p])
    p.grad = torch.ones(SIZE)
    optimizer.step()
    old = weakref.ref(optimizer.state[p]["exp_avg"].untyped_storage())
    optimizer.state[p]["exp_avg"] = torch.zeros(SIZE)
    assert old() is None


def test_pointers_read_from_python_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def judged() -> list[tuple[bool, list[int], list[bool]]]:
        tensors = [torch.zeros(6, 4) for _ in range(6)]
        read = pointers.Pointers(tensors, tensors)
        assert read.read()
        tensors[0].data = torch.zeros(6, 4)
        tensors[1].data = torch.zeros(4, 6).t()
        tensors[2].data = torch.zeros(6, 4, dtype=torch.float64)
        tensors[3].untyped_storage().resize_(0)
        tensors[4].untyped_storage().resize_(40)
        result = [
            (
                read.read(),
                read.found.tolist(),
                [a == t.data_ptr() for a, t in zip(read.addresses, tensors, strict=True)][:3],
            )
        ]
        gradients = GradientPointers([torch.zeros(6, 4) for _ in range(6)], [torch.zeros(6, 4) for _ in range(6)])
        these = [None, tensors[0], torch.zeros(5), None, tensors[3], tensors[5]]
        found = gradients.read_these(these), gradients.found.tolist(), [bool(a) for a in gradients.addresses]
        return [*result, found]

    compiled = judged()
    monkeypatch.setattr(pointers, "library", lambda: None)
    assert judged()[0] == compiled[0] == (False, [0, 1, 1, 2, 2, 0], [True] * 3)
    assert judged()[1][1] == compiled[1][1] == [0, 0, 1, 0, 2, 0]
