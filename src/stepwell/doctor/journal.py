"""The journal of a run: JSON lines on disk that survive a crash. Written here, read by `stepwell.doctor.reading`.

One object per line; every number that JSON cannot represent is written as "nan", "inf" or "-inf":

    {"kind": "start", "format": 1, "version": ..., "time": ..., "models": [...], "optimizers": [...], ...}
    {"kind": "step", "step": 10, "loss": 1.23, "lr": [0.001], "grad_norm": 0.8, "clipped": false, "seconds": 0.52}
    {"kind": "val", "step": 100, "value": 0.5}
    {"kind": "finding", "step": 120, "finding": {...}}
    {"kind": "end", "step": 400}

A sampled step also has "grad", "weight" and "update": one root mean square (or null) per name of "parameters".
"""

from __future__ import annotations

import atexit
import json
import math
import os
import time
import warnings
import weakref
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from stepwell import arguments
from stepwell.doctor.reading import is_journal, read
from stepwell.doctor.run import FORMAT, Run, collected
from stepwell.errors import UsageError, printable
from stepwell.findings import Finding, as_dict

__all__ = ["Journal", "Run", "line", "read", "strict"]

LINES = 50  # that may wait in memory for the disk
SECONDS = 1.0  # that a line may wait while the run makes steps
KEPT = 20_000  # records of steps that a journal without a file holds in memory


class Journal:
    """Writes the records of one run.

    A line reaches the disk within a second or 50 lines of a running training; a start, a validation, a finding and the
    end reach the disk immediately. So a process that is killed loses at most its last 50 steps.

    A file that already contains a journal is continued: the run was resumed. A failing disk never stops the training:
    the journal warns once and writes no more.

    Args:
        path: the file, which is created or continued; its folder must exist. None: the records stay in memory, at most
            20,000 steps of them, evenly spaced over the run.

    Raises UsageError, one line, for a file that is not a journal or cannot be written.

    >>> journal = Journal(None)
    >>> journal.start({"models": ["Net"], "parameters": ["weight"]})
    >>> journal.step({"step": 1, "loss": float("inf")})
    >>> journal.run().loss
    [inf]
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.path = None if path is None else arguments.path("Journal", "path", path)
        self._waiting: list[str] = []
        self._kept: list[dict[str, Any]] = []  # without a file
        self._kept_steps, self._every = 0, 1
        self._written = -math.inf  # when the file was last written
        self._begun = time.monotonic()
        self._file: int | None = None
        self._process = os.getpid()
        if self.path is not None:
            self._file = _opened(self.path)
            atexit.register(_close, weakref.ref(self))

    def start(self, facts: Mapping[str, Any]) -> None:
        """The run starts, or is resumed. `facts`: models, optimizers, parameters, shapes, torch, device."""
        from stepwell import __version__

        self._begun = time.monotonic()
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._add({"kind": "start", "format": FORMAT, "version": __version__, "time": now, **facts}, at_once=True)

    def step(self, record: Mapping[str, Any], at: float | None = None) -> None:
        """One update. `record`: step, and any of loss, lr, grad_norm, clipped, scale, grad, weight, update. `at`: when
        it was made, by time.monotonic(); now if None."""
        seconds = round((time.monotonic() if at is None else at) - self._begun, 3)
        self._add({"kind": "step", "seconds": seconds, **record}, at_once=False)

    def val(self, step: int, value: float) -> None:
        """A value of the validation after an update."""
        self._add({"kind": "val", "step": step, "value": value}, at_once=True)

    def finding(self, step: int, finding: Finding | Mapping[str, Any]) -> None:
        """A finding at an update."""
        plain = as_dict(finding) if isinstance(finding, Finding) else dict(finding)
        self._add({"kind": "finding", "step": step, "finding": plain}, at_once=True)

    def end(self, step: int) -> None:
        """The run is complete."""
        self._add({"kind": "end", "step": step}, at_once=True)

    def run(self) -> Run:
        """All that was written so far.

        Raises UsageError if the file is gone or damaged, or if there was no `start`.
        """
        if self.path is not None:
            self.flush()
            return read(self.path)
        return collected("this run", self._kept)

    def flush(self) -> None:
        """Write the waiting lines to the file."""
        if not self._waiting or self._file is None:
            return
        if os.getpid() != self._process:  # a fork, as a worker of a data loader: the lines are its parent's
            self._waiting.clear()
            return
        data = "".join(self._waiting).encode("ascii")
        self._waiting.clear()
        self._written = time.monotonic()
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError as error:
            self._release()
            said = f"the doctor's journal {printable(str(self.path))[:200]} ends here: {error.strerror or error}"
            warnings.warn(said, stacklevel=4)

    def close(self) -> None:
        """Write the waiting lines and close the file. Further records are not written."""
        self.flush()
        self._release()

    def _add(self, record: dict[str, Any], at_once: bool) -> None:
        if self.path is None:
            self._keep(record)
        elif self._file is not None:
            self._waiting.append(line(record))
            if at_once or len(self._waiting) >= LINES or time.monotonic() - self._written >= SECONDS:
                self.flush()

    def _keep(self, record: dict[str, Any]) -> None:
        """Keep a record in memory; when there are too many steps, every second one is dropped."""
        if record["kind"] == "step":
            if self._kept_steps % self._every == 0:
                self._kept.append(json.loads(line(record)))
            self._kept_steps += 1
            if self._kept_steps == KEPT * self._every:
                self._every *= 2
                steps = [one for one in self._kept if one["kind"] == "step"]
                gone = {id(one) for one in steps[1::2]}
                self._kept = [one for one in self._kept if id(one) not in gone]
        else:
            self._kept.append(json.loads(line(record)))

    def _release(self) -> None:
        if self._file is not None:
            os.close(self._file)
        self._file = None
        self._waiting.clear()

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        raise UsageError("a Journal writes to an open file and cannot be copied or pickled; make one per process")


def line(record: Mapping[str, Any]) -> str:
    """A record as one line of strict JSON, in ASCII.

    >>> line({"kind": "step", "step": 3, "loss": float("nan")})
    '{"kind":"step","step":3,"loss":"nan"}\\n'
    """
    try:
        return json.dumps(record, allow_nan=False, separators=(",", ":")) + "\n"
    except (TypeError, ValueError):  # a number that is not finite, a tensor, an array
        return json.dumps(strict(record), allow_nan=False, separators=(",", ":")) + "\n"


def strict(value: Any) -> Any:
    """The value in types of strict JSON; what has no equivalent becomes text.

    >>> strict({"lr": (0.1, float("inf"))})
    {'lr': [0.1, 'inf']}
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [strict(item) for item in value]
    flag = arguments.plain_flag(value)
    if isinstance(flag, bool):
        return flag
    number = arguments.plain_number(value)
    if isinstance(number, float) and not math.isfinite(number):
        return "nan" if math.isnan(number) else "inf" if number > 0 else "-inf"
    if number is None and hasattr(value, "tolist") and hasattr(value, "ndim"):
        return strict(value.tolist())
    return str(value) if number is None else number


