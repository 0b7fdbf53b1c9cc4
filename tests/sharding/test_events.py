"""What happens in one process is decided by all: the same outcome everywhere, or one error everywhere."""

from __future__ import annotations

from typing import Any

import pytest

from tests.processes import Answers, in_processes
from tests.sharding import events as cases

pytest.importorskip("torch.distributed")
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("events"), pytest.mark.timeout(900)]

SAME = "UsageError: Step: {} in rank 0 and {} in rank 1; it must be the same in every rank, which otherwise"
# What all processes answer, by event; None: the answers are equal, and no errors.
EXPECTED: dict[str, Any] = {
    "not_finite": (1, 1, True),
    "infinite_loss": (1, 1, True),
    "one_sample": None,
    "weight_in_one": SAME.format("weight is not given", "given"),
    "another_accumulation": SAME.format("accumulate is 1", "2"),
    "another_optimizer": SAME.format("the optimizer is AdamW", "Lion"),
    "another_rate": SAME.format("lr at the start is [0.1]", "[0.2]"),
    "shorter_loader": SAME.format("the number of batches of the loader is 5", "3"),
    "no_gradient": None,
    "another_metric": 0.1,
    "interrupted": None,
    "empty_part": None,
}
APART: dict[tuple[str, str], Any] = {
    ("no_gradient", "FSDP2"): "UsageError: '0.weight' has a gradient in 1 of 2 processes; all processes that have",
}


@pytest.fixture(scope="module")
def found() -> Answers:
    return in_processes(cases.CASES, 2)


@pytest.mark.parametrize("case", list(cases.CASES))
def test_all_processes_do_the_same(case: str, found: Answers) -> None:
    event, _, how = case.partition(", ")
    answers = [found[rank][case] for rank in range(2)]
    expected = APART.get((event, how), EXPECTED[event])
    assert answers[0] == answers[1]
    if isinstance(expected, str):
        assert answers[0].startswith(expected)
    elif expected is None:
        assert not isinstance(answers[0], str), answers[0]
    else:
        assert answers[0] == expected


def test_every_event_has_an_outcome() -> None:
    assert set(EXPECTED) == {event.__name__ for event in cases.EVENTS}
