"""The folder of a comparison: its settings (`run.json`), its finished trials (`trials.jsonl`), and the results.

Every result is written to disk immediately, so a run can be stopped at any time and resumed by the same command.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stepwell.compare.outcome import Outcome
from stepwell.compare.plan import Plan, difference
from stepwell.errors import UsageError, printable, shown
from stepwell.files import write_whole

FORMAT = 1  # of run.json and trials.jsonl; raised when an old folder could not be continued


class Folder:
    """The folder of one comparison, opened or created.

    A run that ended before its first trial (because of a mistyped option) is replaced.

    Raises UsageError, one line, if the folder contains another run (with the first setting that differs and what to
    do), contains other files, or cannot be written.
    """

    def __init__(self, path: Path, plan: Plan) -> None:
        self.path = path
        self._trials = path / "trials.jsonl"
        wanted = {"format": FORMAT, **json.loads(json.dumps(asdict(plan)))}
        settings = path / "run.json"
        try:
            path.mkdir(parents=True, exist_ok=True)
            for file in (settings, self._trials):  # a pipe would be waited for without end
                if file.exists() and not file.is_file():
                    raise UsageError(f"{file} is not a file; give another --out, or delete {file}")
            if settings.exists() and self._trials.exists():
                _same_run(path, settings, wanted)
            elif not settings.exists() and any(path.iterdir()):
                raise UsageError(f"{path} is not empty and contains no comparison; give another --out")
            else:
                write_whole(settings, json.dumps(wanted, indent=2) + "\n")
        except OSError as error:
            raise UsageError(f"cannot write to {printable(str(path))[:200]}: {error.strerror or error}") from None
        self._known = {(c.name, phase): count for c in plan.contenders
                       for phase, count in (("tune", plan.trials), ("seed", plan.seeds))}  # fmt: skip

    def outcomes(self) -> list[Outcome]:
        """The finished trials in their order. An incomplete last line (after a power failure) is removed from the file.

        Raises UsageError if an earlier line is not an outcome of this plan, because the file was edited.
        """
        if not self._trials.exists():
            return []
        data = self._trials.read_bytes()
        whole, _, torn = data.rpartition(b"\n")
        if torn:
            with self._trials.open("rb+") as file:
                file.truncate(len(data) - len(torn))
        done: dict[str, Outcome] = {}
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                outcome = Outcome.from_json(line.decode())
                if not outcome.index < self._known.get((outcome.optimizer, outcome.phase), 0):
                    raise ValueError("of another plan")
            except (ValueError, RecursionError):
                raise UsageError(
                    f"{self._trials}, line {number} is damaged; delete this line to run its trial again"
                ) from None
            done[outcome.key] = outcome
        return list(done.values())

    def append(self, outcome: Outcome) -> None:
        """Write one outcome and wait until it is on disk. Raises UsageError if it cannot be written."""
        try:
            with self._trials.open("ab") as file:
                file.write(outcome.to_json().encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UsageError(f"cannot write {self._trials}: {error.strerror or error}") from None

    def write(self, name: str, content: str) -> Path:
        """Write a file of the folder atomically. Returns its path."""
        return write_whole(self.path / name, content)


def _same_run(path: Path, settings: Path, wanted: dict[str, Any]) -> None:
    try:
        held = json.loads(settings.read_text())
        differs = difference(_by_name(held), _by_name(wanted))
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):  # somebody edited it
        raise UsageError(f"{settings} is damaged; give another --out, or delete {path}") from None
    if differs is not None:
        name, before, now = differs
        raise UsageError(
            f"{path} contains another run: {shown(name)[1:-1]} is {shown(before)} there and {shown(now)} here; "
            f"repeat that command to resume it, give another --out, or delete {path}"
        )


def _by_name(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings, with the optimizers first as names, then one by one, for readable differences."""
    contenders = settings.get("contenders") or []
    flat = {key: value for key, value in settings.items() if key != "contenders"}
    flat["optimizers"] = ",".join(c["name"] for c in contenders)
    return {**flat, **{c["name"]: {key: c[key] for key in c if key != "name"} for c in contenders}}
