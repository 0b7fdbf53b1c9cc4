"""How far runs have come: how many updates have happened, and whether the newest one has is not known yet."""

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
    """How far one run has come. As a part of checkpoints, how many updates were skipped.

    Attributes:
        shares: the micro-batches of the next update that are in.
        number: of the updates that have happened, as far as is known.
        skipped: how many were skipped because a gradient was not finite, as far as is known.
        pending: the outcome of the newest update, until lines 8 and 9 of it are done.
    """

    def __init__(self, shares: Shares) -> None:
        self.shares = shares
        self.number = 0
        self.skipped = 0
        self.pending: Reading | None = None

    @property
    def begun(self) -> int:
        """How many updates have happened at most: the pending one included."""
        return self.number + (self.pending is not None)

    def mark(self) -> tuple[int, int]:
        """A number of micro-batches and one of updates: another pair after every loss that was taken in."""
        return self.shares.number, self.begun + self.skipped

    def watch(self) -> None:
        """This run counts for `moved` from now on."""
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
    """How far each run is, so that one can see whether any has taken in a loss since."""
    return {id(one): one.mark() for one in list(_RUNS)}


def moved(since: Mapping[int, tuple[int, int]]) -> bool:
    """Whether a run has taken in a loss since `marks` gave this."""
    now = marks()
    return any(now.get(one, mark) != mark for one, mark in since.items())


def check_count(name: str, value: Any) -> None:
    """Raise UsageError for a number of a checkpoint that counts nothing."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MOST:
        raise UsageError(f"Step: '{name}' is {shown(value)} in the checkpoint; it must be a whole number from 0 on")
