"""The visit to a GPU, rehearsed without one: the command, its budget, and what it does with rows that fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import gpu_facts
import gpu_measure
import gpu_plan
import gpu_tests
import gpu_visit
import peers
from gpu_plan import How, Row
from gpu_report import Report, slug
from gpu_worker import Failed, Worker
from tests.bench.conftest import BENCH

HIDDEN = "hypothesis,xdist,pytest_timeout,optuna,sklearn,typer,rich,matplotlib,plotly,jinja2,pandas,torchao,PIL,scipy"
HIDE = """
import os, sys
from importlib.machinery import PathFinder
class Hide(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.split(".")[0] in os.environ["HIDDEN"].split(",")
        return None if hidden else super().find_spec(name, path, target)
sys.meta_path = [Hide if finder is PathFinder else finder for finder in sys.meta_path]
"""
TINY = ("--device", "cpu", "--scale", "0.0001", "--rounds", "1", "--calls", "1")
ROW = Row("Lion fp32", "Lion", "small", calls=2)
FACTS = {"device": "a card", "date": "2026-11-30", "problem": None}
FIGURES = {"label": "A", "workload": "tensors", "seconds": 1.0, "first step": 0.1, "kernels": 1, "notes": []}


def command(tmp_path: Path, *options: str, hidden: str = HIDDEN, **more: str) -> tuple[list[str], dict[str, str]]:
    """bench/gpu.sh in an environment with a Python that has only what a visited machine has."""
    (tmp_path / "sitecustomize.py").write_text(HIDE)
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHON": sys.executable,
        "PYTHONPATH": str(tmp_path),
        "HIDDEN": hidden,
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "OUT": str(tmp_path / "out"),
        "OMP_NUM_THREADS": "1",
        **{key: os.environ[key] for key in ("STEPWELL_CACHE", "HOME") if key in os.environ},
        **more,
    }
    return [str(BENCH / "gpu.sh"), *options], environment


def run(tmp_path: Path, *options: str, **more: str) -> subprocess.CompletedProcess[str]:
    words, environment = command(tmp_path, *options, **more)
    return subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True)


def figures_in(tmp_path: Path) -> tuple[dict[str, Any], str]:
    """The JSON and the text that a visit left."""
    (file,) = (tmp_path / "out").glob("*-visit.json")
    return json.loads(file.read_text()), file.with_suffix(".txt").read_text()


@pytest.mark.slow
def test_the_whole_visit_on_a_bare_machine(tmp_path: Path) -> None:
    done = run(tmp_path, *TINY, "--backend", "cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    figures, text = figures_in(tmp_path)
    assert [part["name"] for part in figures["parts"]] == list(gpu_plan.NAMES)
    assert len(figures["tests"]["tests"]) >= 7
    if not torch.cuda.is_available():
        assert set(figures["tests"]["tests"].values()) == {"skipped"}
    assert [len(table["rows"]) for table in figures["tables"]] == [len(part.rows) for part in gpu_plan.SECTIONS]
    assert not figures["failures"]
    adamw = figures["tables"][0]["rows"][0]
    assert min(adamw["of fused"], adamw["of foreach"], adamw["copy GB/s"], adamw["GB/s"], adamw["host seconds"]) > 0
    assert figures["tables"][3]["rows"][0]["of torch"] > 0  # Muon's only way
    assert "AdamW by format" in text
    assert text.strip() in done.stdout


@pytest.mark.slow
def test_kernels_of_the_gpu_in_the_interpreter(tmp_path: Path) -> None:
    options = (*TINY, "--backend", "gpu", "--only", "small")
    done = run(tmp_path, *options, TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stdout + done.stderr
    figures, text = figures_in(tmp_path)
    (table,) = figures["tables"]
    assert [row["kernels"] for row in table["rows"]] == [1, 1]
    assert [one["goal"] for one in table["judgements"]] == ["<=0.2"] * 2
    assert "<=0.2 M" in text or "<=0.2 met" in text


@pytest.mark.slow
def test_a_visit_that_is_killed_leaves_what_it_has(tmp_path: Path) -> None:
    words, environment = command(tmp_path, *TINY, "--backend", "cpu", "--only", "small,others")
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = iter(process.stdout.readline, "")
        assert any(line.startswith("small: 2 of 2 rows") for line in said)
        process.send_signal(signal.SIGKILL)
    figures, text = figures_in(tmp_path)
    assert len(figures["tables"][0]["rows"]) == 2
    assert "AdamW state bf16" in text
    assert figures["parts"][0]["state"] == "2 of 2 rows"


def test_without_a_device_one_line_says_so(tmp_path: Path) -> None:
    done = run(tmp_path, TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    flag, reason = done.stdout.splitlines()
    assert flag == "TRITON_INTERPRET is set in the environment; it is ignored on a GPU"
    assert "sees no CUDA device; --device cpu rehearses without one" in reason
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("package", ["numba", "torch"])
def test_a_missing_package_is_one_line(package: str, tmp_path: Path) -> None:
    done = run(tmp_path, *TINY, hidden=package)
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == 1
    assert f"No module named '{package}'" in done.stdout


def test_the_script_says_that_there_is_no_python(tmp_path: Path) -> None:
    done = run(tmp_path, *TINY, PYTHON="/no/python")
    assert done.returncode == 2
    assert "there is no /no/python here" in done.stderr


def test_facts_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2**37, 2**37))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    facts = gpu_facts.facts(How())
    assert facts["problem"] is None
    assert (facts["free GiB"], facts["capability"], facts["device"]) == (128.0, "9.0", "NVIDIA H200")
    assert {"driver", "torch", "triton", "numba", "numpy", "date", "C compiler"} <= facts.keys()
    json.dumps(facts)
    assert slug(facts["device"]) == "nvidia-h200"


class Answers:
    """A worker that answers what it was given, in turn."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.limits: list[float] = []

    def ask(self, function: str, *args: Any, limit: float) -> Any:
        self.limits.append(limit)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def visited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], *answers: Any) -> tuple[int, Any]:
    """The exit code and the figures of a visit to a card that answers so."""
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    worker: Any = Answers(dict(FACTS), *answers)
    code = gpu_visit.visit(gpu_visit.parse(options), worker)
    return code, figures_in(tmp_path)[0]


