"""Reading a curve: each rule on curves whose answer is known, and refusals."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest

from stepwell.finder.result import found
from stepwell.finder.rules import RULES, debiased, minimum, slide, smooth, steep, valley

LRS = np.logspace(-6, 1, 71)  # ten points per decade
AT = 1e-2


def sigmoid_drop(lrs: np.ndarray, top: float = 2.0, bottom: float = 0.5) -> np.ndarray:
    """Falls most steeply per decade at AT, is lowest at 1, and blows up beyond."""
    position = np.log10(lrs) - math.log10(AT)
    fall = (top - bottom) / (1 + np.exp(-3 * position))
    return top - fall + np.where(lrs > 1, 8 * (np.log10(lrs)) ** 2, 0.0)


def test_steep_is_the_inflexion_per_decade_not_per_unit_of_rate() -> None:
    # per unit of linear rate the slope is largest far below: what Lightning's spacing makes of it
    losses = sigmoid_drop(LRS)
    assert steep(LRS, losses) == pytest.approx(AT, rel=0.3)
    linear = LRS[np.argmin(np.gradient(losses, LRS))]
    assert linear < 0.5 * AT


def test_steep_ignores_a_fall_after_the_lowest_point() -> None:
    losses = sigmoid_drop(LRS)
    losses[-2] = 400.0  # it blew up, and came back
    assert steep(LRS, losses) == pytest.approx(AT, rel=0.3)


def test_valley_is_the_middle_of_the_longest_fall() -> None:
    losses = np.concatenate([np.full(20, 2.0), np.linspace(2.0, 1.0, 31), np.linspace(1.1, 9.0, 20)])
    assert valley(LRS, losses) == pytest.approx(LRS[34], rel=0.3)


def test_minimum_is_a_tenth_of_the_lowest() -> None:
    losses = sigmoid_drop(LRS)
    assert minimum(LRS, losses) == pytest.approx(LRS[np.argmin(losses)] / 10)


def test_slide_is_fastais_on_a_hundred_points() -> None:
    lrs = np.logspace(-6, 1, 100)
    losses = sigmoid_drop(lrs)
    losses /= losses[0] - losses.min()  # fastai's threshold is absolute; ours is for a drop of 1
    slopes = np.gradient(losses)
    right, left, expected = -1, -16, lrs[-16]
    while left >= -len(losses) and abs(slopes[right] - slopes[left]) > 0.005:
        expected, right, left = lrs[left], right - 1, left - 1
    assert slide(lrs, losses) == pytest.approx(expected, rel=0.2)  # fastai keeps the point before the one that agrees


def test_between_is_half_way_from_the_steepest_to_the_lowest() -> None:
    losses = sigmoid_drop(LRS)
    assert RULES["between"](LRS, losses) == pytest.approx((steep(LRS, losses) * LRS[np.argmin(losses)]) ** 0.5)


@pytest.mark.parametrize("height", [10.0, 1e6])
def test_how_high_it_blows_up_moves_nothing(height: float) -> None:
    def suggestions(height: float) -> Any:
        curves = [[*sigmoid_drop(LRS)[:62], height, height] for _ in range(3)]
        return found(LRS.tolist(), curves, rule="between", ratios=[1.0]).suggestions

    assert suggestions(height) == suggestions(8.0)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("shift", [-5.0, 0.0, 100.0])
def test_no_rule_depends_on_the_unit_of_the_loss(name: str, scale: float, shift: float) -> None:
    losses = sigmoid_drop(LRS)
    assert RULES[name](LRS, scale * losses + shift) == pytest.approx(RULES[name](LRS, losses))


def test_the_debiased_average_begins_with_the_first_loss() -> None:
    losses = [3.0, 1.0, 2.0]
    b = 0.9
    expected = [3.0, (b * 3 + 1) / (b + 1), (b * b * 3 + b * 1 + 2) / (b * b + b + 1)]
    np.testing.assert_allclose(debiased(losses, b), expected)


def test_smoothing_has_no_lag() -> None:
    line = np.linspace(3, 1, 41)
    np.testing.assert_allclose(smooth(line, 3.0)[15:26], line[15:26], atol=1e-6)
    assert debiased(line.tolist(), 0.8)[20] > line[20] + 0.1  # which a running average alone has


def read(curves: list[list[float]], **options: float) -> Any:
    return found(LRS.tolist(), curves, rule="steep", ratios=[1.0, 0.1], **options)  # type: ignore[arg-type]


def noisy(seed: int, size: float = 0.05) -> list[float]:
    return (sigmoid_drop(LRS) + size * np.random.default_rng(seed).normal(size=len(LRS))).tolist()


def test_an_answer_with_its_spread() -> None:
    result = read([noisy(seed) for seed in range(3)])
    assert result.suggestion == pytest.approx(AT, rel=1.0)
    low, high = result.spread
    assert low < high
    assert low / 2 <= result.suggestion <= high * 2
    assert result.group_lrs == (result.suggestion, result.suggestion * 0.1)
    assert result.finding is None
    assert set(result.suggestions) == set(RULES)
    assert "peak" in result.text()
    assert "upper bound" in result.text()
    assert len(result.curve.x) == len(LRS)


@pytest.mark.parametrize("end", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_curve_and_is_never_the_answer(end: float) -> None:
    curves = [[*noisy(seed)[:60], end] for seed in range(3)]
    result = read(curves)
    assert result.suggestion == pytest.approx(AT, rel=1.0)
    assert all(math.isfinite(y) for y in result.curve.y)
    assert len(result.curve.x) == 60


REFUSED: dict[str, tuple[list[list[float]], str]] = {
    "flat": ([[2.0 - 1e-3 * i / 70 for i in range(71)]], "flat"),
    "constant": ([[2.0] * 71], "flat"),
    "constant 0": ([[0.0] * 71], "flat"),
    "noise": ([(2 + np.random.default_rng(0).normal(size=71)).tolist()], "noise"),
    "rises at once": ([[1.0 + i for i in range(71)]], "rises from the lowest rate on.*start from a lower rate"),
    "nan at once": ([[math.nan]], "not finite.*start from a lower rate"),
    "nan early": ([[2.0, 1.9, 1.8, math.inf]], "not finite"),
    "one order nan at once": ([noisy(0), [math.nan]], "not finite"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_curve_without_an_answer_is_refused_with_the_reason(case: str) -> None:
    curves, reason = REFUSED[case]
    result = read(curves)
    assert result.suggestion is None
    assert result.suggestions == {}
    assert result.finding is not None
    assert re.search(reason, result.finding.seen), result.finding.seen
    assert "no learning rate found" in str(result)
    result.chart()  # a refusal can be drawn, too


@pytest.mark.parametrize(("orders", "points"), [(1, 99), (3, 33), (5, 60)])
def test_noise_alone_gives_no_answer(orders: int, points: int) -> None:
    """Its smoothed curve goes up and down, too, and has a lowest point; no more than 2 of 100 pass for a curve."""
    generator = np.random.default_rng(0)
    lrs = np.geomspace(1e-5, 1, points).tolist()
    draws = [3 + generator.normal(size=(orders, points)) for _ in range(200)]
    answers = [found(lrs, draw.tolist(), rule="between", ratios=[1.0]).suggestion for draw in draws]
    assert sum(answer is not None for answer in answers) <= 4


def test_a_curve_less_deep_than_its_noise_is_read_off_many_points() -> None:
    generator = np.random.default_rng(0)
    x = np.geomspace(LRS[0], LRS[-1], 400)
    curves = [(0.5 * sigmoid_drop(x) + generator.normal(size=400)).tolist() for _ in range(5)]
    assert found(x.tolist(), curves, rule="steep", ratios=[1.0]).suggestion is not None


def test_a_range_that_ends_too_low_is_said() -> None:
    part = LRS[:45]
    result = found(part.tolist(), [sigmoid_drop(part).tolist()], rule="steep", ratios=[1.0])
    assert any("still fell at the highest rate" in note for note in result.notes)


def test_orders_that_disagree_are_said() -> None:
    early = sigmoid_drop(LRS * 300).tolist()
    result = read([early, sigmoid_drop(LRS).tolist()])
    assert any("differ by a factor" in note for note in result.notes)
