"""The folder of a comparison: its task (`run.json`), its finished trials (`trials.jsonl`), and the results.

Every result is written to disk immediately, so a run can be stopped at any time and resumed by the same command.
A folder grows: another command on the same task, with more optimizers, trials or seeds, uses every trial that is there
already.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stepwell.compare.claims import Claims, alone
from stepwell.compare.outcome import Outcome
from stepwell.compare.plan import Plan, Trial, difference
from stepwell.errors import UsageError, printable, shown
from stepwell.files import write_whole

FORMAT = 2  # of run.json and trials.jsonl; raised when an old folder could not be continued
LOCK = ".lock"  # held while a process reads or writes trials.jsonl
ATTEMPTS = 3  # of a trial whose process dies


class Folder:
    """The folder of one comparison, opened or created. Several processes may have it open at the same time.

    Raises UsageError, one line, if the folder contains a run of another task (with the first fact that differs and what
    to do), contains other files, or cannot be written.
    """

    def __init__(self, path: Path, plan: Plan) -> None:
        self.path = path
        self._trials = path / "trials.jsonl"
        self._claims = Claims(path / "claims")
        self._read = 0  # bytes of trials.jsonl that were read
        self._lines = 0
        self._seen: list[Outcome] = []
        wanted = {"format": FORMAT, **facts_of(plan), "plan": json.loads(json.dumps(asdict(plan), default=str))}
        settings = path / "run.json"
        try:
            path.mkdir(parents=True, exist_ok=True)
            for file in (settings, self._trials):  # a pipe would be waited for without end
                if file.exists() and not file.is_file():
                    raise UsageError(f"{file} is not a file; give another --out, or delete {file}")
            if not settings.exists() and any(one.name != LOCK for one in path.iterdir()):
                raise UsageError(f"{path} is not empty and contains no comparison; give another --out")
            with alone(path / LOCK):
                if settings.exists() and self._trials.exists():
                    _same_task(path, settings, wanted)
                write_whole(settings, json.dumps(wanted, indent=2) + "\n")
        except OSError as error:
            raise UsageError(f"cannot write to {printable(str(path))[:200]}: {error.strerror or error}") from None

    def outcomes(self) -> list[Outcome]:
        """The trials that ended, in that order, those of other processes included. An incomplete last line (after a
        power failure) is removed from the file.

        Raises UsageError if an earlier line is not an outcome, because the file was edited.
        """
        if not self._trials.exists():
            return []
        with alone(self.path / LOCK):
            size = self._trials.stat().st_size
            if size < self._read:  # somebody edited it
                self._read, self._lines, self._seen = 0, 0, []
            if size == self._read:
                return list(self._seen)
            with self._trials.open("rb+") as file:
                file.seek(self._read)
                data = file.read()
                whole, _, torn = data.rpartition(b"\n")
                if torn:
                    file.truncate(self._read + len(data) - len(torn))
        for line in whole.splitlines():
            self._lines += 1
            try:
                self._seen.append(Outcome.from_json(line.decode()))
            except (ValueError, RecursionError):
                number = self._lines
                self._read, self._lines, self._seen = 0, 0, []
                raise UsageError(
                    f"{self._trials}, line {number} is damaged; delete this line to run its trial again"
                ) from None
        self._read += len(data) - len(torn)
        return list(self._seen)

    def append(self, outcome: Outcome) -> None:
        """Write one outcome, wait until it is on disk, and give its claim back. Raises UsageError if it cannot be
        written."""
        self.extend([outcome])
        self._claims.give_back(outcome.id)

    def extend(self, outcomes: Sequence[Outcome]) -> None:
        """Write outcomes, and wait until they are on disk. Raises UsageError if they cannot be written."""
        try:
            with alone(self.path / LOCK), self._trials.open("ab") as file:
                file.write(b"".join(outcome.to_json().encode() + b"\n" for outcome in outcomes))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UsageError(f"cannot write {self._trials}: {error.strerror or error}") from None

    def order(self, waiting: Sequence[Trial]) -> Sequence[Trial]:
        """The order in which to claim trials."""
        return waiting

    def claim(self, trial: str, about: Trial | None = None) -> bool:
        """Claim a trial for this process, by its id. False if another process runs it. `about`: the trial, which others
        are told of where they can see it (see `Shared`)."""
        try:
            return self._claims.take(trial)
        except OSError as error:
            raise UsageError(f"cannot write to {self._claims.folder}: {error.strerror or error}") from None

    def give_back(self, trial: str) -> None:
        """End a claim without an outcome."""
        self._claims.give_back(trial)

    def close(self) -> None:
        """Give all claims back."""
        self._claims.close()

    def write(self, name: str, content: str) -> Path:
        """Write a file of the folder atomically. Returns its path."""
        return write_whole(self.path / name, content)


def facts_of(plan: Plan) -> dict[str, Any]:
    """What all trials of a folder share. All else may differ from command to command."""
    return {"task": plan.task, "task_digest": plan.task_digest, "steps": plan.steps, "device": plan.device}


def _same_task(path: Path, settings: Path, wanted: dict[str, Any]) -> None:
    try:
        held = json.loads(settings.read_text())
        if not isinstance(held, dict) or "format" not in held:
            raise ValueError("no run")
        differs = difference({key: held.get(key) for key in wanted if key != "plan"},
                             {key: value for key, value in wanted.items() if key != "plan"})  # fmt: skip
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):  # somebody edited it
        raise UsageError(f"{settings} is damaged; give another --out, or delete {path}") from None
    if differs is not None:
        name, before, now = differs
        said = {"task_digest": "the content of the task's file or data", "format": "the format of its files"}
        raise UsageError(
            f"{path} contains another run: {said.get(name, name)} is {shown(before)} there and {shown(now)} here; "
            f"give another --out, or delete {path}"
        )
