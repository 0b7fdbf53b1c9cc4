"""Whole comparisons on a tiny task: resumed ones equal uninterrupted ones, and one bad trial spoils no other."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from stepwell.compare import Outcome, Result, compare
from stepwell.compare.ahead import threads_per_worker
from stepwell.compare.contenders import contenders
from stepwell.compare.facts import folder_of
from stepwell.compare.figures import sections
from stepwell.compare.judgement import findings
from stepwell.compare.plan import Plan
from stepwell.compare.progress import Lines, Silent, duration, worded
from stepwell.compare.tables import score_table
from stepwell.curves import Chart
from stepwell.errors import UsageError

SMALL: dict[str, Any] = {"trials": 5, "seeds": 2, "lr_ranges": {"sgd": (1e-3, 3.0), "lion": (1e-3, 1.0)}}
# of these the fastest rates of SGD diverge, the slowest do nothing


class StopAfter(Silent):
    """Ctrl-C, once this many trials have ended."""

    def __init__(self, count: int) -> None:
        self.count = count

    def ended(self, outcome: Outcome) -> None:
        self.count -= 1
        if not self.count:
            raise KeyboardInterrupt


class Seen(Silent):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.done_before = 0
        self.keys: list[str] = []

    def begin(self, plan: Plan, done: Sequence[Outcome]) -> None:
        self.done_before = len(done)

    def ended(self, outcome: Outcome) -> None:
        self.keys.append(outcome.key)


def timeless(result: Result) -> list[Outcome]:
    return [dataclasses.replace(outcome, seconds=[], threads=0, by="") for outcome in result.outcomes]


@pytest.mark.slow
def test_interrupted_and_resumed_equals_uninterrupted_with_other_workers(
    tmp_path: Path, task_file: Callable[[str], str]
) -> None:
    task = task_file("")
    straight = compare(task, ["sgd", "lion"], jobs=2, out=tmp_path / "straight", **SMALL)
    assert straight.complete
    for count in (2, 7):  # in the middle of tuning, and of the rest
        part = compare(task, ["sgd", "lion"], jobs=1, out=tmp_path / "parts", progress=StopAfter(count), **SMALL)
        assert not part.complete
    assert len(part.outcomes) == 9
    assert any(finding.code == "C01" for finding in findings(part))
    seen = Seen()
    last = compare(task, ["sgd", "lion"], jobs=1, out=tmp_path / "parts", progress=seen, **SMALL)
    assert last.complete
    assert (seen.done_before, len(seen.keys)) == (9, 5)  # nothing is run twice
    assert timeless(last) == timeless(straight)
    assert [score.median for score in last.scores] == [score.median for score in straight.scores]

    # and the whole result is sound
    assert len(straight.outcomes) == 2 * (5 + 2)
    for name in ("SGD", "Lion"):
        mine = [o for o in straight.outcomes if o.optimizer == name]
        assert sum(o.phase == "tune" for o in mine) == 5
        assert sum(o.phase == "seed" for o in mine) == 2
    lines = (tmp_path / "straight" / "trials.jsonl").read_text().splitlines()
    assert {json.loads(line)["optimizer"] for line in lines} == {"SGD", "Lion"}
    again = compare(task, ["sgd", "lion"], out=tmp_path / "straight", progress=(idle := Seen()), **SMALL)
    assert (idle.keys, again.complete) == ([], True)  # a finished run costs nothing
    json.dumps(again.to_json(), allow_nan=False)


FAULTS = [
    ("raises in seed 2", "RuntimeError: is broken"),
    ("killed in seed 2", "worker process killed by SIGKILL (out of memory?)"),
    ("exits in seed 2", "SystemExit: 7"),
]


@pytest.mark.parametrize(("fault", "error"), FAULTS)
def test_one_lost_trial_is_reported_and_the_others_go_on(
    tmp_path: Path, task_file: Callable[[str], str], fault: str, error: str
) -> None:
    settings = {**SMALL, "trials": 2, "seeds": 3, "lr_ranges": {"lion": (0.05, 0.5)}}
    result = compare(task_file(fault), ["lion"], jobs=1, out=tmp_path / "run", **settings)
    assert result.complete
    ends = {o.seed: (o.status, o.error) for o in result.outcomes if o.phase == "seed"}
    assert ends[2] == ("crashed", error)
    assert ends[1] == ends[3] == ("finished", "")
    (score,) = result.scores
    assert (score.seeds, score.seeds_finished) == (3, 2)
    assert score.median is not None
    codes = {finding.code: finding for finding in findings(result)}
    assert error in codes["C02"].seen
    assert "1 of 3 seeds did not finish" in codes["C05"].seen
    assert any(error in str(cell) for section in sections(result) for table in section.items[:1]
               for row in getattr(table, "rows", ()) for cell in row)  # fmt: skip


def test_a_crash_while_tuning_leaves_the_other_rates(tmp_path: Path, task_file: Callable[[str], str]) -> None:
    result = compare(
        task_file("raises far out"),
        ["sgd"],
        jobs=1,
        out=tmp_path / "run",
        **{**SMALL, "lr_ranges": {"sgd": (1e-3, 30.0)}},
    )
    tune = {o.lr: o for o in result.outcomes if o.phase == "tune"}
    assert tune[max(tune)].status == "crashed"
    assert tune[max(tune)].error == "ValueError: far out"
    assert result.scores[0].crashed >= 1
    assert result.scores[0].seeds_finished == 2


def test_when_no_rate_finishes_there_is_a_row_and_a_reason(tmp_path: Path, task_file: Callable[[str], str]) -> None:
    result = compare(
        task_file(""), ["sgd"], jobs=1, trials=2, seeds=1, out=tmp_path / "run", lr_ranges={"sgd": (1e5, 1e6)}
    )
    assert result.complete
    (score,) = result.scores
    assert (score.best_lr, score.median, score.diverged) == (None, None, 2)
    assert "C03" in {finding.code for finding in findings(result)}
    assert score_table(result).rows[0][1] is None
    assert all(chart.curves for section in sections(result) for chart in section.items if isinstance(chart, Chart))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"trials": 0}, "trials=0; it must be a whole number from 1 to 10000"),
        ({"seeds": -1}, "seeds=-1; it must be a whole number from 1 to 10000"),
        ({"steps": 0}, "steps=0; it must be a whole number of at least 1"),
        ({"jobs": 0}, "jobs=0; it must be a whole number from 1 to 10000"),
        ({"optimizers": []}, "no optimizers to compare"),
        ({"optimizers": ["adam-v"]}, "unknown optimizer 'adam-v': did you mean 'Adam"),
        ({"optimizers": ["adamw", "Adam-W"]}, "optimizer 'AdamW' is given twice"),
        (
            {"lr_ranges": {"adam": (1, 2)}},
            "--lr-range names Adam, which is not compared; compared: SGD, AdamW, Lion",
        ),
        ({"lr_ranges": {"sgd": (1, 1)}}, "learning rates of SGD from 1 to 1; it must be 0 < low < high"),
        ({"lr_ranges": {"sgd": (-1, 1)}}, "learning rates of SGD from -1 to 1"),
        ({"options": {"adam": {"eps": 1}}}, "--option names Adam, which is not compared"),
        ({"device": "tpu"}, "device='tpu'; it must be 'cpu' or 'cuda'"),
        ({"task": "digit"}, "unknown task 'digit'"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(
    tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    settings = {"task": "ravine", "out": tmp_path / "run", **given}
    with pytest.raises(UsageError) as caught:
        compare(**settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_contenders_take_ranges_and_options_of_the_family_unless_told() -> None:
    from stepwell.optimizers import find

    sgd, lion = contenders(["sgd", "lion"], "cnn", {"Lion": (1e-3, 1e-2)}, {"sgd": {"nesterov": True}})
    assert (sgd.low, sgd.high) == find("sgd").facts.lr_range("cnn")
    assert sgd.options == {"momentum": 0.9, "nesterov": True}
    assert (lion.low, lion.high) == (1e-3, 1e-2)
    sam, lookahead = contenders(["sam", "lookahead"], "cnn", None, {"sam": {"base": "adamw", "rho": 0.1}})
    assert (sam.low, sam.high) == find("adamw").facts.lr_range("cnn")  # the rates of what is inside
    assert sam.options == {"base": "adamw", "rho": 0.1}  # SGD's momentum is not for AdamW
    assert lookahead.options == {"base": "adamw"}
    free, rprop, inside = contenders(["schedulefreesgd", "rprop", "sam"], "cnn", None, {"sam": {"base": "rprop"}})
    assert (sgd.schedule, free.schedule, rprop.schedule, inside.schedule) == ("decay", "warmup", "constant", "constant")
    (other,) = contenders(["sgd"], "a family of its own")
    assert (other.low, other.high) == find("sgd").facts.lr_range(None)


def test_threads_fill_the_machine_and_no_more() -> None:
    assert [threads_per_worker(jobs, cores=8) for jobs in (1, 2, 3, 8, 99)] == [8, 4, 2, 1, 1]


def test_lines_count_and_say_how_each_trial_ended() -> None:
    stream = io.StringIO()
    lines = Lines(stream)
    plan = Plan("t", contenders(["sgd"], "toy"), 2, 1, 10)
    outcome = Outcome("SGD", "tune", 0, 0.1, 0, "finished", final=0.98765)
    lines.begin(plan, [outcome])
    lines.ended(dataclasses.replace(outcome, status="crashed", final=None, error="it broke"))
    lines.ended(dataclasses.replace(outcome, status="pruned", final=None, steps=[0, 5], metric=[1.0, 2.0]))
    assert stream.getvalue().splitlines() == [
        "resuming: 1 of 3 trials are done",
        "[2/3] SGD lr 0.1: crashed (it broke)",
        "[3/3] SGD lr 0.1: cut at step 5 (2)",
    ]
    assert worded(dataclasses.replace(outcome, phase="seed", seed=3), short=True) == "seed 3: 0.9877"
    assert [duration(seconds) for seconds in (0.2, 59, 61, 3700)] == ["0 s", "59 s", "1 min 1 s", "1 h 1 min"]


@pytest.mark.parametrize(
    ("name", "folder"),
    [("ravine", "runs/ravine"), ("cifar/resnet", "runs/cifar/resnet"), ("a..b", "runs/a..b"), ("../../evil/x", None),
     ("..", None), ("a/../../x", None), ("/tmp/x", None), (".", None), ("a\\..\\x", None)],
)  # fmt: skip
def test_a_run_stays_inside_runs_whatever_its_task_is_called(name: str, folder: str | None) -> None:
    if folder is not None:
        assert folder_of(name) == Path(folder)
        return
    with pytest.raises(UsageError, match=r"is not a folder name inside runs; .* give the folder of the run: --out"):
        folder_of(name)


def test_a_result_is_short_in_a_prompt_and_a_table_in_print_and_notebook(tmp_path: Path) -> None:
    result = compare("ravine", ["sgd", "lion"], jobs=1, trials=2, seeds=2, steps=10, out=tmp_path / "run")
    assert repr(result).startswith("Result('ravine', 2 optimizers, 8 runs, complete: first ")
    assert len(repr(result)) < 200 + len(str(tmp_path))
    assert len(repr(result.outcomes[0])) < 300
    assert [line.split()[0] for line in str(result).splitlines()[2:4]] == [s.optimizer for s in result.scores]
    page = result._repr_html_()
    assert page.count("<tr>") == 3
    assert "<script" not in page
