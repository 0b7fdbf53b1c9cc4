"""Processes that share a folder, and processes that are killed: no trial is lost, none counts twice."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stepwell.compare import Result, compare

SETTINGS: dict[str, Any] = {"trials": 6, "seeds": 2, "lr_ranges": {"sgd": (1e-3, 3.0), "lion": (1e-3, 1.0)}}
COMMAND = ["--optimizers", "sgd,lion", "--trials", "6", "--seeds", "2", "--lr-range", "sgd=1e-3:3", "--lr-range",
           "lion=1e-3:1", "--jobs", "1", "--threads", "1", "-q", "--json"]  # fmt: skip


def started(task: str, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "stepwell.cli", "compare", task, "--out", str(out), *COMMAND]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)


def trials(out: Path) -> list[dict[str, Any]]:
    path = out / "trials.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(result: Result) -> list[Any]:
    return [dataclasses.replace(one, seconds=[], threads=0, by="") for one in result.outcomes]


@pytest.mark.slow
def test_two_commands_on_one_folder_share_its_trials(tmp_path: Path, task_file: Callable[[str], str]) -> None:
    task, out = task_file("slow"), tmp_path / "run"
    both = [started(task, out) for _ in range(2)]
    for process in both:
        assert process.wait(120) == 0, process.stderr.read().decode() if process.stderr else ""
        assert process.stderr is not None
        process.stderr.close()
    lines = trials(out)
    assert max(Counter(line["id"] for line in lines).values()) == 1  # nothing is run twice
    assert len({line["by"] for line in lines}) == 2  # and both have run some
    straight = compare(task, ["sgd", "lion"], jobs=1, out=tmp_path / "straight", **SETTINGS)
    shared = compare(task, ["sgd", "lion"], jobs=1, out=out, **SETTINGS)
    assert len(lines) == len(straight.outcomes) == 16
    assert table(shared) == table(straight)
    assert not (out / "claims").exists()


@pytest.mark.slow
def test_killed_at_any_moment_and_run_again_it_is_the_same_table(
    tmp_path: Path, task_file: Callable[[str], str]
) -> None:
    task, out, chance = task_file("slow"), tmp_path / "run", random.Random(3)
    straight = compare(task, ["sgd", "lion"], jobs=1, out=tmp_path / "straight", **SETTINGS)
    for _ in range(3):
        process = started(task, out)
        before = len(trials(out))
        limit = time.monotonic() + 60
        while len(trials(out)) == before and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.02)
        time.sleep(chance.uniform(0.0, 0.4))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
    assert 3 <= len(trials(out)) < 16
    last = compare(task, ["sgd", "lion"], jobs=1, out=out, **SETTINGS)
    assert last.complete
    assert table(last) == table(straight)
    assert max(Counter(line["id"] for line in trials(out)).values()) == 1


@pytest.mark.slow
def test_a_worker_that_is_killed_loses_no_trial(tmp_path: Path, task_file: Callable[[str], str]) -> None:
    task, out = task_file("slow"), tmp_path / "run"
    process = started(task, out)
    limit = time.monotonic() + 60
    while len(trials(out)) < 2 and time.monotonic() < limit:
        time.sleep(0.02)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    lines = {int(line["by"].split()[1]) for line in trials(out)}
    victim = next(int(one) for one in workers if int(one) in lines)
    time.sleep(0.1)
    os.kill(victim, signal.SIGKILL)
    assert process.wait(120) == 0
    assert process.stderr is not None
    process.stderr.close()
    lost = [line for line in trials(out) if line["lost"]]
    assert len(lost) == 1
    assert "killed by SIGKILL" in lost[0]["error"]
    straight = compare(task, ["sgd", "lion"], jobs=1, out=tmp_path / "straight", **SETTINGS)
    last = compare(task, ["sgd", "lion"], jobs=1, out=out, **SETTINGS)
    assert table(last) == table(straight)
