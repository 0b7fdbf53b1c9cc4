"""Pass after pass, each from a seed of its own, and no search without end where a pass is empty."""

from __future__ import annotations

from itertools import islice

import pytest

from stepwell.errors import UsageError
from stepwell.streams import endless


def test_each_pass_has_the_seed_of_its_number() -> None:
    asked: list[int] = []

    def one_pass(seed: int) -> range:
        asked.append(seed)
        return range(seed, seed + 2)

    stream = endless(one_pass, 3, 10, "nothing")
    assert asked == []  # nothing is loaded before the first batch is wanted
    assert list(islice(stream, 5)) == [3, 4, 13, 14, 23]
    assert asked == [3, 13, 23]


def test_a_pass_without_a_batch_is_refused_also_after_others() -> None:
    stream = endless(lambda seed: [seed] if seed < 20 else [], 0, 10, "task 'x': no batch")
    assert [next(stream), next(stream)] == [0, 10]
    with pytest.raises(UsageError, match=r"^task 'x': no batch$"):
        next(stream)
