"""The operations of rules: what is made of arithmetic equals the mathematics."""

import itertools
import math

import pytest
import torch

from stepwell import ops
from stepwell.engine import Optimizer, Slot
from stepwell.errors import UsageError

SIZES = (0.0, 5e-324, 1e-310, 1e-150, 1e-9, 0.3, 0.65, 0.66, 0.67, 1.0, 1.5, 3.0, 1e7, 1e150, 1.7e308)
POINTS = [(a * y, b * x) for y, x, a, b in itertools.product(SIZES, SIZES, (1, -1), (1, -1))]


def _no_negative_zero(value: float) -> float:
    return value + 0.0  # ours: zeros have no sign


def test_atan2_equals_the_library_in_all_quadrants_on_axes_and_at_extreme_ratios() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(20_000, 2, generator=generator, dtype=torch.float64)
    drawn *= 10.0 ** torch.randint(-12, 12, (20_000, 2), generator=generator)
    points = POINTS + [tuple(pair) for pair in drawn.tolist()]
    y, x = torch.tensor(points, dtype=torch.float64).T.contiguous()
    want = torch.tensor(
        [math.atan2(_no_negative_zero(a), _no_negative_zero(b)) for a, b in points], dtype=torch.float64
    )
    got = ops.atan2(y, x)
    # 4 roundings of at most half a unit each, and the tail of the fraction (2e-16); 5e-324 where the angle itself is
    # below the normal numbers
    torch.testing.assert_close(got, want, rtol=1e-15, atol=1e-323)
    numbers = torch.tensor([ops.atan2(a, b) for a, b in points[:2000]], dtype=torch.float64)
    assert torch.equal(numbers, got[:2000])


def test_atan2_in_float32_is_right_to_a_few_units() -> None:
    y, x = torch.randn(2, 100_000, generator=torch.Generator().manual_seed(1))
    want = torch.atan2(y.double(), x.double())
    assert ((ops.atan2(y, x) - want).abs() <= 4 * torch.finfo(torch.float32).eps * want.abs()).all()


def test_atan2_of_nothing_is_nothing_and_nan_stays() -> None:
    assert ops.atan2(0.0, 0.0) == 0
    assert ops.atan2(torch.zeros(3), torch.zeros(3)).equal(torch.zeros(3))
    assert ops.atan2(torch.tensor([math.nan, 1.0]), torch.tensor([1.0, math.nan])).isnan().all()


def test_where_gives_an_element_its_precision() -> None:
    x = torch.ones(3, dtype=torch.float64)
    chosen = ops.where(True, 0.1, x)
    assert chosen.dtype == torch.float64
    assert chosen.equal(torch.full((3,), 0.1, dtype=torch.float64))
    assert ops.where(False, 0.1, 0.2) == 0.2


@pytest.mark.parametrize(("value", "want"), [(-3.0, -1.0), (0.2, 0.2), (9.0, 2.0)])
def test_clamp(value: float, want: float) -> None:
    assert ops.clamp(value, -1.0, 2.0) == want
    assert ops.clamp(torch.tensor([value]), -1.0, 2.0).item() == pytest.approx(want)


class Counting(Optimizer):
    """Divides by the product of the learning rates so far, one number per tensor; takes lr and decay itself."""

    slots = (Slot("product", per="tensor", start=2.0), Slot("first", wide=True))
    decay = None

    @staticmethod
    def rule(g, p, t, product, first, *, lr, weight_decay):  # type: ignore[no-untyped-def]
        product = product * (1 + lr)
        return lr * g / product + weight_decay * p, product, ops.where(t == 1, p, first)

    def __init__(self, params, lr=0.5, weight_decay=0.0, **options):  # type: ignore[no-untyped-def]
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay}, options)


@pytest.mark.parametrize("backend", ["eager", "cpu"])
@pytest.mark.parametrize("state", ["fp32", "int8"])
def test_a_slot_of_one_number_per_tensor(backend: str, state: str) -> None:
    big, late = torch.full((70, 100), 3.0, requires_grad=True), torch.ones(2, requires_grad=True)
    optimizer = Counting([big, late], weight_decay=0.25, backend=backend, state=state)
    for step, lr in enumerate((0.5, 0.25)):
        optimizer.param_groups[0]["lr"] = lr
        big.grad = torch.ones_like(big)
        late.grad = torch.ones_like(late) if step else None
        optimizer.step()
    kept = optimizer.state[big]
    assert kept["product"].shape == ()
    assert (kept["product"].item(), optimizer.state[late]["product"].item()) == (2 * 1.5 * 1.25, 2 * 1.25)
    assert kept["first"].equal(torch.full_like(big, 3.0))  # fp32 beside int8: it holds a weight
    one = 3.0 - 0.5 / 3.0 - 0.25 * 3.0
    torch.testing.assert_close(big, torch.full_like(big, one - 0.25 / 3.75 - 0.25 * one))
    torch.testing.assert_close(late, torch.full_like(late, 1 - 0.25 / 2.5 - 0.25))

    again = Counting([big, late], backend=backend, state=state)
    again.load_state_dict(optimizer.state_dict())
    again.step()
    assert again.state[big]["product"].item() == 2 * 1.5 * 1.25 * 1.25


class Leaking(Counting):
    @staticmethod
    def rule(g, p, t, product, first, *, lr, weight_decay):  # type: ignore[no-untyped-def]
        return lr * g, product + g, first


def test_a_number_made_of_elements_is_refused() -> None:
    p = torch.ones(2, requires_grad=True)
    p.grad = torch.ones(2)
    with pytest.raises(UsageError, match="'product' is one number per tensor"):
        Leaking([p], backend="cpu").step()


@pytest.mark.parametrize("beta", [0.9, 0.999, 0.0])
def test_ema_is_the_lerp_that_rules_wrote_by_hand(beta: float) -> None:
    average, x = torch.randn(2, 100, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ops.ema(average, x, beta), ops.lerp(average, x, 1 - beta))
    assert torch.equal(ops.ema_square(average, x, beta), ops.lerp_square(average, x, 1 - beta))
    torch.testing.assert_close(ops.ema(average, x, beta), beta * average + (1 - beta) * x)
