"""Torch's own tests three times: with torch's classes, with ours in their place, with those that torch has not."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from compatibility.cases import run
from compatibility.stand_in import torch_names
from compatibility.verdicts import Verdict, judge


def verdicts(folder: Path, progress: Callable[[str], None] = lambda _: None) -> list[Verdict]:
    """A verdict on every case.

    Args:
        folder: the folder `test` of torch's sources.
        progress: is told what is run.
    """
    folder = folder.resolve()
    if not (folder / "test_optim.py").exists():
        raise SystemExit(f"{folder} has no test_optim.py; pass the folder `test` of torch's sources")
    progress("torch's tests, with torch's classes")
    reference = {case.name: case for case in run("torch", folder)}
    progress("torch's tests, with ours in their place")
    ours = judge(run("ours", folder), reference, only=torch_names())
    progress("torch's tests, with what torch has not")
    return ours + judge(run("more", folder), {})


def version_of(folder: Path) -> str:
    """What the sources say they are: by `version.txt` beside the tests, or the name of the folder above."""
    file = folder.resolve().parent / "version.txt"
    if file.exists():
        return file.read_text(encoding="utf-8").strip()
    found = re.search(r"\d+\.\d+(\.\d+)?", folder.resolve().parent.name)
    return found[0] if found else "(of unknown version)"
