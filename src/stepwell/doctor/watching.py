"""Follows a journal that is still being written: new findings, and a line about the state of the run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from stepwell.doctor.reading import Reader
from stepwell.doctor.recorded import finding_of
from stepwell.doctor.summary import duration
from stepwell.findings import Finding, text

PAUSE = 0.5  # seconds between two looks at the file
QUIET = 60.0  # seconds without a record after which the state says so
EVERY = 10.0  # seconds between two lines about the state where the output is not a terminal


class Shown(Protocol):
    """Where the watcher writes."""

    def finding(self, step: int, finding: Finding) -> None: ...
    def state(self, line: str) -> None: ...


class Lines:
    """Prints findings in full, and the state as one line that is overwritten on a terminal.

    On another output the state is printed every 10 seconds, if it has changed.
    """

    def __init__(self, write: Callable[[str], object], terminal: bool, width: int = 78) -> None:
        self._write, self._terminal, self._width = write, terminal, width
        self._open, self._said, self._at = False, "", -EVERY

    def finding(self, step: int, finding: Finding) -> None:
        self._clear()
        self._write(text(finding) + "\n")

    def state(self, line: str) -> None:
        if self._terminal:
            self._clear()
            self._write(line[: self._width - 1])
            self._open = True
        elif line != self._said and time.monotonic() - self._at >= EVERY:
            self._said, self._at = line, time.monotonic()
            self._write(line + "\n")

    def end(self) -> None:
        """Remove the line about the state."""
        self._clear()

    def _clear(self) -> None:
        if self._open:
            self._write("\r\033[K")
        self._open = False


def watch(reader: Reader, shown: Shown, pause: float = PAUSE, rounds: int | None = None) -> None:
    """Show what is new until the run has ended, or for a number of looks at the file.

    Args:
        reader: the journal. It may be empty: the run has not started yet.
        shown: receives each finding once, and the state.
        pause: seconds between two looks. rounds: looks at the file; None: until the run has ended.

    Raises UsageError if the file becomes unreadable.
    """
    told: list[object] = []
    changed = time.monotonic()
    while True:
        if reader.more():
            changed = time.monotonic()
        for step, plain in reader.records.findings:
            if plain not in told:
                told.append(plain)
                finding = finding_of(plain)
                if finding is not None:
                    shown.finding(step, finding)
        if reader.records.ended:
            return
        shown.state(state(reader, time.monotonic() - changed))
        rounds = None if rounds is None else rounds - 1
        if rounds is not None and rounds <= 0:
            return
        time.sleep(pause)


def state(reader: Reader, still: float = 0.0) -> str:
    """The state in one line: the last update and its numbers. `still`: seconds without a new record."""
    if not reader.begun:
        return "waiting for the start of the run"
    steps = reader.records.steps
    parts = ["no step yet"]
    if steps:
        step = next(reversed(steps))
        record = steps[step]
        parts = [f"step {step:,}"]
        for word, name in (("loss", "loss"), ("grad_norm", "gradient norm"), ("scale", "scale")):
            value = record.get(word)
            if isinstance(value, (int, float, str)):  # "nan" is a str here
                parts.append(f"{name} {value if isinstance(value, str) else f'{value:.4g}'}")
        rate, seconds = _rate(steps), record.get("seconds")
        if rate is not None:
            parts.append(f"{rate:.3g} steps/s")
        if isinstance(seconds, (int, float)) and seconds:
            parts.append(duration(seconds))
    if still >= QUIET:
        parts.append(f"no new record for {duration(still)}")
    return ", ".join(parts)


def _rate(steps: dict[int, dict[str, object]]) -> float | None:
    """Updates per second over the last records."""
    recent: list[tuple[int, float]] = []
    for step in reversed(steps):
        seconds = steps[step].get("seconds")
        if not isinstance(seconds, (int, float)) or (recent and seconds > recent[-1][1]) or len(recent) == 50:
            break
        recent.append((step, seconds))
    if len(recent) < 2 or recent[0][1] <= recent[-1][1]:
        return None
    return (recent[0][0] - recent[-1][0]) / (recent[0][1] - recent[-1][1])
