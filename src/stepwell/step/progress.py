"""The progress of runs: how many updates have happened, with the newest update's outcome possibly pending."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

from stepwell.arguments import MOST
from stepwell.engine.reading import Reading
from stepwell.errors import UsageError, shown
from stepwell.step.accumulation import Shares
from stepwell.step.part import PutBack, copy_kept

_RUNS: weakref.WeakSet[Progress] = weakref.WeakSet()  # a GAN's two take turns on one batch


class Progress:
    """The progress of one run. The checkpoint stores how many updates were skipped.

    Attributes:
        shares: the accumulated micro-batches of the next update.
        number: how many updates have happened, as far as known.
        skipped: how many updates were skipped because a gradient was not finite, as far as known.
        pending: the outcome of the newest update, until its lines 8 and 9 are done.
    """

    def __init__(self, shares: Shares) -> None:
        self.shares = shares
        self.number = 0
        self.skipped = 0
        self.pending: Reading | None = None

    @property
    def begun(self) -> int:
        """The number of updates if the pending update happened."""
        return self.number + (self.pending is not None)

    def mark(self) -> tuple[int, int]:
        """Counts of micro-batches and updates: the pair changes with every loss."""
        return self.shares.number, self.begun + self.skipped

    def watch(self) -> None:
        """Include this run in `moved` from now on."""
        _RUNS.add(self)

    # As a part

    def state_dict(self) -> int:
        return self.skipped

    def check_state(self, state: Any) -> None:
        check_count("skipped", state)

    def load_state_dict(self, state: Any) -> None:
        self.skipped = state

    def kept(self) -> PutBack:
        return copy_kept(self)


def marks() -> dict[int, tuple[int, int]]:
    """The mark of each run, to tell later whether any run has received a loss."""
    return {id(one): one.mark() for one in list(_RUNS)}


def moved(since: Mapping[int, tuple[int, int]]) -> bool:
    """Whether any run has received a loss since `marks` returned these."""
    now = marks()
    return any(now.get(one, mark) != mark for one, mark in since.items())


def check_count(name: str, value: Any) -> None:
    """Raise UsageError for a number in a checkpoint that is not a count."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MOST:
        raise UsageError(f"Step: '{name}' is {shown(value)} in the checkpoint; it must be a whole number of at least 0")
