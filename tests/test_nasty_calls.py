"""A sample of nasty calls: each ends in a result or in one line. The seed is fixed, the tables are in `nasty_calls`.

`make fuzz` sets STEPWELL_FUZZ=full and takes all values (of optimizers, which are many alike, 40 for each argument).
"""

from __future__ import annotations

import os
import random
import warnings

import pytest

from .nasty import VALUES
from .nasty_calls import CALLS, below_step, optimizers, outcome

FULL = os.environ.get("STEPWELL_FUZZ") == "full"


def number_of_values(name: str) -> int:
    """Of more than a hundred, for each argument; in all 6,000 calls, which take a minute of one core."""
    if FULL:
        return 40 if name in optimizers.CALLS else len(VALUES)
    return 12 if name in below_step.CALLS else 2


@pytest.mark.parametrize("name", CALLS)
def test_a_nasty_call_ends_in_a_result_or_in_one_line(name: str) -> None:
    draw = random.Random(f"{name} 0")
    wrong = []
    for argument in CALLS[name][1]:
        for label, make in draw.sample(VALUES, number_of_values(name)):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a schedule without effect, a complex number cast: said, not refused
                said = outcome(name, argument, make())
            if said:
                wrong.append(f"{argument}={label}: {said}")
    assert not wrong, "\n".join(wrong)
