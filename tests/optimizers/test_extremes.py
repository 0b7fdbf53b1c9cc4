"""One batch of huge, tiny or broken gradients, and hyperparameters at the ends of their ranges."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import stepwell
from stepwell.engine import frame, whole
from stepwell.engine.numbers import Number
from stepwell.errors import UsageError
from stepwell.ops import lerp, lerp_square, maximum, minimum, sqrt
from stepwell.optimizers import eigen, find
from stepwell.optimizers.shampoo import inverse_root
from tests.contract.table import MATRIX, RULES

SIZES = (0.0, 1e-30, 1e19, 1e20, 1e30, 1e37, 1e38)
TORCH = ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "Adamax", "NAdam", "RAdam", "ASGD", "Rprop")
COMPILED = ("Adam", "RMSprop", "StableAdamW")  # a kernel is compiled for a second: the others are slow
SKIPPED = "its step is skipped"


def normal(step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(6, 4, generator=generator), torch.randn(5, generator=generator)]


def after_one_batch_of(size: float, make: Callable[..., Any], **options: Any) -> tuple[list[Tensor], Any]:
    """Weights after normal gradients, one batch of +-size, and normal gradients again."""
    params = [p.requires_grad_() for p in normal(99)]
    optimizer = make([("w.weight", params[0]), ("b", params[1])], **options)
    for step in range(9):
        for p, g in zip(params, normal(step), strict=True):
            p.grad = g.sign() * size if step == 4 else g
        if hasattr(optimizer, "add_hessian"):
            optimizer.add_hessian({p: torch.ones_like(p) for p in params})
        optimizer.step()
    return [p.detach() for p in params], optimizer


def is_finite(tensors: list[Tensor]) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def _rows() -> list[Any]:
    rows = [("eager", name) for name in RULES if name != "Adafactor"]  # torch's is NaN there, and so is ours
    rows += [("cpu", name) for name in RULES if name not in MATRIX]
    slow = pytest.mark.slow
    return [
        pytest.param(backend, name, marks=[] if backend == "eager" or name in COMPILED else slow)
        for backend, name in rows
    ]


@pytest.mark.filterwarnings("ignore:.*its step is skipped")
@pytest.mark.parametrize(("backend", "name"), _rows())
def test_one_huge_or_tiny_batch_leaves_finite_weights(backend: str, name: str) -> None:
    for size in SIZES:
        if name == "LARS" and size > 1e37:  # vectors get plain momentum at lr 1: ten such gradients exceed float32
            continue
        weights, _ = after_one_batch_of(size, find(name), backend="auto" if name in MATRIX else backend)
        assert is_finite(weights), size


@pytest.mark.parametrize("name", TORCH)
def test_state_is_finite_where_that_of_torch_is(name: str) -> None:
    """Not only the weights: an average of squares that overflowed would stop its elements for good."""
    for size in SIZES:
        theirs, peer = after_one_batch_of(size, getattr(torch.optim, name))
        ours, optimizer = after_one_batch_of(size, find(name), backend="eager")
        for p, q in zip(peer.state, optimizer.state, strict=False):  # plain SGD of torch keeps no step
            for key, value in peer.state[p].items():
                if isinstance(value, Tensor) and is_finite([value]):
                    assert is_finite([optimizer.state[q][key]]), (size, key)
        # at 1e20 the square is finite, and corrected for its start (200 times it) is not: ours rest for some steps
        bound = 3e-3 if size == 1e20 and name.startswith("Adam") else 1e-5
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=2e-5, atol=bound)


def test_averages_do_not_overflow_and_do_not_drift() -> None:
    huge = torch.tensor([3e38])
    assert lerp(huge, -huge, 0.1).item() == pytest.approx(2.4e38)
    assert lerp_square(torch.zeros(1), torch.tensor([1e20]), 1e-3).item() == pytest.approx(1e37)
    assert lerp_square(torch.tensor([math.inf]), torch.ones(1), 0.1).item() == math.inf
    assert lerp_square(torch.ones(1), torch.tensor([math.nan]), 0.1).isnan()
    x = torch.linspace(-3, 3, 101)
    assert torch.equal(lerp(x, x, 0.3), x)  # what does not change stays
    # (1 - w) * a + w * b settles 1.3e-5 beside the mean, as 1 - 1e-3 is rounded to float32
    generator = torch.Generator().manual_seed(0)
    short, exact = torch.zeros(300), torch.zeros(300, dtype=torch.float64)
    for _ in range(6_000):
        x = torch.randn(300, generator=generator)
        short, exact = lerp_square(short, x, 1e-3), lerp_square(exact, x.double(), 1e-3)
    assert abs(float((short - exact).mean())) < 2e-6


# Numbers


def test_numbers_divide_as_kernels_do() -> None:
    zero, one = Number(0.0), Number(1.0)
    assert (1 / zero, -one / zero, one / 0) == (math.inf, -math.inf, math.inf)
    assert math.isnan(zero / zero)
    assert math.isnan((-one) ** 0.5)
    assert zero**-1 == math.inf
    assert Number(1e200) ** 2 == math.inf
    assert 1 / sqrt(zero) == math.inf  # an op gives back what divides alike
    assert torch.equal(torch.ones(2) * Number(2.0) + Number(1.0), torch.full((2,), 3.0))
    assert math.isnan(maximum(1, Number(math.nan)))
    assert math.isnan(minimum(Number(math.nan), 1))


@pytest.mark.parametrize("name", ["LARS", "NovoGrad"])
@pytest.mark.parametrize("backend", ["eager", "cpu"])
def test_eps_zero_and_no_gradient(name: str, backend: str) -> None:
    options: dict[str, Any] = {"exclude": "none"} if name == "LARS" else {}
    params = [p.requires_grad_() for p in normal(1)]
    before = [p.detach().clone() for p in params]
    optimizer = find(name)(params, eps=0.0, backend=backend, **options)
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert all(map(torch.equal, params, before))
    for p, g in zip(params, normal(2), strict=True):
        p.grad = g
    optimizer.step()
    assert is_finite([p.detach() for p in params])


def test_novograd_after_a_zero_first_gradient_is_as_documented() -> None:
    p = torch.zeros(4, requires_grad=True)
    optimizer = stepwell.NovoGrad([p], lr=1.0, betas=(0.9, 0.98))
    for g in (torch.zeros(4), torch.tensor([1.0, 0.0, 0.0, 0.0])):
        p.grad = g
        optimizer.step()
    assert -p[0].item() == pytest.approx(1 / math.sqrt(1 - 0.98), rel=1e-5)


# Whole matrices


@pytest.mark.parametrize("name", ["SOAP", "Shampoo", "Muon"])
@pytest.mark.parametrize("broken", [math.nan, math.inf, 1e20, 3e38])
@pytest.mark.parametrize("at", [0, 3])
def test_a_matrix_that_cannot_be_stepped_keeps_everything_and_says_so_once(name: str, broken: float, at: int) -> None:
    params = [(f"{i}.weight", torch.randn(6, 4, generator=torch.Generator().manual_seed(i))) for i in range(3)]
    params = [(label, p.requires_grad_()) for label, p in params]
    alone = [(label, p.detach().clone().requires_grad_()) for label, p in params[1:]]
    optimizer, twin = find(name)(params, lr=0.01), find(name)(alone, lr=0.01)
    skips = not (name == "Muon" and math.isfinite(broken))  # which only scales it
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for step in range(6):
            for i, (_, p) in enumerate(params):
                p.grad = torch.randn(6, 4, generator=torch.Generator().manual_seed(10 * step + i))
                if i:
                    alone[i - 1][1].grad = p.grad.clone()
            if step in (at, at + 1):
                params[0][1].grad[2, 1] = broken
                before = params[0][1].detach().clone(), {k: v.clone() for k, v in optimizer.state[params[0][1]].items()}
            optimizer.step()
            twin.step()
            if step in (at, at + 1) and skips:
                state = optimizer.state[params[0][1]]
                assert torch.equal(params[0][1], before[0])
                assert all(torch.equal(state[key], value) for key, value in before[1].items())
    about = [str(one.message) for one in said]
    assert [SKIPPED in text for text in about] == ([True] if skips else [])
    assert not skips or "'0.weight'" in about[0]
    assert is_finite([p.detach() for _, p in params])
    assert skips or not torch.equal(params[0][1], before[0])
    for (_, p), (_, q) in zip(params[1:], alone, strict=True):  # the others are stepped as if it were not there
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


def test_muon_orthogonalises_gradients_of_any_size() -> None:
    g = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    steps = []
    for size in (1.0, 2.0**-80, 2.0**80, 2.0**120):
        p = torch.zeros(6, 4, requires_grad=True)
        optimizer = stepwell.Muon([("w.weight", p)], lr=1.0, weight_decay=0.0)
        p.grad = g * size
        optimizer.step()
        steps.append(p.detach())
    assert all(torch.equal(steps[0], step) for step in (steps[0], *steps[2:]))
    assert float(steps[1].norm()) < 1e-10  # below eps: as documented, not divided by less than that


def _gives_up(second: Tensor) -> Any:
    if second.dtype == torch.float32:
        raise torch.linalg.LinAlgError("the algorithm failed to converge")
    return LAPACK(second)


LAPACK = torch.linalg.eigh


def test_eigenvalues_that_float32_gives_up_on_are_found_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(3, 5, 5)
    second = torch.bmm(x, x.mT) * torch.tensor([1e-30, 1.0, 1e30])[:, None, None]
    monkeypatch.setattr(torch.linalg, "eigh", _gives_up)
    values, vectors = eigen.eigh(second)
    torch.testing.assert_close(torch.bmm(vectors * values[:, None], vectors.mT), second, rtol=1e-3, atol=0.0)


@pytest.mark.parametrize("state", ["fp32", "bf16"])
def test_shampoo_stays_where_the_gradients_are(state: str) -> None:
    """Inputs in 12 of 32 dimensions: at beta2**t = 1e-36 the start eps is long gone. The share of the update inside was
    0.13 (state in bf16: 0.001); it was lost at 1e-22, which is step 5,000 with beta2 0.99."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(32, 32, generator=generator)).Q[:, :12]
    p = torch.zeros(16, 32, requires_grad=True)
    options: dict[str, Any] = {"beta1": 0.9, "beta2": 0.25, "grafting": "adam", "bias_correction": True, "eps": 1e-6}
    optimizer = stepwell.Shampoo([p], lr=1e-3, state=state, **options)
    for step in range(60):
        x = torch.randn(64, 12, generator=generator) @ basis.T
        p.grad = torch.randn(64, 16, generator=generator).T @ x / 64
        before = p.detach().clone()
        optimizer.step()
        moved = p.detach() - before
        assert float((moved @ basis).norm() / moved.norm()) > 0.995, step


