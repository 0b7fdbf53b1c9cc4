"""What every optimizer must hold, on every backend. A new optimizer is admitted by passing, not by opinion."""

import copy
import inspect
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

import stepwell
from stepwell.optimizers import find
from tests.contract.table import (
    LATE,
    MATRIX,
    ROWS,
    RULES,
    SHAPES,
    SHAPES_OF,
    STEPS,
    SUMMED,
    backends,
    expected,
    hessians,
    rows,
    rows_on_backends,
)

# float64 against float64: the same arithmetic in another order of operations, 20 steps.
FLOAT64 = {"rtol": 1e-11, "atol": 1e-13}


def problem(
    dtype: torch.dtype = torch.float32, name: str = "", seed: int = 0
) -> tuple[list[torch.Tensor], list[list[Any]]]:
    """Parameters of all shapes, and their gradients for every step (None before a late one)."""
    shapes = SHAPES_OF.get(name, SHAPES)
    generator = torch.Generator().manual_seed(seed)
    params = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    grads = [
        [
            None if step < LATE.get(i, 0) else torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
            for i, shape in enumerate(shapes)
        ]
        for step in range(STEPS)
    ]
    return params, grads


def run(optimizer: torch.optim.Optimizer, params: list[torch.Tensor], grads: list[list[Any]]) -> None:
    for row in grads:
        give(optimizer, params, row)
        optimizer.step()


def give(optimizer: torch.optim.Optimizer, params: list[torch.Tensor], row: list[Any]) -> None:
    """The gradients of one step, and what else it takes (Sophia's estimates)."""
    for param, grad in zip(params, row, strict=True):
        param.grad = None if grad is None else grad.clone()
    if hasattr(optimizer, "add_hessian"):
        estimates = zip(params, hessians([None if g is None else g.double().numpy() for g in row]), strict=True)
        optimizer.add_hessian({p: torch.from_numpy(np.asarray(h)) for p, h in estimates if h is not None})


_TRAINED: dict[Any, tuple[list[torch.Tensor], list[torch.Tensor]]] = {}


