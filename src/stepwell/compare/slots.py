"""How a comparison lies in a study of Optuna: which trial of the study is a claim, and which one is an outcome.

A trial of ours is a row of slots, one after the other: each slot is an attempt, and is one trial of the study. Its
attribute `claim` says of which trial, which attempt, and by whom. Of several trials of the study with the same attempt
the one with the lowest number holds: Optuna gives numbers under a lock, so all processes agree. The next slot can be
claimed when the last one has ended:

- with an outcome: the attribute `outcome`, and the state COMPLETE (finished), PRUNED or FAIL (diverged, crashed);
- lost: the state FAIL without an outcome; its process stopped renewing the attribute `beat`;
- given back: the state PRUNED without an outcome.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from stepwell.compare.outcome import Outcome, crashed
from stepwell.compare.plan import Trial
from stepwell.errors import UsageError

CLAIM, OUTCOME, BEAT = "claim", "outcome", "beat"
LARGEST = 60_000  # characters of an attribute: a TEXT column of MySQL takes 65,535 bytes
LOST = "its process was killed or lost its connection"


@dataclass
class Slot:
    """One attempt of a trial. `row`: Optuna's id of it. `every`: seconds between the beats of its process."""

    row: int
    id: str
    attempt: int
    token: str
    every: float
    is_open: bool = True
    is_running: bool = True  # in Optuna's eyes
    outcome: Outcome | None = None
    beat: Any = None


def packed(outcome: Outcome) -> dict[str, Any]:
    """The attributes of an outcome. The last one makes it valid."""
    text = outcome.to_json()
    if len(text) <= LARGEST:
        return {OUTCOME: json.loads(text)}
    data = base64.b64encode(zlib.compress(text.encode())).decode()
    pieces = [data[at : at + LARGEST] for at in range(0, len(data), LARGEST)]
    return {**{f"{OUTCOME} {n}": piece for n, piece in enumerate(pieces)}, OUTCOME: {"pieces": len(pieces)}}


def unpacked(attributes: Mapping[str, Any]) -> Outcome | None:
    """The outcome in attributes, or None if there is none. Raises ValueError for what is no outcome."""
    held = attributes.get(OUTCOME)
    if held is None:
        return None
    if isinstance(held, dict) and "pieces" in held:
        try:
            data = "".join(attributes[f"{OUTCOME} {n}"] for n in range(held["pieces"]))
            return Outcome.from_json(zlib.decompress(base64.b64decode(data)).decode())
        except (KeyError, TypeError, zlib.error) as error:
            raise ValueError(f"not an outcome: {error}") from None
    return Outcome.from_json(json.dumps(held))


def ending(outcome: Outcome | None) -> tuple[str, float | None]:
    """The state of Optuna, and the value, of a slot that ended."""
    state = {"finished": "COMPLETE", "pruned": "PRUNED"}.get(outcome.status, "FAIL") if outcome else "FAIL"
    return state, outcome.final if outcome else None


class Slots:
    """The slots of all trials, as far as the study was read."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._of: dict[str, list[Slot]] = {}
        self._rows: dict[int, Slot] = {}
        self._over: set[int] = set()  # rows that cannot change any more
        self._highest: int | None = None  # of the rows of the study: Optuna gives them under a lock, in ascending order
        self.running: dict[int, Slot] = {}  # by row, those without effect included

    def read(self, trials: Iterable[Any]) -> list[Outcome]:
        """Read what is new of Optuna's trials, in the order of their numbers. Returns the outcomes among it."""
        new = []
        for trial in trials:
            row = trial._trial_id
            self._highest = row if self._highest is None else max(row, self._highest)
            if row in self._over or CLAIM not in trial.user_attrs:  # a trial of somebody else
                continue
            try:
                outcome = self._take(row, trial)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                raise UsageError(
                    f"{self._where}: its trial number {trial.number} is damaged; delete this trial"
                ) from None
            if outcome is not None:
                new.append(outcome)
        return new

    def _take(self, row: int, trial: Any) -> Outcome | None:
        claim, state = trial.user_attrs[CLAIM], trial.state.name
        slot = self._rows.get(row)
        if slot is None:
            slot = self._add(row, claim)
        slot.beat = trial.user_attrs.get(BEAT)
        slot.is_running = state == "RUNNING"
        if slot.is_running:
            self.running[row] = slot
        else:
            self.running.pop(row, None)
            self._over.add(row)
        if not slot.is_open or not self.holds(slot):
            return None
        slot.outcome = unpacked(trial.user_attrs)
        if slot.outcome is None and state == "FAIL":
            about = Trial(**claim["trial"], id=slot.id)
            slot.outcome = crashed(about, LOST, lost=True, by=str(claim["by"]))
        slot.is_open = slot.is_running and slot.outcome is None
        return slot.outcome

    def _add(self, row: int, claim: Mapping[str, Any]) -> Slot:
        slot = self._rows[row] = Slot(row, claim["id"], claim["attempt"], claim["token"], float(claim["every"]))
        own = self._of.setdefault(slot.id, [])
        if slot.attempt == len(own):  # else another one was before it
            own.append(slot)
        return slot

    def next_one(self, row: int, claim: Mapping[str, Any]) -> Slot | None:
        """The slot of a claim of this process, if its row follows the last one that was read: then no other process can
        have claimed the trial meanwhile. None if that is not known."""
        if self._highest is None or row != self._highest + 1:
            return None
        self._highest = row
        slot = self.running[row] = self._add(row, claim)
        return slot

    def holds(self, slot: Slot) -> bool:
        """Whether the slot counts: no other trial of the study with the same attempt was before it."""
        own = self._of[slot.id]
        return slot.attempt < len(own) and own[slot.attempt] is slot

    def last(self, trial: str) -> Slot | None:
        own = self._of.get(trial)
        return own[-1] if own else None

    def count(self, trial: str) -> int:
        return len(self._of.get(trial, ()))

    def with_token(self, token: str) -> list[Slot]:
        """The slots of one call of claim: more than one if the answer of the storage was lost."""
        return [slot for slot in self.running.values() if slot.token == token]