def test_an_inverse_root_takes_rounding_for_rounding() -> None:
    x = torch.randn(1, 8, 3, generator=torch.Generator().manual_seed(0))
    root = inverse_root(torch.bmm(x, x.mT), 0.25, 1e-38)
    assert float(root.abs().max()) < 100  # 1e-38 alone would give 1e9


def test_the_first_steps_of_soap_in_float32_are_those_in_float64() -> None:
    """A step of the first gradient in its own basis was rounding noise: cosine 0.10, norm 83 for 8."""
    generator = torch.Generator().manual_seed(0)
    grads = [torch.randn(64, 64, generator=generator) for _ in range(3)]
    moves = []
    for dtype in (torch.float32, torch.float64):
        matrix, vector = torch.zeros(64, 64, dtype=dtype), torch.zeros(64, dtype=dtype)
        params = [matrix.requires_grad_(), vector.requires_grad_()]
        optimizer = stepwell.SOAP(params, lr=1.0, weight_decay=0.1)
        for step, g in enumerate(grads):
            params[0].grad, params[1].grad = g.to(dtype), g[0].to(dtype)
            optimizer.step()
            if step == 0:
                assert not params[0].any()
                assert not params[1].any()
                assert not optimizer.state[params[0]]["exp_avg"].any()
                assert optimizer.state[params[0]]["left"].any()
        moves.append([p.detach().double().flatten() for p in params])
    for a, b in zip(*moves, strict=True):
        assert float(torch.nn.functional.cosine_similarity(a, b, dim=0)) > 0.999
        assert float(a.norm() / b.norm()) == pytest.approx(1, abs=1e-2)


