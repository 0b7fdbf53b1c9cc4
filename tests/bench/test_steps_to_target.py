"""Steps to the loss of tuned AdamW: what counts as the target, and who reaches it when."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

import steps_to_target
from stepwell.compare import Contender, Outcome, Plan, Result
from stepwell.compare.plan import Course
from stepwell.compare.scores import scores
from stepwell.errors import UsageError
from stepwell.optimizers import TABLE, find
from tests.bench.conftest import BENCH


def result(**losses: list[list[float]]) -> Result:
    """Of optimizers whose seeds had these losses after 0, 10, 20, ... steps."""
    contenders = tuple(Contender(name, 1e-3, 1e-1) for name in losses)
    plan = Plan("bytes", contenders, trials=1, seeds=2, steps=20)
    outcomes = [Outcome(name, "tune", 0, 1e-2, 0, "finished", final=1.0) for name in losses]
    outcomes += [
        Outcome(
            name, "seed", seed, 1e-2, seed + 1, "finished", final=metric[-1], metric=metric,
            steps=[10 * i for i in range(len(metric))], loss=[None] * len(metric), seconds=[0.1] * len(metric),
        )
        for name, curves in losses.items()
        for seed, metric in enumerate(curves)
    ]  # fmt: skip
    courses = tuple(Course((), (), (), (), True, 1e-2, {}) for _ in losses)
    rows = tuple(scores(plan, courses, outcomes, "min", None))
    return Result(plan, tuple(outcomes), rows, {}, {}, True, 0.0, Path(), courses=courses)


def test_the_target_is_what_every_seed_of_adamw_reaches() -> None:
    found = result(
        AdamW=[[5.0, 3.0, 2.0], [5.0, 2.1, 2.2]],
        Lion=[[5.0, 2.2, 2.1], [5.0, 2.0, 1.9]],
        SGD=[[5.0, 4.0, 3.0], [5.0, 3.0, 2.2]],
    )
    target = steps_to_target.target_of(found)
    assert target == 2.2
    table = steps_to_target.tabulated(found, target)
    rows = {row["optimizer"]: row for row in table.rows}
    assert list(rows) == ["Lion", "AdamW", "SGD"]
    assert rows["AdamW"]["steps"] == 15
    assert rows["Lion"]["steps"] == 10
    assert rows["Lion"]["sooner"] == 1.5
    assert rows["SGD"]["steps"] is None  # one seed of two never is there
    assert rows["SGD"]["reached"] == "1 of 2"
    assert [seed["steps to target"] for seed in rows["SGD"]["each seed"]] == [None, 20]


def test_runs_that_did_not_end_are_named() -> None:
    found = result(AdamW=[[5.0, 2.0], [5.0, 2.1]], Lion=[[5.0, 2.0]])
    lost = Outcome("Lion", "seed", 1, 1e-2, 2, "diverged", "loss or metric not finite by step 10")
    found = dataclasses.replace(found, outcomes=(*found.outcomes, lost))
    table = steps_to_target.tabulated(found, 2.1)
    assert table.notes == ["Lion, seed 2: diverged (loss or metric not finite by step 10)"]
    row = next(row for row in table.rows if row["optimizer"] == "Lion")
    assert row["reached"] == "1 of 2"
    assert row["steps"] is None


def test_without_adamw_there_is_no_target() -> None:
    found = result(AdamW=[[5.0, 3.0]], Lion=[[5.0, 3.0], [5.0, 3.0]])
    with pytest.raises(UsageError, match="AdamW finished 1 of 2 seeds"):
        steps_to_target.target_of(found)


def test_who_takes_part() -> None:
    kept, left_out = steps_to_target.names(None)
    assert sorted([*kept, *left_out]) == sorted(TABLE)
    assert all(find(name).facts.needs_closure for name in left_out)
    assert steps_to_target.names("lion, sgd")[0] == ["AdamW", "Lion", "SGD"]


@pytest.mark.slow
def test_the_command_runs(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    run = [sys.executable, BENCH / "steps_to_target.py", "--optimizers", "lion", "--trials", "2", "--seeds", "1"]
    run += ["--steps", "2", "--jobs", "2", "--out", tmp_path / "runs", "--json", file]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    figures = json.loads(file.read_text())
    assert {row["optimizer"] for row in figures["rows"]} == {"AdamW", "Lion"}
    assert all(len(row["trials"]) == 2 for row in figures["rows"])
    assert str(BENCH) not in file.read_text()
    assert "steps to a held-out loss of" in done.stdout
