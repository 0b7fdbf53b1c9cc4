"""What is tried where a sweep gives no answer, and that the user's own range stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stepwell.finder import find_lr
from stepwell.finder.attempts import Attempt
from stepwell.finder.result import found
from stepwell.optimizers import SGD


def attempt(**changes: Any) -> Attempt:
    return Attempt(**{"low": 1e-3, "high": 10.0, "points": 30, "orders": 3, "stop": 4.0, **changes})


def gave(curve: list[float], of: Attempt) -> Any:
    result = found(of.lrs, [curve] * of.orders, rule="between", ratios=[1.0])
    assert result.suggestion is None
    return result


FLAT = [1.0] * 30
BLOWN = [1.0, 9.0, 99.0]
RISING = [1.0 + 0.2 * i for i in range(30)]
NOISE = [1.0 + (-1) ** i * (0.3 + 0.01 * (i % 7)) - 0.004 * i for i in range(30)]


@pytest.mark.parametrize(
    ("curve", "cause", "low", "high", "stop"),
    [(BLOWN, "short", 1e-5, 10.0, 16.0), (RISING, "rises", 1e-5, 10.0, 4.0), (FLAT, "flat", 1e-3, 300.0, 4.0),
     (NOISE, "noise", 1e-3, 300.0, 4.0), (NOISE[:12], "noise", 1e-5, 10.0, 4.0)],
)  # fmt: skip
def test_the_next_attempt_changes_what_the_reason_names(
    curve: list[float], cause: str, low: float, high: float, stop: float
) -> None:
    one = attempt()
    result = gave(curve, one)
    assert result.cause == cause
    following = one.after(result)
    assert (following.low, following.high, following.stop) == (pytest.approx(low), pytest.approx(high), stop)
    assert (following.points, following.orders) == (45, 6)  # slower, and over more orders: three times the updates
    assert len(following.lrs) == 45


@pytest.mark.parametrize("curve", [BLOWN, RISING, FLAT, NOISE])
def test_a_range_that_was_given_stays(curve: list[float]) -> None:
    one = attempt(low_is_given=True, high_is_given=True)
    following = one.after(gave(curve, one))
    assert (following.low, following.high) == (one.low, one.high)


def _steep(scale: float) -> tuple[nn.Module, list[Tensor]]:
    """A regression whose rates lie `scale` squared below the usual ones."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    return nn.Linear(4, 1), [scale * torch.randn(16, 4, generator=generator) for _ in range(8)]


def _loss(model: nn.Module, batch: Tensor) -> Tensor:
    return (model(batch) - batch[:, :1]).square().mean()


def test_a_task_beyond_the_usual_range_is_found_in_a_later_attempt() -> None:
    model, batches = _steep(100.0)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = SGD(model.parameters(), lr=0.1)
    once = find_lr(model, optimizer, batches, _loss, progress=False)
    assert once.suggestion is None
    assert once.cause in ("short", "rises")
    assert once.tried == ()
    result = find_lr(model, optimizer, batches, _loss, attempts=3, progress=False)
    assert result.suggestion is not None
    assert result.suggestion < 1e-3
    assert result.tried[0].startswith("0.0003 to 10, 3 x 33 updates: the loss")
    assert "found in attempt" in str(result)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_where_nothing_is_found_every_attempt_is_said() -> None:
    model, batches = _steep(100.0)
    result = find_lr(
        model, SGD(model.parameters(), lr=0.1), batches, _loss, low=1.0, high=2.0, attempts=2, progress=False
    )
    assert result.suggestion is None
    assert "tried before: 1 to 2, 3 x 33 updates" in str(result)


def test_a_result_is_short_in_a_prompt_and_a_picture_in_a_notebook() -> None:
    model, batches = _steep(1.0)
    result = find_lr(model, SGD(model.parameters(), lr=0.1), batches, _loss, progress=False)
    assert result.suggestion is not None
    assert repr(result).startswith(f"FoundLR({result.suggestion:.3g}, rule='between', spread=(")
    assert len(repr(result)) < 120
    assert "<svg" in result._repr_html_()
    assert str(result).splitlines()[0] in result._repr_html_()
    nothing = gave(FLAT, attempt())
    assert repr(nothing) == "FoundLR(None, cause='flat', 30 rates, 3 orders)"
    assert "<script" not in nothing._repr_html_()
    assert len(repr(result.curve)) < 200