def test_a_part_that_does_not_fit_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [dict(FIGURES, notes=[]) for _ in range(2)]
    code, figures = visited(tmp_path, monkeypatch, ["--only", "adamw,small", "--budget", "60"], *rows)
    assert code == 0
    assert [part["state"][:7] for part in figures["parts"]] == ["skipped", "2 of 2 "]
    assert "adamw: skipped, only 60 s of the budget are left" in capsys.readouterr().out


def test_the_parts_fit_into_the_usual_budget() -> None:
    parts = gpu_plan.TESTS_SECONDS + sum(section.seconds for section in gpu_plan.SECTIONS)
    assert gpu_plan.FACTS_SECONDS + parts <= gpu_visit.parse([]).budget <= 530


def test_a_row_that_fails_is_noted_and_the_next_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Failed("OutOfMemoryError: CUDA out of memory. Tried to allocate 9 GiB", "Traceback ...")
    hangs = Failed("stopped after 45 s")
    rows = [dict(FIGURES, notes=["a note"]) for _ in range(2)]
    code, figures = visited(tmp_path, monkeypatch, ["--only", "decoder"], full, *rows, hangs)
    assert code == 1
    (table,) = figures["tables"]
    assert len(table["rows"]) == 2
    assert table["notes"][0] == "AdamW fp32: out of memory"
    assert table["notes"][-1].endswith("state int8: stopped after 45 s")
    assert figures["failures"][0]["traceback"] == "Traceback ..."
    assert figures["parts"][0]["state"] == "2 of 4 rows"


def test_an_earlier_visit_is_not_overwritten(tmp_path: Path) -> None:
    for _ in range(2):
        Report(tmp_path, "A Card", FACTS, {"scale": 1.0}).write()
    names = sorted(path.name for path in tmp_path.glob("*.txt"))
    assert names == ["2026-11-30-a-card-visit-2.txt", "2026-11-30-a-card-visit.txt"]