def test_a_frame_that_refuses_changes_nothing() -> None:
    p = torch.ones(1, 2, 2)
    numbers: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.1, "gradient_factor": 1.0, "decay": "decoupled"}
    rule = lambda g, p, t: g  # noqa: E731
    refused = frame.direct_stack(rule, p * 2, p, 1, [], is_sound=lambda direction, slots: False, **numbers)
    assert whole.answered(refused) is None
    assert torch.equal(p, torch.ones(1, 2, 2))


# RMSprop as TensorFlow has it


def test_rmsprop_of_tensorflow_keeps_the_rate_inside_the_buffer() -> None:
    from tests.papers import rmsprop

    rates = [0.1, 0.1, 0.02, 0.0, 0.3]
    start, grads = normal(1)[0].double(), [normal(step)[0].double() for step in range(5)]
    options: dict[str, Any] = {"alpha": 0.9, "momentum": 0.9, "eps": 1e-3}
    p = start.clone().requires_grad_()
    optimizer = stepwell.RMSprop([p], variant="tensorflow", **options)
    for lr, g in zip(rates, grads, strict=True):
        optimizer.param_groups[0]["lr"], p.grad = lr, g
        optimizer.step()
    theirs = {"eps_inside_sqrt": True, "initial_square_avg": 1.0, "lr_in_momentum": True, "lrs": rates}
    (want,) = rmsprop.trajectory([start.numpy()], [[g.numpy()] for g in grads], **options, **theirs)
    torch.testing.assert_close(p.detach(), torch.from_numpy(want), rtol=1e-12, atol=1e-14)


