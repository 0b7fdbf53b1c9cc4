"""Commands and functions as tasks: their places, their metric, and every end they can come to."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from stepwell.compare import compare
from stepwell.compare.function import Function, Run
from stepwell.compare.plan import Contender, Trial
from stepwell.compare.script import Script, places
from stepwell.errors import UsageError

SCRIPT = """
import argparse, json, math, sys, time
p = argparse.ArgumentParser()
p.add_argument("--lr", type=float); p.add_argument("--wd", type=float, default=0.0)
p.add_argument("--seed", type=int, default=0); p.add_argument("--optimizer", default="sgd")
p.add_argument("--out"); p.add_argument("--fault", default="")
a = p.parse_args()
best = {"sgd": 0.1, "lion": 1e-3}.get(a.optimizer, 0.01)
score = 1.0 - 0.1 * math.log10(a.lr / best) ** 2 - 0.1 * a.wd - 0.001 * a.seed
if a.fault == "raises":
    raise RuntimeError("no such data")
if a.fault == "killed":
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)
if a.fault == "nan":
    score = float("nan")
if a.fault == "sleeps":
    time.sleep(60)
if a.out:
    json.dump({"val": {"accuracy": [0.1, score]}, "name": "x"}, open(a.out, "w"))
print("training done")
print(f"epoch 3 of 3, accuracy: {score}")
"""
TRIAL = Trial("SGD", "tune", 0, 0.1, 0, id="abc")
SGD = Contender("SGD", 1e-3, 1.0, {"momentum": 0.9, "weight_decay": 0.5})


@pytest.fixture
def script(tmp_path: Path) -> str:
    (tmp_path / "train.py").write_text(SCRIPT)
    return f"{sys.executable} {tmp_path / 'train.py'} --lr {{lr}} --seed {{seed}} --optimizer {{optimizer}}"


def test_places_are_filled_with_the_values_of_the_trial() -> None:
    found = places(SGD, TRIAL, 7)
    assert (found["lr"], found["seed"], found["optimizer"], found["trial"]) == (0.1, 0, "sgd", "abc")
    assert (found["weight_decay"], found["momentum"], found["steps"], found["warmup"]) == (0.5, 0.9, 7, 0.05)
    tuned = Trial("AdamW", "tune", 0, 0.1, 0, {"beta1": 0.8, "warmup": 0.2}, "abc")
    found = places(Contender("AdamW", 1e-3, 1.0), tuned, 7)
    assert (found["beta1"], found["beta2"], found["warmup"]) == (0.8, 0.999, 0.2)


def test_the_metric_is_the_last_number_of_the_last_line_or_in_a_file(script: str, tmp_path: Path) -> None:
    one = Script(script + " --wd {weight_decay}", "max", output=str(tmp_path / "output")).run(SGD, TRIAL, 1, 1)
    assert (one.status, one.final) == ("finished", pytest.approx(0.95))
    assert "training done" in (tmp_path / "output" / "abc.log").read_text()
    file = tmp_path / "{trial}.json"
    out = Script(f"{script} --out {file}", "max", str(file), "val.accuracy").run(SGD, TRIAL, 1, 1)
    assert (out.final, out.metric, out.steps) == (pytest.approx(1.0), [0.1, 1.0], [1, 2])


@pytest.mark.parametrize(
    ("fault", "status", "error", "lost"),
    [
        ("raises", "crashed", "exit code 1: RuntimeError: no such data", False),
        ("killed", "crashed", "killed by SIGKILL", True),
        ("nan", "diverged", "the metric is nan", False),
    ],
)
def test_every_end_of_a_command(script: str, fault: str, status: str, error: str, lost: bool) -> None:
    one = Script(f"{script} --fault {fault}", "max").run(SGD, TRIAL, 1, 1)
    assert (one.status, one.error, one.lost) == (status, error, lost)


@pytest.mark.parametrize(
    ("key", "error"),
    [("val.loss", "has no val.loss; it has accuracy"), ("", "has 0 numbers: say which one by --metric"),
     ("name", "name is 'x'; it must be a number")],
)  # fmt: skip
def test_a_file_without_the_metric_says_what_it_has(script: str, tmp_path: Path, key: str, error: str) -> None:
    one = Script(f"{script} --out {tmp_path / 'm.json'}", "max", str(tmp_path / "m.json"), key).run(SGD, TRIAL, 1, 1)
    assert one.status == "crashed"
    assert error in one.error
    (tmp_path / "none.json").write_text("0.99")  # of an earlier run
    missing = Script(script, "max", str(tmp_path / "none.json")).run(SGD, TRIAL, 1, 1)
    assert "the script wrote no" in missing.error
    assert "cannot run" in Script("no-such-program-here {lr}", "max").run(SGD, TRIAL, 1, 1).error


@pytest.mark.parametrize(
    ("command", "given", "message"),
    [
        ("python t.py {x}", {}, "the command has {x}, which SGD does not have; it may have {lr}"),
        ("python t.py {seed}", {}, "the command has no {lr}"),
        ("python t.py {lr} {seed}", {"optimizers": ["sgd", "lion"]}, "the command has no {optimizer}"),
        ("python t.py {lr}", {}, "the command has no {seed}, so that its 3 final runs would be the same"),
        ("python t.py {lr} {seed}", {"tune": ["decay"]}, "--tune decay: the command has no {weight_decay}"),
        ("python t.py {lr} {seed", {}, "cannot be read"),
        ("python t.py {lr} {}", {"seeds": 1}, "a place has a name"),
        ("python t.py {lr} {seed}", {"direction": None}, "direction=None; it must be 'max' if a higher metric"),
        ("python t.py {lr} {seed}", {"metric_from_json": "m.json", "jobs": 2}, "name the file by the trial"),
        ("digits", {"direction": "max"}, "direction='max' is for a command or a function"),
    ],
)  # fmt: skip
def test_a_command_is_checked_before_it_runs(tmp_path: Path, command: str, given: dict[str, Any], message: str) -> None:
    settings = {"optimizers": ["sgd"], "direction": "max", "out": tmp_path / "run", **given}
    with pytest.raises(UsageError) as caught:
        compare(command, **settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_another_script_or_another_metric_is_another_task(script: str, tmp_path: Path) -> None:
    one = Script(script, "max").digest
    assert one == Script(script, "max").digest
    assert one != Script(script, "max", "m.json").digest != Script(script, "max", "m.json", "loss").digest
    (tmp_path / "train.py").write_text(SCRIPT + "\n")
    assert Script(script, "max").digest != one
    assert Script("no-such-program {lr}", "max").digest


@pytest.mark.slow
def test_a_script_is_compared(script: str, tmp_path: Path) -> None:
    result = compare(
        script, ["sgd", "lion"], trials=6, seeds=2, jobs=2, direction="max", target=0.9, out=tmp_path / "run"
    )
    assert result.complete
    sgd, lion = sorted(result.scores, key=lambda score: score.optimizer == "Lion")
    assert sgd.best_lr is not None
    assert lion.best_lr is not None
    assert abs(math.log10(sgd.best_lr / 0.1)) < 0.3
    assert abs(math.log10(lion.best_lr / 1e-3)) < 0.3
    assert len(list((tmp_path / "run" / "output").iterdir())) == 16
    assert "train" in json.dumps(result.to_json())


def test_a_function_is_compared_in_this_process(tmp_path: Path) -> None:
    seen: list[tuple[str, float, int]] = []

    def train(run: Run) -> float:
        """A line to fit."""
        model = torch.nn.Linear(2, 1)
        optimizer = run.optimizer(model)
        seen.append((type(optimizer).__name__, optimizer.param_groups[0]["lr"], run.seed))
        run.report(1, 5.0)
        return abs(math.log10(run.lr / 0.01))

    result = compare(train, ["sgd", "adamw"], trials=5, seeds=2, direction="min", steps=20, out=tmp_path / "run")
    assert result.complete
    assert len(seen) == 2 * 7
    assert {name for name, _, _ in seen} == {"SGD", "AdamW"}
    assert result.task["name"] == "train"
    assert result.task["summary"] == "A line to fit."
    assert all(score.median is not None and score.median < 0.3 for score in result.scores)
    again = compare(train, ["sgd", "adamw"], trials=5, seeds=2, direction="min", steps=20, out=tmp_path / "run")
    assert again.complete
    assert len(seen) == 2 * 7


def test_the_seed_of_a_trial_decides_what_a_function_draws() -> None:
    function = Function(lambda run: torch.rand(1).item(), "min")
    one, again, other = (function.run(SGD, Trial("SGD", "seed", 0, 0.1, seed), 1).final for seed in (1, 1, 2))
    assert one == again != other


def test_what_a_function_does_wrong_is_said(tmp_path: Path) -> None:
    def raises(run: Run) -> float:
        raise RuntimeError("the cable\nis broken")

    one = Function(raises, "min").run(SGD, TRIAL, 10)
    assert (one.status, one.error) == ("crashed", "RuntimeError: is broken")
    assert Function(lambda run: math.inf, "min").run(SGD, TRIAL, 10).status == "diverged"
    with pytest.raises(UsageError, match="it must return the metric, a number"):
        Function(cast(Any, lambda run: None), "min").run(SGD, TRIAL, 10)
    with pytest.raises(UsageError, match="direction=None; it must be 'max'"):
        compare(raises, ["sgd"], out=tmp_path / "run")