def test_a_peer_without_memory_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(params: object) -> Any:
        raise torch.OutOfMemoryError("no memory\nat all")

    monkeypatch.setattr(peers, "of_torch", lambda *given: {"torch fused": full})
    how = How("cpu", "eager", 0.01, 1, 1)
    figures = gpu_measure.measure(Row("AdamW fp32", "AdamW", "small"), how)
    assert figures["notes"] == ["AdamW fp32, torch fused: OutOfMemoryError: no memory"]
    assert figures["seconds"] > 0
    assert "of fused" not in figures


def test_where_torch_has_no_such_optimizer_its_adamw_is_timed() -> None:
    figures = gpu_measure.measure(ROW, How("cpu", "eager", 0.01, 1, 1))
    assert figures["of AdamW"] > 0
    assert not {"of fused", "of foreach", "of torch"} & figures.keys()


def test_a_worker_that_hangs_or_dies_is_replaced() -> None:
    with Worker() as worker:
        assert worker.ask("operator.add", 1, 2, limit=60) == 3
        with pytest.raises(Failed, match="ended with code 7"):
            worker.ask("os._exit", 7, limit=60)
        first = worker.ask("os.getpid", limit=60)
        with pytest.raises(Failed, match="stopped after 0 s"):
            worker.ask("time.sleep", 60, limit=0.1)
        with pytest.raises(Failed, match=r"ZeroDivisionError: division by zero") as raised:
            worker.ask("operator.truediv", 1, 0, limit=60)
        assert "Traceback" in raised.value.more
        assert worker.ask("os.getpid", limit=60) != first


GOES_WRONG = """
import os, time, pytest
pytestmark = pytest.mark.gpu
def test_good(): pass
@pytest.mark.parametrize("x", ["a b"])
def test_bad(x): assert x == "c"
def test_ends_the_process(): os._exit(3)
def test_hangs(): time.sleep(600)
def test_last(): pass
"""


@pytest.mark.slow
def test_a_test_that_fails_dies_or_hangs_does_not_stop_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "tests" / "test_wrong.py"
    file.parent.mkdir()
    file.write_text(GOES_WRONG)
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "gpu.ini").write_text((BENCH / "gpu.ini").read_text())
    monkeypatch.setattr(gpu_tests, "ROOT", tmp_path)
    monkeypatch.setattr(gpu_tests, "MOST", 5)
    monkeypatch.setattr(gpu_tests, "LEAST", 1)
    *_, last = gpu_tests.run(tmp_path / "log.txt", 60)
    name = "tests/test_wrong.py::test_"
    assert last.tests == {
        f"{name}good": "passed",
        f"{name}bad[a b]": "failed",
        f"{name}ends_the_process": "cut off",
        f"{name}hangs": "cut off",
        f"{name}last": "passed",
    }
    assert last.failed
    assert any(note.startswith(f"alone, {name}bad[a b] fails, too: ") for note in last.notes)
    assert "2 cut off, 1 failed, 2 passed" in last.text()


def test_every_file_with_the_mark_is_found() -> None:
    assert {"tests/engine/test_gpu.py", "tests/step/test_gpu.py"} <= set(gpu_tests.files())


def test_another_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_plan.chosen("small, adamw") == ["adamw", "small"]
    with pytest.raises(SystemExit):
        gpu_visit.parse(["--only", "adamx"])
    assert "no part is called 'adamx'" in capsys.readouterr().err


def runs(process: str) -> bool:
    """Whether a process is there, and not only its exit code that nobody has read."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_is_left_running(tmp_path: Path) -> None:
    words, environment = command(tmp_path, *TINY, "--only", "tests")
    process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert any(line.startswith("tests: at most") for line in iter(process.stdout.readline, ""))
    time.sleep(0.2)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.terminate()
    assert process.wait(30) == 128 + signal.SIGTERM
    process.stdout.close()
    deadline = time.monotonic() + 10
    while any(map(runs, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert children
    assert not list(filter(runs, children))
