"""The outcomes of a comparison by the ids of their trials, and which of them are to be run again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from stepwell.compare.folder import ATTEMPTS
from stepwell.compare.outcome import Outcome


class Book:
    """What is done.

    A trial whose process died (killed, out of memory) runs again, `ATTEMPTS` times in all, and once more for each later
    call. With `retry`, trials that ended in an exception before this call run again once.
    """

    def __init__(self, outcomes: Sequence[Outcome], retry: bool = False) -> None:
        self.done: dict[str, Outcome] = {}
        died = Counter(one.id for one in outcomes if one.lost)
        self._most = {name: max(ATTEMPTS, count + 1) for name, count in died.items()}
        self._before = len(outcomes) if retry else 0
        self._seen = 0
        self._died: Counter[str] = Counter()
        self.read(outcomes)

    def read(self, outcomes: Sequence[Outcome]) -> None:
        """`outcomes`: all so far, in the order in which they ended."""
        for number in range(self._seen, len(outcomes)):
            one = outcomes[number]
            if one.lost:
                self._died[one.id] += 1
            again = one.lost and self._died[one.id] < self._most.get(one.id, ATTEMPTS)
            again = again or (number < self._before and one.status == "crashed" and not one.lost)
            if again:
                self.done.pop(one.id, None)
            else:
                self.done[one.id] = one
        self._seen = len(outcomes)
