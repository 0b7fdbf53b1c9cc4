"""Torch's test files, run in a process of their own with one set of classes; a line per case.

`python -m compatibility.cases CLASSES FOLDER OUT` is that process: torch's tests change global settings and seeds.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
import unittest
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BENCH = Path(__file__).parents[1]
LONGEST = 300


@dataclass(frozen=True)
class Case:
    """One case of torch's tests, and how it ended."""

    name: str  # TestOptimRenewedCPU.test_errors_Adam_cpu_float32
    outcome: str  # passed, failed, skipped
    why: str = ""


class _Lines(unittest.TestResult):
    """Writes how each case ended as soon as it has: what killed the process stands after the last line."""

    def __init__(self, file: Any) -> None:
        super().__init__()
        self.file = file

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self._ends: tuple[str, str] = ("passed", "")
        self._write(test, "began", "")

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        self._write(test, *self._ends)

    def addError(self, test: Any, error: Any) -> None:
        self._ends = ("failed", f"{error[0].__name__}: {error[1]}")
        if not isinstance(test, unittest.TestCase) or not hasattr(
            test, "_testMethodName"
        ):  # a file or class as a whole
            self._write(test, *self._ends)

    def addFailure(self, test: Any, error: Any) -> None:
        self._ends = ("failed", f"{error[0].__name__}: {error[1]}")

    def addSkip(self, test: Any, reason: str) -> None:
        self._ends = ("skipped", reason)

    def addSubTest(self, test: Any, subtest: Any, error: Any) -> None:
        if error is not None and self._ends[0] == "passed":
            self._ends = ("failed", f"{error[0].__name__}: {error[1]}")

    def _write(self, test: Any, outcome: str, why: str) -> None:
        name = ".".join(test.id().split(".")[-2:])
        said = " ".join(why.split()).partition(" To execute this test")[0]  # what follows is how torch's authors run it
        print(json.dumps([name, outcome, said[:LONGEST]]), file=self.file, flush=True)


def run(classes: str, folder: Path, only: str | None = None) -> list[Case]:
    """All cases of torch's `test_optim.py` in `folder` with these classes (see `stand_in.put_in`)."""
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "cases"
        path = [str(BENCH), str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        done = subprocess.run(
            [sys.executable, "-m", "compatibility.cases", classes, str(folder), str(out), *([only] if only else [])],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTORCH_TESTING_DEVICE_ONLY_FOR": "cpu"},
            cwd=folder,
            capture_output=True,
            text=True,
        )
        lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    if not lines:
        raise RuntimeError(f"torch's tests did not begin with {folder}: {done.stderr.strip().splitlines()[-1:]}")
    ends = {name: Case(name, outcome, why) for name, outcome, why in lines if outcome != "began"}
    if lines[-1][1] == "began":
        name = lines[-1][0]
        ends[name] = Case(name, "failed", f"the process ended with {done.returncode}; later cases did not run")
    return list(ends.values())


def main(classes: str, folder: str, out: str, only: str | None = None) -> None:
    from compatibility.stand_in import put_in

    put_in(classes)
    sys.argv = sys.argv[:1]  # torch's tests read the command line
    warnings.simplefilter("ignore")
    import test_optim  # type: ignore[import-not-found]  # in the folder that the user names

    loader = unittest.TestLoader()
    suite = loader.loadTestsFromModule(test_optim)
    with open(out, "w", encoding="utf-8") as file:
        sys.stdout = io.StringIO()
        for test in _flat(suite):
            classic = not type(test).__name__.startswith("TestOptimRenewed")
            if (classic and classes == "more") or (only is not None and only not in test.id()):
                continue
            unittest.TestSuite([test]).run(_Lines(file))


def _flat(suite: Any) -> list[unittest.TestCase]:
    if isinstance(suite, unittest.TestSuite):
        return [test for one in suite for test in _flat(one)]
    return [suite]


if __name__ == "__main__":
    main(*sys.argv[1:])