def _opened(path: Path) -> int:
    """The file, ready for the next line. An incomplete last line (of a process that was killed) is cut off."""
    said = printable(str(path))[:200]
    if path.exists() and not path.is_file():
        raise UsageError(f"the journal {said} exists and is not a file; give another path")
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
        try:
            _ready(file, said)
        except BaseException:
            os.close(file)
            raise
    except OSError as error:
        raise UsageError(f"cannot write the journal {said}: {error.strerror or error}") from None
    return file


def _ready(file: int, said: str) -> None:
    with os.fdopen(os.dup(file), "rb") as stream:
        stream.seek(0)
        first = stream.readline()
        size = stream.seek(0, os.SEEK_END)
        if size and not is_journal(first):
            if b"\n" in first or not b'{"kind":"start"'.startswith(first[:15]):
                raise UsageError(f"{said} exists and is not a journal of the doctor; give another path")
            os.ftruncate(file, 0)  # killed while it wrote its first line
            return
        place, tail = size, b""
        while place and b"\n" not in tail:
            part = min(place, 65536)
            place -= part
            stream.seek(place)
            tail = stream.read(part) + tail
    torn = len(tail) - tail.rfind(b"\n") - 1
    if torn:
        os.ftruncate(file, size - torn)


def _close(journal: weakref.ref[Journal]) -> None:
    alive = journal()
    if alive is not None:
        alive.close()
