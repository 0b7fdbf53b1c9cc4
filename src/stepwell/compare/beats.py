"""Heartbeats: a process renews its claims, and the claims that nobody renews any more are seen by all others."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from stepwell.compare.slots import BEAT, Slot

EVERY = 10.0  # seconds between two beats
MISSED = 6  # beats after which a process is taken for dead


class Beats:
    """A thread that renews claims by their rows."""

    def __init__(self, storage: Any, every: float) -> None:
        self.every = every
        self._storage = storage
        self._rows: set[int] = set()
        self._count = 0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, row: int) -> None:
        self._rows.add(row)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True, name="stepwell-heartbeat")
            self._thread.start()

    def remove(self, row: int) -> None:
        self._rows.discard(row)

    def close(self) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join(self.every)

    def _work(self) -> None:
        while not self._ended.wait(self.every):
            self._count += 1
            for row in list(self._rows):
                with suppress(Exception):  # the storage is down, or the claim is lost: the main thread will see
                    self._storage.set_trial_user_attr(row, BEAT, self._count)


class Watch:
    """Sees which claims were not renewed for `MISSED` beats, by the clock of this process alone.

    Only time in which this process could read the storage counts: after an outage all claims have as long as at first.
    """

    def __init__(self) -> None:
        self._seen: dict[int, tuple[Any, float]] = {}
        self._looked = 0.0
        self._troubles = 0

    def stale(self, slots: Iterable[Slot], troubles: int, now: float | None = None) -> list[Slot]:
        """The slots that were not renewed. `troubles`: how often the storage has not answered so far."""
        now = time.monotonic() if now is None else now
        slots = list(slots)
        shortest = min((slot.every for slot in slots), default=EVERY)
        if troubles != self._troubles or now - self._looked > MISSED * shortest / 2:
            self._seen = {}
        self._looked, self._troubles = now, troubles
        seen = {}
        for slot in slots:
            beat, since = self._seen.get(slot.row, (None, now))
            seen[slot.row] = (slot.beat, since if slot.row in self._seen and beat == slot.beat else now)
        self._seen = seen
        return [slot for slot in slots if now - seen[slot.row][1] >= MISSED * slot.every]
