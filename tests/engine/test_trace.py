"""A rule is read once: what depends on numbers only is computed once per tensor, and a branch on a value is refused."""

import math

import pytest
import torch

from stepwell import Optimizer, UsageError, ops
from stepwell.engine.trace import Scalar, trace


def test_numbers_and_elements_are_told_apart() -> None:
    traced = trace(
        lambda g, t, beta: {"direction": g * (1 / (1 - beta**t))},
        {"g": "g"},
        {"t": Scalar("t"), "beta": Scalar("beta")},
    )
    elements = [symbol.op for symbol in traced.needed() if symbol.kind == "element"]
    assert elements == ["input", "mul"]  # one multiplication per element; the power and the division are outside
    assert set(traced.inputs("scalar")) == {"t", "beta"}


def test_an_expression_written_twice_is_computed_once() -> None:
    traced = trace(lambda g: {"a": ops.sqrt(g * g), "b": ops.sqrt(g * g) + 1}, {"g": "g"}, {})
    assert [s.op for s in traced.needed() if s.kind == "element"] == ["input", "mul", "sqrt", "add"]


class Branching(Optimizer):
    rule, slots = (lambda g, p, t: g if g > 0 else p), ()

    def __init__(self, params, **options):  # type: ignore[no-untyped-def]
        super().__init__(params, {"lr": 1.0, "weight_decay": 0.0}, options)


def test_a_branch_on_a_value_is_refused_with_the_way_out() -> None:
    p = torch.ones(3, requires_grad=True)
    p.grad = torch.ones(3)
    with pytest.raises(UsageError, match=r"ops\.where"):
        Branching([p], backend="cpu").step()


class EveryOp(Optimizer):
    """Uses every op on elements and on numbers."""

    slots = ()

    @staticmethod
    def rule(g, p, t):  # type: ignore[no-untyped-def]
        number = ops.where(t > 1, ops.sqrt(t) + ops.abs(-t), ops.minimum(ops.maximum(t, 2.0), 7.0)) * ops.sign(-t)
        angle = ops.atan2(g, ops.abs(p) + 1) + ops.atan2(t, 2.0)
        inner = ops.where((g > 0) & ~(p >= 0) | (g == p), ops.maximum(g, p), ops.minimum(g, 0.5))
        number = number + ops.log(t + 1)
        return ops.clamp(
            number * ops.lerp(ops.sign(g), inner, 0.3) + ops.sqrt(g * g + 0.1) - angle / 2 + 0.25, -3.0, 3.0
        )

    def __init__(self, params, **options):  # type: ignore[no-untyped-def]
        super().__init__(params, {"lr": 0.1, "weight_decay": 0.0}, options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_op_means_the_same_on_every_backend(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    start, results = torch.randn(500, dtype=dtype), []
    gradients = [torch.randn(500, dtype=dtype) for _ in range(3)]
    for backend in ("eager", "cpu"):
        p = start.clone().requires_grad_()
        optimizer = EveryOp([p], backend=backend)
        for g in gradients:
            p.grad = g
            optimizer.step()
        results.append(p.detach())
    assert torch.equal(*results)


def test_the_square_root_of_a_negative_number_is_nan_not_an_error() -> None:
    assert math.isnan(ops.sqrt(-1.0))
    assert ops.sqrt(torch.tensor([-1.0])).isnan().all()
