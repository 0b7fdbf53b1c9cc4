"""A comparison that many machines share by a storage of Optuna. The folder is the local view.

There is no coordinator: a comparison is a function of its outcomes, so each process computes from the same outcomes
which trials are left, claims one of them, and writes its outcome.
"""

from __future__ import annotations

import hashlib
import json
import platform
import random
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from stepwell.compare.beats import EVERY, Beats, Watch
from stepwell.compare.claims import alone
from stepwell.compare.folder import FORMAT, Folder, facts_of
from stepwell.compare.outcome import Outcome
from stepwell.compare.patience import Patient, seconds_from
from stepwell.compare.plan import Plan, Trial, difference
from stepwell.compare.slots import CLAIM, Slot, Slots, ending, packed
from stepwell.compare.storage import open_storage
from stepwell.errors import UsageError, shown
from stepwell.terminal import say

FACTS = "stepwell"  # the attribute of the study
OFTEN = 0.4  # seconds between two reads at least
SELDOM = 5.0  # seconds between two reads at most, also after one that had to wait for the storage
COST = 20  # a read is repeated after this many times its own duration: 5 % of the time at most


class Shared(Folder):
    """The folder of a comparison whose trials and claims are in a storage. `url`: see `storage.KINDS`.

    The storage decides: what it has is written to `trials.jsonl`, and what was in there already is brought to it.

    Raises UsageError, one line, as Folder does, for a storage that cannot be opened, and for a study of other facts.
    """

    def __init__(self, path: Path, plan: Plan, url: str, direction: str) -> None:
        every = seconds_from("STEPWELL_HEARTBEAT", EVERY)
        self._opened = open_storage(url)
        try:
            super().__init__(path, plan)
            self._storage = Patient(self._opened, path)
            self._slots = Slots(f"--storage {shown(self._opened.name)}")
            self._watch = Watch()
            self._beats = Beats(self._opened.storage, every)
            self._held: dict[str, Slot] = {}
            self._machine = hashlib.sha256(platform.node().encode()).hexdigest()[:4]  # the host is not named
            self._stored: list[Outcome] = []  # that are still to be compared with the file
            self._local: Counter[str] = Counter()  # lines of the file
            self._counted = 0
            self._matched: Counter[str] = Counter()  # of these, known to be in the storage
            self._looked, self._pause = 0.0, OFTEN
            self._study = self._enter(plan, direction)
            with alone(self.path / ".storage.lock"):
                self._look(merge=False)
                brought = self._bring()
            self._look()
            done = len({one.id for one in super().outcomes() if not one.lost})
            say(f"storage {self._opened.name}: {done} trials are done"
                + (f", {brought} of them brought from {path}" if brought else ""))  # fmt: skip
        except BaseException:
            if hasattr(self, "_beats"):
                self._beats.close()
            self._opened.close()
            raise

    def outcomes(self) -> list[Outcome]:
        """The trials that ended, on whatever machine."""
        if time.monotonic() - self._looked >= self._pause:
            self._look()
        return super().outcomes()

    def append(self, outcome: Outcome) -> None:
        """Write an outcome to the file, then to the storage, and give its claim back."""
        outcome = replace(outcome, by=f"{outcome.by or 'a process'} on machine {self._machine}")
        self.extend([outcome])
        slot = self._held.get(outcome.id)
        if slot is not None:
            self._put(slot, outcome)
            self._release(outcome.id)
        super().give_back(outcome.id)

    def order(self, waiting: Sequence[Trial]) -> Sequence[Trial]:
        """While others run trials, processes choose at random: else all of them would claim the same one."""
        if self._slots.running.keys() <= {slot.row for slot in self._held.values()}:
            return waiting
        return random.sample(waiting, len(waiting))

    def claim(self, trial: str, about: Trial | None = None) -> bool:
        """Claim a trial for this process. False if another process runs it, on whatever machine."""
        assert about is not None
        if not super().claim(trial):
            return False
        taken = False
        try:
            taken = self._take(about)
        finally:
            if not taken:
                super().give_back(trial)
        return taken

    def give_back(self, trial: str) -> None:
        slot = self._release(trial)
        if slot is not None:
            self._end(slot, "PRUNED")
        super().give_back(trial)

    def close(self) -> None:
        """Give all claims back, and end the connections. A storage that does not answer is not waited for."""
        with suppress(Exception):
            for slot in self._held.values():
                self._opened.storage.set_trial_state_values(slot.row, _state("PRUNED"))
        self._held = {}
        self._beats.close()
        self._opened.close()
        super().close()

    def _enter(self, plan: Plan, direction: str) -> int:
        """Find or create the study. Returns Optuna's id of it."""
        from optuna.exceptions import DuplicatedStudyError
        from optuna.study import StudyDirection

        facts = json.loads(json.dumps({"format": FORMAT, **facts_of(plan)}))
        name = "stepwell " + hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        way = StudyDirection.MAXIMIZE if direction == "max" else StudyDirection.MINIMIZE
        studies = {one.study_name: one for one in self._storage.call("get_all_studies")}
        for other in studies.values():
            held = other.user_attrs.get(FACTS)
            if other.study_name != name and isinstance(held, dict) and held.get("task") == plan.task:
                said = _told(held, facts)
                if said:
                    say(f"storage {self._opened.name}: it has another comparison of {plan.task}, which this one "
                        f"does not join: {said}")  # fmt: skip
        try:
            study = studies[name]._study_id if name in studies else self._storage.call("create_new_study", [way], name)
        except DuplicatedStudyError:  # by another process, since
            study = self._storage.call("get_study_id_from_name", name)
        held = self._storage.call("get_study_user_attrs", study).get(FACTS)
        if held is None:
            self._storage.call("set_study_user_attr", study, FACTS, facts)
        elif held != facts:
            raise UsageError(
                f"--storage {shown(self._opened.name)}: its study {name!r} contains another run: {_told(held, facts)}; "
                "give another database or file, or delete the study"
            )
        return int(study)

    def _bring(self) -> int:
        """Bring the outcomes of the file to the storage that nobody there has or computes. Returns their number."""
        finished = {one.id: one for one in super().outcomes() if one.id and not one.lost}
        brought = 0
        for trial, outcome in finished.items():
            last = self._slots.last(trial)
            if last is not None and (last.is_open or (last.outcome is not None and not last.outcome.lost)):
                continue
            about = Trial(
                outcome.optimizer, outcome.phase, outcome.index, outcome.lr, outcome.seed, outcome.settings, trial
            )
            if self._take(about, merge=False):
                self._put(self._held[trial], outcome)
                self._release(trial)
                brought += 1
        return brought

    def _look(self, merge: bool = True) -> None:
        """Read what is new, and free the trials of processes that are dead."""
        began = time.monotonic()
        trials = self._storage.call("get_all_trials", self._study, deepcopy=False)
        self._stored += self._slots.read(trials)
        own = {slot.row for slot in self._held.values()}
        others = [slot for row, slot in self._slots.running.items() if row not in own]
        for slot in self._watch.stale(others, self._storage.troubles):
            self._end(slot, *ending(slot.outcome))  # it may have died after it wrote the outcome
        if merge and self._stored:
            self._merge()
        self._looked = time.monotonic()
        self._pause = min(max(OFTEN, COST * (self._looked - began)), SELDOM)

    def _merge(self) -> None:
        """Write the outcomes of the storage to the file that are not in it. Lines are compared by their text: the
        outcome of this process, and of another one with the same folder, is in the file before it is in the storage."""
        with alone(self.path / ".storage.lock"):
            lines = super().outcomes()
            if len(lines) < self._counted:  # somebody edited the file
                self._local, self._counted = Counter(), 0
            self._local.update(one.to_json() for one in lines[self._counted :])
            self._counted = len(lines)
            missing = []
            for outcome in self._stored:
                text = outcome.to_json()
                self._matched[text] += 1
                if self._matched[text] > self._local[text]:
                    missing.append(outcome)
                    self._local[text] += 1
            if missing:
                self.extend(missing)
                self._counted += len(missing)
            self._stored = []

    def _take(self, about: Trial, merge: bool = True) -> bool:
        """Claim a trial in the storage."""
        from optuna.trial import create_trial

        last = self._slots.last(about.id)
        if last is not None and last.is_open:
            return False
        token = uuid.uuid4().hex
        facts = {key: value for key, value in asdict(about).items() if key != "id"}
        claim = {
            "id": about.id, "attempt": self._slots.count(about.id), "token": token, "every": self._beats.every,
            "by": f"a process on machine {self._machine}", "trial": facts,
        }  # fmt: skip
        wanted = create_trial(state=_state("RUNNING"), user_attrs={CLAIM: claim})
        troubles = self._storage.troubles
        row = self._storage.call("create_new_trial", self._study, wanted)
        taken = self._slots.next_one(row, claim) if self._storage.troubles == troubles else None
        if taken is None:
            self._look(merge)
            for slot in self._slots.with_token(token):
                if self._slots.holds(slot):
                    taken = slot
                else:  # another process was before
                    self._end(slot, "FAIL")
        if taken is None:
            return False
        self._held[about.id] = taken
        self._beats.add(taken.row)
        return True

    def _put(self, slot: Slot, outcome: Outcome) -> None:
        """Write an outcome to the storage. If this process was taken for dead meanwhile, its outcome counts only if no
        other process has claimed the trial since."""
        from optuna.exceptions import UpdateFinishedTrialError

        try:
            for key, value in packed(outcome).items():
                self._storage.call("set_trial_user_attr", slot.row, key, value)
            self._end(slot, *ending(outcome))
        except UpdateFinishedTrialError:
            self._look(merge=False)
            if slot.outcome is not None and slot.outcome.lost and not outcome.lost:
                about = Trial(
                    outcome.optimizer, outcome.phase, outcome.index, outcome.lr, outcome.seed, outcome.settings,
                    outcome.id,
                )  # fmt: skip
                self._release(outcome.id)
                if self._take(about, merge=False):
                    self._put(self._held[outcome.id], outcome)

    def _end(self, slot: Slot, state: str, value: float | None = None) -> None:
        from optuna.exceptions import UpdateFinishedTrialError

        with suppress(UpdateFinishedTrialError):  # by another process, or by a call whose answer was lost
            self._storage.call("set_trial_state_values", slot.row, _state(state), None if value is None else [value])

    def _release(self, trial: str) -> Slot | None:
        slot = self._held.pop(trial, None)
        if slot is not None:
            self._beats.remove(slot.row)
        return slot


def _state(name: str) -> Any:
    from optuna.trial import TrialState

    return TrialState[name]


def _told(held: Any, facts: dict[str, Any]) -> str:
    """The first fact in which two comparisons differ."""
    differs = difference(held, facts) if isinstance(held, dict) else ("what it says of its task", held, facts)
    if differs is None:
        return ""
    name, before, now = differs
    said = {"task_digest": "the content of the task's file or data", "format": "the format of its trials"}
    return f"{said.get(name, name)} is {shown(before)} there and {shown(now)} here"
