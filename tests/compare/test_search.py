"""The search of one hyperparameter: it finds an optimum wherever its range begins, within its budget."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.compare.search import Axis, Seen, best_value, edge, ends, first, following, is_untrained, rounds


def searched(axis: Axis, metric: Callable[[float], float | None], trials: int, widen: bool = True) -> list[Seen]:
    seen: list[Seen] = []
    for count in rounds(trials):
        values = first(axis, count) if not seen else following(axis, seen, count, "max", widen)
        assert len(values) == count
        seen += [Seen(value, metric(value), 0.0) for value in values]
    return seen


@given(st.integers(1, 40), st.floats(1e-6, 1e-2), st.floats(2.0, 1e6))
def test_the_first_values_lie_one_in_each_equal_slice(count: int, low: float, ratio: float) -> None:
    values = first(Axis("lr", low, low * ratio), count)
    places = [math.log(value / low) / math.log(ratio) * count for value in values]
    # three digits of the value move it by at most 0.5 %, which is 0.005 / log(ratio) of the range
    assert places == pytest.approx([i + 0.5 for i in range(count)], abs=0.006 * count / math.log(ratio))


@settings(deadline=None)
@given(st.floats(-5.0, 1.0), st.sampled_from([8, 10, 16]))
def test_an_optimum_within_a_decade_of_the_range_is_found_to_a_factor_of_two(at: float, trials: int) -> None:
    """The range is 1e-4 to 1e-2; the optimum lies between a tenth of its low and ten times its high end, and rates far
    above the optimum diverge."""
    optimum = 10 ** min(max(at, -5.0), -1.0)

    def metric(value: float) -> float | None:
        off = math.log10(value / optimum)
        return None if off > 1.2 else 1.0 - 0.3 * off**2

    seen = searched(Axis("lr", 1e-4, 1e-2), metric, trials)
    best = best_value(seen, "max")
    assert best is not None
    assert 0.5 <= best / optimum <= 2.0
    assert len({one.value for one in seen}) == trials


def test_a_range_a_hundred_times_too_low_is_left_by_the_training_loss() -> None:
    """Chance at every rate, as Lion on three spirals: the metric says nothing, the loss falls with the rate."""

    def run(value: float) -> Seen:
        trained = min(1.0, (value / 0.01) ** 0.7)
        final = 0.33 + 0.66 * trained if trained > 0.3 else 0.34 + 0.01 * math.sin(value * 1e6)
        return Seen(value, final, 0.33, 1.1 - trained, 1.1)

    axis, seen = Axis("lr", 1e-5, 1e-3), []
    for count in rounds(8):
        values = first(axis, count) if not seen else following(axis, seen, count, "max")
        seen += [run(value) for value in values]
        assert is_untrained(seen, "max") == (max(one.value for one in seen) < 1e-3)
    best = best_value(seen, "max")
    assert best is not None
    assert best >= 0.005


def test_where_all_diverge_lower_ones_come_next() -> None:
    seen = [Seen(value, None) for value in (0.1, 1.0)]
    assert following(Axis("lr", 0.05, 5.0), seen, 2, "min") == [0.01, 0.001]
    assert ends(seen, "min") == (True, False)


def test_a_range_that_does_not_widen_is_kept() -> None:
    seen = searched(Axis("lr", 1e-3, 1e-1), lambda value: value, 10, widen=False)
    assert all(1e-3 <= one.value <= 1e-1 for one in seen)
    assert edge(Axis("lr", 1e-3, 1e-1), seen, "max") == "high"


def test_a_value_is_at_an_edge_only_if_more_is_allowed() -> None:
    seen = [Seen(0.5, 0.1, 0.0), Seen(0.9, 0.2, 0.0)]
    assert edge(Axis("warmup", 0.01, 0.3, 0.001, 0.9), seen, "max") is None
    assert edge(Axis("lr", 0.5, 0.9), seen, "max") == "high"
    assert edge(Axis("lr", 0.5, 0.9), seen, "min") == "low"
    assert edge(Axis("lr", 0.5, 0.9), [*seen, Seen(2.0, None)], "max") is None  # what diverged was tried


def test_momentum_is_searched_by_its_distance_from_one() -> None:
    axis = Axis("momentum", 0.5, 0.99, 0.0, 0.9999, True)
    assert first(axis, 3) == [0.739, 0.9293, 0.9808]
    seen = searched(axis, lambda value: value, 8)
    assert max(one.value for one in seen) > 0.99
    assert all(0 <= one.value < 1 for one in seen)


def test_equal_values_take_the_middle_one_and_failed_ones_are_never_the_best() -> None:
    assert best_value([Seen(value, 0.9) for value in (0.1, 0.2, 0.4)], "max") == 0.2
    assert best_value([Seen(0.1, None), Seen(0.2, 3.0)], "min") == 0.2
    assert best_value([Seen(0.1, None)], "min") is None


def test_an_end_is_open_if_it_is_worse_by_less_than_a_tenth_of_what_was_gained() -> None:
    """Begun at 0.2, best at 0.8: an end at 0.75 has lost a twelfth of the gain, one at 0.7 a sixth."""
    inner = [Seen(0.1, 0.8, 0.2), Seen(0.2, 0.79, 0.2)]
    assert ends([Seen(0.01, 0.7, 0.2), *inner, Seen(1.0, 0.75, 0.2)], "max") == (False, True)
    assert ends([Seen(0.01, 0.75, 0.2), *inner, Seen(1.0, 0.7, 0.2)], "max") == (True, False)
    assert ends([Seen(0.01, 0.7, 0.2), *inner, Seen(1.0, None, 0.2)], "max") == (False, False)
