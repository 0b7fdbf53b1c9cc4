"""A sample of nasty calls: each ends in a result or in one line. The seed is fixed, the table is in `nasty_calls`."""

from __future__ import annotations

import random
import warnings

import pytest

from .nasty import VALUES
from .nasty_calls import CALLS, outcome

SAMPLE = 12  # values for each argument, of more than a hundred; all of them take a minute


@pytest.mark.parametrize("name", CALLS)
def test_a_nasty_call_ends_in_a_result_or_in_one_line(name: str) -> None:
    draw = random.Random(f"{name} 0")
    wrong = []
    for argument in CALLS[name][1]:
        for label, make in draw.sample(VALUES, SAMPLE):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a schedule without effect, a complex number cast: said, not refused
                said = outcome(name, argument, make())
            if said:
                wrong.append(f"{argument}={label}: {said}")
    assert not wrong, "\n".join(wrong)
