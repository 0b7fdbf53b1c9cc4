"""`stepwell doctor`: the summary and its exit code, watching, two runs, a symptom; mistakes are one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import pytest

from stepwell import cli
from stepwell.doctor import watching
from stepwell.doctor.difference import difference
from stepwell.doctor.journal import Journal, read
from stepwell.doctor.reading import Reader
from tests.doctor.runs import FACTS, finding, record

TWO = [(50, finding("D03", "error", 50)), (90, finding("D09", "note", 90))]


def test_findings_are_printed_in_full_and_are_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = record(tmp_path, findings=TWO)
    assert cli.main(["doctor", str(path)]) == 1
    said = capsys.readouterr().out
    assert said.startswith("run.jsonl: 200 steps")
    assert "First cause, at step 50: D03 Net at step 50: it rose." in said
    assert "loss 2." in said
    assert "25 % of steps clipped" in said
    assert "error D03 Net at step 50: it rose\n  head.weight at step 50: rms 12\n  why: the model forgets" in said
    assert said.endswith("2 findings: 1 error, 1 note\n")


@pytest.mark.parametrize(("severity", "code"), [("note", 0), ("warning", 1), ("error", 1)])
def test_the_exit_code_is_that_of_the_gravest_finding(
    severity: Any, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = record(tmp_path, findings=[(3, finding(severity=severity))])
    assert cli.main(["doctor", str(path)]) == code
    assert cli.main(["doctor", str(path), "--json"]) == code
    assert cli.main(["doctor", str(record(tmp_path, "none.jsonl")), str(path)]) == code
    assert cli.main(["doctor", str(tmp_path / "none.jsonl")]) == 0


def test_json_holds_the_run_and_the_findings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = record(tmp_path, findings=TWO, broken_from=150)
    assert cli.main(["doctor", str(path), "--json"]) == 1
    data = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert (data["run"]["steps"], data["run"]["ended"], data["run"]["loss"]["last"]) == (200, True, "nan")
    assert data["run"]["first_cause"] == {"step": 50, "code": "D03"}
    assert [(one["step"], one["code"], one["severity"]) for one in data["findings"]] == [
        (50, "D03", "error"), (90, "D09", "note"),
    ]  # fmt: skip


def test_a_run_that_is_still_going_is_read_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = record(tmp_path, ends=False)
    path.write_bytes(path.read_bytes() + b'{"kind":"step","st')
    out = tmp_path / "out.html"
    assert cli.main(["doctor", str(path), "--report", str(out)]) == 0
    said = capsys.readouterr().out
    assert "not ended (still running" in said
    assert said.endswith(f"report: {out}\n")
    assert out.read_text().rstrip().endswith("</html>")


class Seen:
    def __init__(self) -> None:
        self.findings: list[tuple[int, str]] = []
        self.states: list[str] = []

    def finding(self, step: int, found: Any) -> None:
        self.findings.append((step, found.code))

    def state(self, line: str) -> None:
        self.states.append(line)


def test_watching_shows_each_finding_once_as_it_comes(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.touch()
    reader, seen = Reader(path), Seen()
    watching.watch(reader, seen, rounds=1)
    assert seen.states == ["waiting for the start of the run"]
    journal = Journal(path)
    journal.start(FACTS)
    watching.watch(reader, seen, rounds=1)
    journal.step({"step": 1, "loss": 2.0, "seconds": 0.5})
    journal.step({"step": 2, "loss": float("nan"), "grad_norm": 3.0, "seconds": 1.0})
    journal.finding(2, finding(step=2))
    watching.watch(reader, seen, pause=0.01, rounds=3)
    assert seen.findings == [(2, "D03")]
    assert seen.states[1] == "no step yet"
    assert seen.states[-1] == "step 2, loss nan, gradient norm 3, 2 steps/s, 1 s"
    assert watching.state(reader, still=75).endswith("no new record for 1 min 15 s")
    journal.end(2)
    watching.watch(reader, seen)  # returns at the end of the run
    assert len(seen.states) == 5


def test_the_state_is_overwritten_on_a_terminal_and_rare_elsewhere() -> None:
    written: list[str] = []
    lines = watching.Lines(written.append, terminal=True, width=20)
    lines.state("step 1, " + "x" * 40)
    lines.finding(1, finding())
    lines.state("step 2")
    lines.end()
    assert written[0] == "step 1, xxxxxxxxxxx"
    assert written[1] == "\r\033[K"
    assert written[2].startswith("error D03")
    assert written[3:] == ["step 2", "\r\033[K"]
    written.clear()
    lines = watching.Lines(written.append, terminal=False)
    for step in range(100):
        lines.state(f"step {step}")
    lines.end()
    assert written == ["step 0\n"]


def test_watch_follows_a_writer_until_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.jsonl"
    journal = Journal(path)
    journal.start(FACTS)

    def train() -> None:
        for step in range(1, 6):
            time.sleep(0.05)
            journal.step({"step": step, "loss": 1.0})
            if step == 3:
                journal.finding(3, finding(step=3))
        journal.end(5)

    training = threading.Thread(target=train)
    training.start()
    assert cli.main(["doctor", str(path), "--watch", "--report", str(tmp_path / "out.html")]) == 1
    training.join()
    said = capsys.readouterr().out
    assert said.count("error D03") == 1
    assert "5 steps" in said
    assert "1 finding: 1 error" in said
    assert (tmp_path / "out.html").exists()


def test_ctrl_c_ends_the_watching_with_the_code_of_the_findings(tmp_path: Path) -> None:
    for name, findings, code in (("a", TWO, 1), ("b", [], 0)):
        path = record(tmp_path, f"{name}.jsonl", findings=findings, ends=False)
        process = subprocess.Popen(
            [sys.executable, "-m", "stepwell.cli", "doctor", str(path), "--watch"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("step 200"):
                break
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == code
        assert out.startswith("200 steps")
        assert err == "stepwell: the run is not watched any more; it is not affected\n"


def test_two_runs_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = record(tmp_path, "a.jsonl", findings=TWO)
    b = record(tmp_path, "b.jsonl", findings=[(70, finding("D03", "error", 70)), (9, finding("D05", "warning", 9))],
               broken_from=150, lr=2e-3, facts={**FACTS, "device": "cuda"})  # fmt: skip
    assert cli.main(["doctor", str(a), str(b)]) == 1
    said = capsys.readouterr().out
    assert "They first differ at step 1, in the lr." in said
    rows = {line.split("  ")[0]: line.split() for line in said.splitlines()}
    assert rows["device"] == ["device", "cpu", "cuda"]
    assert rows["loss"][1:] == ["150", rows["loss"][2], "nan", "150"]
    assert rows["lr"][1:] == ["1", "0.001", "0.002", "1"]
    assert rows["gradient norm"][2:] == ["nowhere", "-", "-", "nowhere"]
    assert "Only in a.jsonl:\n  step 90: note D09" in said
    assert "Only in b.jsonl:\n  step 9: warning D05" in said  # D03 at another step is the same finding
    assert cli.main(["doctor", str(a), str(b), "--json"]) == 1
    data = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert data["first"] == {"step": 1, "what": "lr"}
    assert {one["name"]: one["first"] for one in data["quantities"]} == {
        "loss": 150, "lr": 1, "gradient norm": None, "validation": None,
    }  # fmt: skip
    assert [[one["code"] for one in only] for only in data["only"]] == [["D09"], ["D05"]]


def test_equal_runs_and_runs_without_a_common_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = record(tmp_path, "a.jsonl")
    assert cli.main(["doctor", str(a), str(a)]) == 0
    said = capsys.readouterr().out
    assert "They are equal at all 200 steps that both recorded." in said
    assert "Neither has a finding." in said
    assert "first a.jsonl" in said
    journal = Journal(None)
    journal.start(FACTS)
    journal.step({"step": 999, "loss": 1.0})
    found = difference(read(a), journal.run())
    assert found.quantities == []
    assert found.first is None


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A stand-in for the room of the symptoms, which keeps what it was asked."""
    asked: list[Any] = []

    def ask(symptom: str, **details: Any) -> Any:
        asked.append((symptom, details))
        return types.SimpleNamespace(text=lambda: "lower the rate", as_dict=lambda: {"causes": ["lr"]})

    room = types.ModuleType("stepwell.doctor.symptoms")
    room.ask = ask  # type: ignore[attr-defined]  # a stand-in module
    monkeypatch.setitem(sys.modules, "stepwell.doctor.symptoms", room)
    return asked


