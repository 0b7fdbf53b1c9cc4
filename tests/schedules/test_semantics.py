"""What a step is, how schedules join, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stepwell import schedules
from stepwell.errors import UsageError
from stepwell.schedules import (
    Schedule,
    constant,
    cooldown,
    cosine,
    cosine_restarts,
    cyclic,
    exponential,
    exponential_to,
    from_function,
    inverse_square_root,
    linear,
    multi_step,
    one_cycle,
    parse,
    polynomial,
    stable,
    step,
    trapezoid,
    untuned_warmup,
    warmup,
)

lengths = st.integers(2, 2000)
factors = st.floats(0, 4, allow_subnormal=False)
falling = st.one_of(
    st.builds(linear, lengths, to=factors, start=factors),
    st.builds(cosine, lengths, to=factors),
    st.builds(polynomial, lengths, to=factors, power=st.floats(0.1, 5)),
    st.builds(cooldown, lengths, to=st.floats(0, 1), shape=st.sampled_from(["1-sqrt", "linear", "cosine"])),
    st.builds(exponential_to, lengths, to=st.floats(1e-6, 4)),
    st.builds(one_cycle, st.integers(10, 2000), shape=st.sampled_from(["cosine", "linear"])),
    st.builds(constant, lengths, factor=factors),
    st.builds(stable, lengths),
)
endless = st.one_of(
    st.builds(exponential, st.floats(0.9, 1.0)),
    st.builds(step, st.integers(1, 300), gamma=st.floats(0.1, 1)),
    st.builds(multi_step, st.lists(lengths, min_size=1, max_size=5).map(sorted)),
    st.builds(inverse_square_root, lengths),
    st.builds(cosine_restarts, st.integers(1, 300), mult=st.integers(1, 3), to=st.floats(0, 1)),
    st.builds(cyclic, st.integers(1, 300), st.none() | st.integers(1, 300), low=st.floats(0, 1)),
    st.builds(warmup, lengths, start=st.floats(0, 1)),
    st.builds(constant, factor=factors),
)


@st.composite
def compositions(draw: Any) -> Schedule:
    schedule: Schedule = draw(falling)
    for _ in range(draw(st.integers(0, 3))):
        schedule = schedule.then(draw(falling))
    if draw(st.booleans()):
        schedule = schedule * draw(st.floats(0, 10, allow_subnormal=False))
    if draw(st.booleans()):
        schedule = draw(endless) * schedule
    if draw(st.booleans()):
        schedule = schedule.hold()
    if draw(st.booleans()):
        schedule = schedule.then(draw(falling))
    if draw(st.booleans()):
        schedule = schedule.per_group({"head": draw(factors), 1: draw(endless)})
    if draw(st.booleans()):
        schedule = schedule.between(0.85, 0.95)
    return schedule


@given(compositions() | endless)
def test_what_it_prints_parses_back(schedule: Schedule) -> None:
    assert parse(str(schedule)) == schedule


@given(falling, falling, st.data())
def test_then_hands_over_at_the_length(first: Schedule, second: Schedule, data: st.DataObject) -> None:
    joined = first.then(second)
    m, n = first.horizon, second.horizon
    assert m is not None
    assert n is not None
    assert joined.horizon == m + n
    k = data.draw(st.integers(0, m - 1))
    assert joined(k) == first(k)
    k = data.draw(st.integers(0, n))
    assert joined(m + k) == second(k)


@given(falling, st.integers(0, 5000))
def test_hold_keeps_the_end_value(schedule: Schedule, beyond: int) -> None:
    held = schedule.hold()
    assert schedule.horizon is not None
    assert held.horizon is None
    assert held(schedule.horizon + beyond) == schedule(schedule.horizon)


@pytest.mark.parametrize("shape", ["linear", "cosine", "exponential"])
@pytest.mark.parametrize("n", [2, 7, 500])
def test_warmup_has_no_jump_at_the_join(shape: str, n: int) -> None:
    """From the last step of the warmup to the first after it, the change is no larger than within the warmup."""
    start = 0.01 if shape == "exponential" else 0.0
    schedule = warmup(n, start=start, shape=shape).then(cosine(1000, to=0.1))
    values = schedule.values(n + 1)
    steps = [b - a for a, b in zip([start, *values], values, strict=False)]
    assert values[n - 1] == values[n] == 1.0
    assert all(0 < change <= max(steps) for change in steps[:n])


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_no_update_is_wasted_on_zero(up: int, down: int) -> None:
    for fall in (linear(down), cosine(down), cooldown(down), polynomial(down, power=2)):
        assert all(value > 0 for value in warmup(up).then(fall).values())
    assert warmup(up)(0) == 1 / up


def test_step_zero_of_warmup_500() -> None:
    assert warmup(500)(0) == 1 / 500
    assert warmup(500)(498) == 499 / 500
    assert warmup(500)(499) == 1.0
    assert warmup(500)(10_000) == 1.0  # the full value from then on
    assert warmup(1)(0) == 1.0


def test_untuned_warmup_is_ma_and_yarats() -> None:
    """1910.04209: omega_t = min(1, (1 - beta2) / 2 * t), t from 1."""
    for beta2, n in ((0.999, 2000), (0.95, 40), (0.99, 200)):
        schedule = untuned_warmup(beta2)
        assert schedule.steps == n
        for t in (1, 2, n // 2, n, n + 5):
            assert schedule(t - 1) == pytest.approx(min(1, (1 - beta2) / 2 * t), rel=1e-9)


def test_noam_is_the_papers_formula() -> None:
    d, w = 512, 4000
    schedule = schedules.noam(w)
    peak = schedules.noam_peak(d, w)
    for t in (1, 100, 3999, 4000, 4001, 100_000):
        assert peak * schedule(t - 1) == pytest.approx(d**-0.5 * min(t**-0.5, t * w**-1.5), rel=1e-12)


def test_trapezoid_is_hagele() -> None:
    schedule = trapezoid(1000, warmup=100, cooldown=0.2)
    assert schedule.horizon == 1000
    assert schedule.values()[100:800] == [1.0] * 700
    for n in (800, 850, 999):
        assert schedule(n) == pytest.approx(1 - math.sqrt((n - 800) / 200))


@given(st.integers(200, 100_000), st.floats(0.01, 0.4), st.floats(0.01, 0.4))
def test_fractions_fill_the_run(total: int, rise: float, fall: float) -> None:
    assert warmup(rise).then(stable()).then(cooldown(fall)).over(total).horizon == total
    assert warmup(rise).then(cosine(1 - rise)).over(total).horizon == total
    assert warmup(rise).then(linear(0.5 - rise)).then(cosine(0.5) * exponential(0.999)).over(total).horizon == total


def test_products_count_together() -> None:
    schedule = warmup(10) * cosine(100) * 0.5
    assert schedule.horizon == 100
    assert schedule(4) == pytest.approx(0.5 * 0.5 * cosine(100)(4))
    assert (2 * constant())(7) == 2.0


def test_per_group() -> None:
    schedule = warmup(2).then(cosine(8)).per_group({"head": 10, "layer 1*": constant(factor=0.5), 3: 0.0})
    assert schedule(0) == 0.5
    assert schedule(0, "head") == 5.0
    assert schedule(0, "layer 12") == 0.5
    assert schedule(0, "layer 2") == 0.5
    assert schedule(5, 3) == 0.0
    inside = warmup(2).then(cosine(8).per_group({"head": 10}))
    assert inside(0, "head") == 0.5
    assert inside(2, "head") == 10.0


def test_numbers_of_numpy_and_torch_count_as_steps() -> None:
    import numpy as np

    assert cosine(np.int64(10))(np.int32(5)) == pytest.approx(0.5)
    assert cosine(10)(torch.tensor(5)) == pytest.approx(0.5)


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: cosine(10)(11), "step 11 is past the horizon of cosine(10), which has 10 steps"),
    (lambda: cosine(10)(-1), "step -1 of cosine(10) is below 0"),
    (lambda: cosine(10)(1.5), "step 1.5 of cosine(10) is not a whole number"),
    (lambda: cosine(10)(True), "not a whole number"),
    (lambda: cosine()(3), ".over(total_steps)"),
    (lambda: cosine(0), "steps=0; it must be a whole number of at least 1"),
    (lambda: cosine(-5), "steps=-5; it must be a whole number of at least 1"),
    (lambda: cosine(500.0), "a float is a fraction of the run, in (0, 1]; for steps give an int"),
    (lambda: cosine(10, to=math.nan), "to=nan; it must be a finite number"),
    (lambda: cosine(10, to=-0.1), "to=-0.1; it must be a finite number, at least 0"),
    (lambda: warmup(None), "warmup() needs a length"),  # type: ignore[arg-type]
    (lambda: warmup(5, shape="cubic"), "shape='cubic'"),
    (lambda: warmup(5, shape="exponential"), "never rises"),
    (lambda: warmup(5, start=1.5), "start=1.5; it must be in [0, 1]"),
    (lambda: untuned_warmup(1.0), "must be in [0, 1)"),
    (lambda: constant().then(cosine(4)), "constant() never ends, so no schedule can follow it"),
    (lambda: cosine(4).then(3), "it must be a schedule"),  # type: ignore[arg-type]
    (lambda: cosine().then(linear()), "only one part may have no length"),
    (lambda: cosine(5) * cosine(6), "cosine(5) has 5 steps and cosine(6) has 6"),
    (lambda: cosine(5) * -1, "factor=-1; it must be a finite number, at least 0"),
    (lambda: cosine(5) * math.inf, "factor=inf; it must be a finite number"),
    (lambda: cosine(5).until(9), "cosine(5) has 5 steps, so it cannot continue until step 9"),
    (lambda: cosine(5).between(0, 1) * cosine(5).between(0, 1), "both give values"),
    (lambda: cosine(5).between(0, 1).then(cosine(5)), "either factors or values"),
    (lambda: cosine(5).between(0, 1).between(0, 1), "gives values already"),
    (lambda: cosine(5).per_group({}), "names no group"),
    (lambda: cosine(5).per_group({"a": cosine(6)}), "must end at the same step"),
    (lambda: multi_step([5, 3]), "must be steps in rising order"),
    (lambda: multi_step([]), "must be steps in rising order"),
    (lambda: multi_step(3), "it must be a list of steps"),  # type: ignore[arg-type]
    (lambda: exponential(0.0), "gamma=0.0; it must be a finite number above 0"),
    (lambda: exponential(2.0)(5000), "larger than any number at step 5000"),
    (lambda: cyclic(5, gamma=0.9), "has no effect with mode='triangular'"),
    (lambda: one_cycle(100, peak=0.6, three_phase=True), "must be in (0, 0.5]"),
    (lambda: one_cycle(2, peak=0.1), "the peak is before the first update"),
    (lambda: from_function(3), "it must be a function of the step"),  # type: ignore[arg-type]
    (lambda: from_function(lambda k: math.nan)(0), "gives nan at step 0"),
    (lambda: from_function(lambda k: "x")(2), "gives 'x' at step 2"),  # type: ignore[arg-type,return-value]
    (lambda: warmup(5000).then(cosine()).over(1000), "5000 steps long and the run has 1000"),
    (lambda: warmup(5000).check(1000), "5000 steps long and the run has 1000"),
    (lambda: inverse_square_root(400).check(300), "400 steps long and the run has 300"),
    (lambda: warmup(500).then(cosine(9500)).check(8000), "is 10000 steps long and the run has 8000"),
    (lambda: warmup(500).then(cosine(9500)).check(12_000), "is 10000 steps long and the run has 12000: 2000 updates"),
    (lambda: warmup(500).then(cosine()).over(500), "no step is left for cosine()"),
    (lambda: constant(30).then(constant()).check(20), "begins at step 30 and the run has 20"),
    (lambda: multi_step([300, 600]).check(500), "begins at step 600 and the run has 500"),
    (lambda: warmup(0.001).over(100), "less than one step"),
    (lambda: cosine().over(0), "total_steps=0; it must be a whole number of at least 1"),
    (lambda: trapezoid(0.5), "it must be a number of steps (int) or None"),
    (lambda: constant().values(), "constant() never ends; pass the number of steps"),
    (lambda: step(1, gamma=10)(1000), "a factor must be a finite number"),
    (lambda: cyclic(3, mode="exp_range", gamma=10.0)(1000), "gives inf at step 1000"),
    (lambda: cosine(5) * 10**400, "factor=an int of 1329 bits; it must be a finite number"),
    (lambda: cosine(10**400), "it must be a whole number of at least 1, at most 2^53"),
    (lambda: cosine(5).per_group([2.0]), "it must be a dict of factors by group"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_refused_in_one_line(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        call()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_fits_is_not_refused() -> None:
    for schedule in (
        warmup(500).then(cosine(500)),
        warmup(1000),
        constant(),
        cosine(900).hold(),
        one_cycle(1000),
        constant(999).then(constant()),
    ):
        schedule.check(1000)
