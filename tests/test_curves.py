"""Curves and tables refuse what could not be drawn."""

from __future__ import annotations

import pytest

from stepwell.curves import Curve, Table


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"y": [1.0]}, "curve 'a': y has 1 values, x has 2"),
        ({"low": [0.0, 0.0]}, "curve 'a': a band needs both low and high"),
        ({"high": [0.0, 0.0]}, "curve 'a': a band needs both low and high"),
        ({"low": [0.0], "high": [0.0, 1.0]}, "curve 'a': low has 1 values, x has 2"),
        ({"labels": ["one"]}, "curve 'a': labels has 1 values, x has 2"),
    ],
)
def test_a_curve_of_unequal_lengths_is_refused(given: dict[str, list], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Curve("a", **{"x": [0.0, 1.0], "y": [1.0, 2.0], **given})


def test_a_row_that_does_not_fit_the_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="table 't': a row of 1 cells under 2 columns"):
        Table(["a", "b"], [[1, 2], [3]], title="t")