def test_a_symptom_is_passed_on_with_its_details(answers: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--symptom", "loss is nan"]) == 0
    assert capsys.readouterr().out == "lower the rate\n"
    given = ["--optimizer", "adamw", "--lr", "1e-3", "--batch-size", "32", "--precision", "fp16", "--json"]
    assert cli.main(["doctor", "--symptom", "loss is nan", *given]) == 0
    assert json.loads(capsys.readouterr().out) == {"causes": ["lr"]}
    assert answers[0] == ("loss is nan", {"optimizer": None, "lr": None, "batch_size": None, "precision": None})
    assert answers[1][1] == {"optimizer": "adamw", "lr": 1e-3, "batch_size": 32, "precision": "fp16"}


MISTAKES = [
    ([], "doctor: nothing to look at; give the journal of a run"),
    (["none.jsonl"], "none.jsonl does not exist; give the journal of a run"),
    (["."], "is not a file"),
    ([""], "journal=''; it must be a path"),
    (["\udcff"], "it must be a path"),
    (["empty.jsonl"], "empty.jsonl is empty: the run has not started yet"),
    (["text.txt"], "text.txt is not a journal of the doctor"),
    (["run.jsonl", "text.txt"], "text.txt is not a journal of the doctor"),
    (["run.jsonl", "run.jsonl", "run.jsonl"], "3 journals are given; give one, or two to compare"),
    (["run.jsonl", "run.jsonl", "--watch"], "--watch and --report take one journal"),
    (["run.jsonl", "run.jsonl", "--report", "x.html"], "--watch and --report take one journal"),
    (["run.jsonl", "--watch", "--json"], "--watch prints text"),
    (["run.jsonl", "--lr", "1"], "--lr describes a run for --symptom"),
    (["run.jsonl", "--batch-size", "1"], "--batch-size describes a run for --symptom"),
    (["run.jsonl", "--symptom", "loss is nan"], "leave out journals, --watch and --report"),
    (["--symptom", "x", "--report", "x.html"], "leave out journals, --watch and --report"),
    (["run.jsonl", "--report", "no/x.html"], "cannot write no/x.html: No such file"),
    (["run.jsonl", "--report", ""], "report=''; it must be a path"),
    (["text.txt", "--watch"], "text.txt is not a journal of the doctor"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[ascii(" ".join(a)) for a, _ in MISTAKES])
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    record(tmp_path, steps=3)
    Path("empty.jsonl").touch()
    Path("text.txt").write_text("hello\n")
    assert cli.main(["doctor", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert said.err.startswith("stepwell: ")
    assert said.err.count("\n") == 1


def test_a_missing_package_is_named_before_the_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = record(tmp_path, steps=3)
    monkeypatch.setitem(sys.modules, "plotly", None)
    assert cli.main(["doctor", str(path), "--report", str(tmp_path / "x.html")]) == 2
    assert "an HTML report needs the package 'plotly'" in capsys.readouterr().err


def test_a_summary_loads_nothing_heavy(tmp_path: Path) -> None:
    path = record(tmp_path, steps=3)
    code = (
        f"import sys; from stepwell import cli; code = cli.main(['doctor', {str(path)!r}]);"
        "print(code, sorted({'torch', 'numpy', 'numba', 'plotly', 'jinja2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"