def test_rmsprop_by_hand() -> None:
    """One step of gradient 1 at alpha 0.9, eps 1e-3: TensorFlow's average is 1 then, torch's 0.1."""
    moved = {}
    for variant in ("torch", "tensorflow"):
        p = torch.zeros(1, requires_grad=True)
        p.grad = torch.ones(1)
        stepwell.RMSprop([p], lr=1.0, alpha=0.9, eps=1e-3, variant=variant).step()
        moved[variant] = -p.item()
    assert moved["tensorflow"] == pytest.approx(1 / math.sqrt(1.001), rel=1e-5)
    assert moved["torch"] == pytest.approx(1 / (math.sqrt(0.1) + 1e-3), rel=1e-5)


def test_forms_of_rmsprop_do_not_take_over_each_others_state() -> None:
    p = torch.ones(3, requires_grad=True)
    p.grad = torch.ones(3)
    for old, new in (("torch", "tensorflow"), ("tensorflow", "torch")):
        optimizer = stepwell.RMSprop([p], momentum=0.9, variant=old)
        optimizer.step()
        assert not stepwell.switch(optimizer, "rmsprop", lr=0.1, variant=new).state.get(p)
        assert (
            stepwell.switch(optimizer, "rmsprop", lr=0.1)
            .state[p]["momentum_buffer"]
            .equal(optimizer.state[p]["momentum_buffer"])
        )


P = torch.zeros(3, 3)
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("Muon", {"ns_steps": 2**70}, "must be a whole number in [1, 100]"),
    ("Muon", {"ns_steps": 2.5}, "must be a whole number in [1, 100]"),
    ("SOAP", {"max_precond_dim": 1.5}, "must be a whole number of at least 0, or infinity"),
    ("Shampoo", {"max_precond_dim": 1.5}, "must be a whole number of at least 0, or infinity"),
    ("Shampoo", {"precondition_frequency": 1.5}, "must be a whole number of at least 1"),
    ("ScheduleFreeAdamW", {"warmup_steps": 1.5}, "must be a whole number of at least 0"),
    ("ScheduleFreeSGD", {"warmup_steps": 0.5}, "must be a whole number of at least 0"),
    ("AdEMAMix", {"beta3_warmup": 1.5}, "must be a whole number of at least 1"),
    ("AdEMAMix", {"alpha_warmup": 2.5}, "must be a whole number of at least 1"),
    ("Adam", {"eps": 10**400}, "is out of range"),
    ("Adam", {"lr": __import__("numpy").True_}, "is not a number"),
    ("RMSprop", {"variant": "keras"}, "one of 'torch', 'tensorflow'"),
    ("RMSprop", {"variant": "tensorflow", "cautious": True}, "leave out one of them"),
]


@pytest.mark.parametrize(("name", "options", "said"), REFUSED)
def test_what_counts_is_whole_and_bounded(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as refusal:
        find(name)([("w.weight", P.clone().requires_grad_())], **options)
    assert said in str(refusal.value)


def test_a_longest_side_may_be_infinite() -> None:
    for name in ("SOAP", "Shampoo"):
        p = torch.zeros(3, 3, requires_grad=True)
        p.grad = torch.ones(3, 3)
        find(name)([p], max_precond_dim=math.inf).step()