def trained(
    name: str, options: dict[str, Any], backend: str, dtype: torch.dtype = torch.float32
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Weights and state after the whole of `problem`. Five tests compare with this run; it is made once per process."""
    key = (name, repr(options), backend, dtype)
    if key not in _TRAINED:
        params, grads = problem(dtype, name)
        ours = leaves(params)
        optimizer = find(name)(ours, backend=backend, **options)
        run(optimizer, ours, grads)
        _TRAINED[key] = ours, [value for p in ours for value in optimizer.state[p].values()]
    weights, state = _TRAINED[key]
    return leaves(weights), [value.clone() for value in state]


def run_with_bases(optimizer: torch.optim.Optimizer, params: list[torch.Tensor], grads: list[list[Any]]) -> list[Any]:
    """`run`; returns the bases that SOAP begins with, which its referee takes over, and None for all others."""
    bases: list[Any] = [None] * len(params)
    for row in grads:
        run(optimizer, params, [row])
        for i, p in enumerate(params):
            if bases[i] is None and "q_left" in optimizer.state[p]:
                sides = [optimizer.state[p][side].numpy().copy() for side in ("q_left", "q_right")]
                bases[i] = [side if side.size else None for side in sides]
    return bases


def leaves(params: list[torch.Tensor]) -> list[torch.Tensor]:
    return [param.detach().clone().requires_grad_() for param in params]


def assert_equal(name: str, a: list[torch.Tensor], b: list[torch.Tensor], dtype: torch.dtype) -> None:
    """Bit for bit; where sums are added up in another order, to a few units in the last place."""
    if name not in SUMMED and name not in MATRIX:
        assert_bits_equal(a, b)
        return
    for x, y in zip(a, b, strict=True):
        # float32 sums of a few hundred terms agree to about 1e-6; 20 steps of the same update carry that along, and a
        # 16-bit number beside a tie of rounding differs by its last place
        # (a number per tensor is float64, whatever it is a sum of)
        close = {torch.float32: 2e-5, torch.float64: 1e-11, torch.bfloat16: 2e-2, torch.float16: 3e-3}
        bound = max(close[x.dtype], 1e-11 if dtype == torch.float64 else 2e-5)
        torch.testing.assert_close(x, y, rtol=bound, atol=bound)


def assert_close(a: list[torch.Tensor], b: list[torch.Tensor]) -> None:
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=2e-4, atol=2e-5)  # 20 steps through iterated products


def assert_bits_equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> None:
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        assert torch.equal(x, y), f"tensor {i}: largest difference {(x - y).abs().max().item():g}"


def test_every_optimizer_has_rows() -> None:
    assert set(ROWS) == set(RULES)


def test_every_row_has_a_name_of_its_own_that_tells_its_options() -> None:
    names = [row.id for row in rows()]
    assert len(set(names)) == len(names)
    assert {"AdamW", "AdamW-amsgrad", "Signum-momentum-no-decoupled_weight_decay"} <= set(names)


@pytest.mark.parametrize("maximize", [False, True], ids=["minimize", "maximize"])
@pytest.mark.parametrize(("name", "options", "backend"), rows_on_backends())
def test_equals_its_paper_in_float64(name: str, options: dict[str, Any], backend: str, maximize: bool) -> None:
    params, grads = problem(torch.float64, name)
    ours = leaves(params)
    optimizer = find(name)(ours, maximize=maximize, backend=backend, **options)
    bases = run_with_bases(optimizer, ours, grads)
    arrays = [[None if g is None else g.numpy() for g in row] for row in grads]
    wanted = expected(name, options, [p.numpy() for p in params], arrays, bases, maximize)
    for got, want, start in zip(ours, wanted, params, strict=True):
        np.testing.assert_allclose(got.detach().numpy().reshape(want.shape), want, **FLOAT64)
        assert not np.array_equal(want, start.numpy().reshape(want.shape))  # the problem moves every tensor


@pytest.mark.parametrize(
    "dtype",
    [
        pytest.param(torch.float32, id="fp32"),
        pytest.param(torch.float64, id="fp64"),
        pytest.param(torch.bfloat16, id="bf16", marks=pytest.mark.slow),
        pytest.param(torch.float16, id="fp16", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(("name", "options"), rows())
def test_the_cpu_kernel_equals_the_definition_bit_for_bit(
    name: str, options: dict[str, Any], dtype: torch.dtype
) -> None:
    eager, fast = (trained(name, options, backend, dtype) for backend in backends(name))
    assert_equal(name, *(values for values, _ in (eager, fast)), dtype)
    assert_equal(name, *(state for _, state in (eager, fast)), dtype)


@pytest.mark.parametrize(("name", "options", "backend"), rows_on_backends())
def test_state_is_what_is_declared_and_gradients_are_left_alone(
    name: str, options: dict[str, Any], backend: str
) -> None:
    params, grads = problem(torch.bfloat16, name)
    ours = leaves(params)
    optimizer = find(name)(ours, backend=backend, **options)
    run(optimizer, ours, grads)
    for param, last in zip(ours, grads[-1], strict=True):
        group = next(g for g in optimizer.param_groups if any(p is param for p in g["params"]))
        slots = [slot for slot in optimizer.signature_for(group, param).slots if slot.exists(group)]
        assert set(optimizer.state[param]) == {*(slot.name for slot in slots), "step"}
        for slot in slots:
            value = optimizer.state[param][slot.name]
            if slot.is_number:
                assert value.dtype == torch.float64
                continue
            assert (value.dtype, tuple(value.shape)) == (torch.float32, slot.shape(param.shape, group))
            assert slot.per != "element" or value.stride() == param.stride()
            assert slot.signed or bool((value >= 0).all())
        assert torch.equal(param.grad, last)


@pytest.mark.parametrize("how", ["saved", "copied"])
@pytest.mark.parametrize(("name", "options", "backend"), rows_on_backends())
@pytest.mark.filterwarnings("ignore:ScheduleFree.* is saved in train mode")
def test_a_resumed_run_continues_bit_for_bit(name: str, options: dict[str, Any], backend: str, how: str) -> None:
    params, grads = problem(torch.float32, name)
    straight, _ = trained(name, options, backend)

    first = leaves(params)
    optimizer = find(name)(first, backend=backend, **options)
    run(optimizer, first, grads[:7])
    if how == "saved":
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        second = leaves(first)
        resumed = find(name)(second, backend=backend, **{**options, "lr": 1.0})
        resumed.load_state_dict(torch.load(file, weights_only=True))
    else:
        resumed, second = copy.deepcopy((optimizer, first))
    run(resumed, second, grads[7:])
    assert_bits_equal(straight, second)


@pytest.mark.parametrize(("name", "options", "backend"), rows_on_backends())
def test_a_skipped_step_changes_no_bit(name: str, options: dict[str, Any], backend: str) -> None:
    params, grads = problem(torch.float32, name)
    ours = leaves(params)
    optimizer = find(name)(ours, backend=backend, **options)
    run(optimizer, ours, grads[:5])
    before = copy.deepcopy([ours, [dict(optimizer.state[p]) for p in ours]])
    for param in ours:
        param.grad = torch.full_like(param, torch.inf)
    optimizer.found_inf = torch.ones(())
    optimizer.step()
    optimizer.found_inf = torch.zeros(())
    assert_bits_equal(before[0], ours)
    for param, state in zip(ours, before[1], strict=True):
        assert_bits_equal(list(state.values()), list(optimizer.state[param].values()))


@pytest.mark.parametrize(("name", "options", "backend"), rows_on_backends())
def test_unscaling_inside_the_step_equals_unscaled_gradients(name: str, options: dict[str, Any], backend: str) -> None:
    params, grads = problem(torch.float32, name)
    scaled = leaves(params)
    plain, _ = trained(name, options, backend)
    optimizer = find(name)(scaled, backend=backend, **options)
    optimizer.grad_scale = torch.tensor(1024.0)  # a power of two: nothing is rounded by scaling
    run(optimizer, scaled, [[None if g is None else g * 1024 for g in row] for row in grads])
    assert_bits_equal(plain, scaled)


DEFAULTS = [pytest.param(name, {}, id=f"{name}-defaults") for name in RULES]


@pytest.mark.parametrize("weight", [0.0, 0.5])
@pytest.mark.parametrize(("name", "options"), [*rows(), *DEFAULTS])
def test_gradients_of_zero_are_harmless(name: str, options: dict[str, Any], weight: float) -> None:
    """A layer that is not used, one that is used later, and a dead row that meets a dead column."""
    used = torch.ones(6, 6)
    used[2], used[:, 4] = 0, 0
    unused = [torch.zeros(6, 6), torch.zeros(5)]
    ends = []
    for backend in backends(name):
        ours = leaves([torch.full_like(g, weight) for g in (used, used, *unused)])
        optimizer = find(name)(ours, backend=backend, **options)
        run(optimizer, ours, [[used, torch.zeros(6, 6), *unused]] * 2 + [[torch.zeros(6, 6), used, *unused]] * 2)
        assert all(bool(p.isfinite().all()) for p in ours)
        ends.append(ours)
    assert_equal(name, *ends, torch.float32)


def _transposed(x: torch.Tensor) -> torch.Tensor:
    return x.t().contiguous().t()


def _with_gaps(x: torch.Tensor) -> torch.Tensor:
    return torch.zeros(*x.shape[:-1], 2 * x.shape[-1])[..., ::2].copy_(x)


LAYOUTS = {
    "transposed": ((6, 9), _transposed),
    "channels last": ((4, 3, 5, 5), lambda x: x.to(memory_format=torch.channels_last)),
    "with gaps": ((6, 9), _with_gaps),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("name", "options", "backend"), rows_on_backends())
def test_memory_layout_does_not_matter(name: str, options: dict[str, Any], backend: str, layout: str) -> None:
    shape, arrange = LAYOUTS[layout]
    if name == "SOAP":  # square (see SHAPES_OF)
        shape = (8, 2, 2, 2) if len(shape) == 4 else (6, 6)
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(shape, generator=generator)
    plain, arranged = start.clone().requires_grad_(), arrange(start.clone()).detach().requires_grad_()
    both = [find(name)([p], backend=backend, **options) for p in (plain, arranged)]
    for step in range(6):
        gradient = torch.randn(shape, generator=generator)
        plain.grad = gradient
        arranged.grad = gradient.clone() if step % 2 else arrange(gradient.clone())  # either layout may come
        for optimizer in both:
            optimizer.step()
    assert_equal(name, [plain], [arranged], torch.float32)


@pytest.mark.parametrize(("name", "options", "backend"), rows_on_backends())
def test_frozen_empty_and_later_parameters(name: str, options: dict[str, Any], backend: str) -> None:
    params, grads = problem(torch.float32, name)
    reference, _ = trained(name, options, backend)

    ours = leaves(params)
    frozen, empty = torch.randn(3), torch.zeros(0, 4, requires_grad=True)
    empty.grad = torch.zeros(0, 4)
    kept = frozen.clone()
    optimizer = find(name)([*ours[:4], frozen, empty], backend=backend, **options)
    late = {i: LATE.get(i, 0) for i in range(len(ours))}
    optimizer.add_param_group({"params": ours[4:]})
    run(optimizer, ours, grads)
    same = assert_close if name in MATRIX else assert_bits_equal  # stacks of other sizes
    same(reference, ours)
    assert torch.equal(frozen, kept)
    assert [int(optimizer.state[p]["step"]) for p in ours] == [STEPS - late[i] for i in range(len(ours))]


TORCH = ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "Adamax", "NAdam", "RAdam", "ASGD", "Rprop")


@pytest.fixture
def float64_scalars() -> Iterator[None]:
    """torch keeps a step count, ASGD's eta and mu, NAdam's mu_product in the default dtype; ours are float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("float64_scalars")
@pytest.mark.parametrize(("name", "options"), [row for row in rows() if row.values[0] in TORCH])
def test_equals_torch_and_exchanges_checkpoints_with_it(name: str, options: dict[str, Any]) -> None:
    theirs_has = inspect.signature(getattr(torch.optim, name)).parameters
    options = {k: v for k, v in options.items() if k in theirs_has}
    params, grads = problem(torch.float64)
    theirs = leaves(params)
    peer = getattr(torch.optim, name)(theirs, foreach=False, **options)
    run(peer, theirs, grads[:9])

    # theirs -> ours, on a copy that goes on here while torch goes on there
    ours = leaves(theirs)
    optimizer = find(name)(ours, backend="eager", **{**options, "lr": 9.0})
    optimizer.load_state_dict(copy.deepcopy(peer.state_dict()))
    for param, peer_param in zip(ours, theirs, strict=True):  # what was carried over is the same to the last bit
        for key, value in peer.state[peer_param].items():
            assert value is None or torch.equal(value, optimizer.state[param][key].to(value.dtype))
    run(peer, theirs, grads[9:15])
    run(optimizer, ours, grads[9:15])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **FLOAT64)

    # ours -> theirs
    back = leaves(ours)
    peer_again = getattr(torch.optim, name)(back, foreach=False, **{**options, "lr": 9.0})
    peer_again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    run(peer_again, back, grads[15:])
    run(optimizer, ours, grads[15:])
    for a, b in zip(ours, back, strict=True):
        torch.testing.assert_close(a, b, **FLOAT64)


def test_hyperparameters_change_without_compiling_anything() -> None:
    from stepwell.engine.backends import cpu

    params, grads = problem()
    ours = leaves(params)
    optimizer = stepwell.AdamW([{"params": ours[:3]}, {"params": ours[3:], "lr": 0.5}], lr=0.1)
    run(optimizer, ours, grads[:2])
    compiled = cpu.kernel.cache_info().misses
    for step, row in enumerate(grads):
        for group in optimizer.param_groups:
            group["lr"] *= 0.9
            group["betas"] = (0.9 - step * 0.01, 0.99)
            group["weight_decay"] = 0.1 * step
        run(optimizer, ours, [row])
    assert cpu.kernel.cache_info().misses == compiled
