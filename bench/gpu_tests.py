"""The tests marked `gpu`, each file in a process, with a limit that needs no plugin of pytest."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = ("-c", "bench/gpu.ini", "--rootdir", ".", "-p", "no:cacheprovider")
OPTIONS = ("-v", "-m", "gpu", "--tb=short", "-rs", "--color=no")
LEAST, MOST = 10, 60  # seconds: with fewer left nothing is started; no process takes more
NO_TESTS = 5  # pytest's exit code
STARTED = re.compile(r"^(tests/\S+::.+?) (PASSED|FAILED|SKIPPED|ERROR|XFAIL|XPASS)?(?:\s|$)")
BAD = ("failed", "error", "cut off", "did not start")


@dataclass
class Outcomes:
    """What happened to each test, and what is to be said about the whole."""

    tests: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        return any(outcome in BAD for outcome in self.tests.values())

    def text(self) -> str:
        """How many of each, then the tests that did not pass."""
        counts = {outcome: list(self.tests.values()).count(outcome) for outcome in sorted(set(self.tests.values()))}
        words = ", ".join(f"{count} {outcome}" for outcome, count in counts.items()) or "no outcome"
        lines = [f"tests marked gpu: {words} in {self.seconds:.0f} s"]
        lines += [f"  {outcome}: {name}" for name, outcome in self.tests.items() if outcome in BAD]
        return "\n".join(lines + [f"  {note}" for note in self.notes])

    def to_json(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "tests": self.tests, "notes": self.notes}


def files() -> list[str]:
    """The files with tests marked gpu, from their text: others may need packages that are missing here."""
    found = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    # This bench is tested in a file that names the mark, too.
    return [path.relative_to(ROOT).as_posix() for path in found if "bench" not in path.relative_to(ROOT).parts]


def run(log: Path, seconds: float) -> Iterator[Outcomes]:
    """Run all files for at most so many seconds; what is known after each. All that pytest says is in `log`."""
    outcomes, began = Outcomes(), time.monotonic()

    def left() -> float:
        return seconds - (time.monotonic() - began)

    log.write_text("")
    for file in files():
        for note in _whole_file(file, outcomes.tests, log, left):
            outcomes.notes.append(f"{file}: {note}")
        outcomes.seconds = time.monotonic() - began
        yield outcomes
    yield from _again(outcomes, log, left)
    outcomes.seconds = time.monotonic() - began
    yield outcomes


def _whole_file(file: str, tests: dict[str, str], log: Path, left: Callable[[], float]) -> Iterator[str]:
    """Fill `tests` with the outcomes of a file; notes. After a test that hangs or ends the process, the rest is run."""
    done: dict[str, str] = {}
    while left() >= LEAST:
        known = [word for name in done for word in ("--deselect", name)]
        said, code = _pytest([file, *known], log, min(left(), MOST))
        found = read(said)
        done |= found
        tests |= found
        if code in (0, 1) or (code == NO_TESTS and done):
            return
        yield "stopped, it took too long" if code is None else f"pytest ended with code {code}: {_last_line(said)}"
        if not found:
            tests[file] = "did not start"
            return
    yield "not all of it was run, the time for tests is over"


def _again(outcomes: Outcomes, log: Path, left: Callable[[], float]) -> Iterator[Outcomes]:
    """Each failed test in a process alone: after an illegal access all later tests of a process fail."""
    for name in [name for name, outcome in outcomes.tests.items() if outcome in ("failed", "error")]:
        if left() < LEAST:
            outcomes.notes.append("not all failed tests were run again alone: the time for tests is over")
            return
        said, code = _pytest([name], log, left())
        words = "passes" if code == 0 else "is stopped" if code is None else f"fails, too: {_last_line(said)}"
        outcomes.notes.append(f"alone, {name} {words}")
        yield outcomes


def read(said: str) -> dict[str, str]:
    """The outcome of each test, from what `pytest -v` says as it goes; a test without one was cut off."""
    found = {}
    for line in said.splitlines():
        match = STARTED.match(line + " ")
        if match:
            found[match[1].split(" <- ")[0].strip()] = (match[2] or "cut off").lower()
    return found


def _pytest(what: list[str], log: Path, seconds: float) -> tuple[str, int | None]:
    """What pytest says about files or tests, and its exit code; None if it was stopped."""
    command = [sys.executable, "-m", "pytest", *SETTINGS, *OPTIONS, *what]
    with log.open("a") as file:
        file.write(f"$ pytest {' '.join(what)}\n")
        file.flush()
        start = log.stat().st_size
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=_environment(), start_new_session=True
        )
        try:
            code: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)
    return log.read_bytes()[start:].decode(errors="replace"), code


def _environment() -> dict[str, str]:
    """Without options of pytest that somebody set for other runs."""
    return {key: value for key, value in os.environ.items() if key != "PYTEST_ADDOPTS"}


def _last_line(said: str) -> str:
    """The line that says what was wrong: pytest's first `E` line, or its last line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    wrong = [line[1:].strip() for line in lines if line.startswith("E ")]
    return (wrong or lines[-1:] or [""])[0]
