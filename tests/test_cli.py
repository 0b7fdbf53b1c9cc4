"""The command: what it prints, what it writes, and one line with exit code 2 for every mistake."""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stepwell import __version__, cli
from stepwell.compare.command import ranges
from stepwell.optimizers.command import options

FAST = [
    "compare",
    "ravine",
    "--optimizers",
    "sgd,lion",
    "--trials",
    "2",
    "--seeds",
    "2",
    "--steps",
    "20",
    "--jobs",
    "1",
]
SLOW_TASK = """
import time
from stepwell import tasks
from dataclasses import replace
ravine = tasks.find("ravine")

def loss(model, batch):
    time.sleep(0.01)
    return ravine.loss(model, batch)

task = replace(ravine, name="slow", loss=loss)
"""


def command(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "stepwell.cli", *arguments], capture_output=True, text=True, cwd=cwd
    )


def test_a_comparison_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert cli.main([*FAST, "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "SGD" in said.out
    assert "Lion" in said.out
    assert f"report: {out / 'report.html'}" in said.out
    assert said.err.count("\n") == 9  # one line for the plan and one for each trial, since this is no terminal
    assert sorted(path.name for path in out.iterdir() if path.name != ".lock") == [
        "report.html",
        "results.json",
        "run.json",
        "trials.jsonl",
    ]
    results = json.loads((out / "results.json").read_text())
    assert results["complete"]
    assert {score["optimizer"] for score in results["scores"]} == {"SGD", "Lion"}
    assert len(results["trials"]) == 8
    page = (out / "report.html").read_text()
    for trial in results["trials"]:
        assert f'<td class="number">{trial["lr"]:g}</td>' in page
    assert '"name":"SGD"' in page
    assert '"name":"Lion"' in page
    assert str(tmp_path) not in page  # a page that is passed on names no folder of its maker

    # the same command again runs nothing and says the same; --json prints results.json alone
    assert cli.main([*FAST, "--out", str(out), "--json", "--quiet"]) == 0
    again = capsys.readouterr()
    assert again.err == ""
    assert json.loads(again.out)["scores"] == results["scores"]


MISTAKES = [
    (["compare", "digit"], "unknown task 'digit': did you mean 'digits'?"),
    (["compare", "nowhere.py:task"], "task file 'nowhere.py' does not exist"),
    (["compare", "bad.py"], "task file 'bad.py' cannot be imported: ZeroDivisionError: division by zero"),
    (["compare", "other.py:tsk"], "task file 'other.py' defines no 'tsk'"),
    (["compare", "ravine", "--optimizers", "adamv"], "unknown optimizer 'adamv': did you mean 'Adam"),
    (["compare", "ravine", "--optimizers", ","], "no optimizers to compare"),
    (["compare", "ravine", "--optimizers", "sgd,SGD"], "optimizer 'SGD' is given twice"),
    (["compare", "ravine", "--trials", "0"], "compare: trials=0; it must be a whole number from 1 to 10000"),
    (["compare", "ravine", "--lr-range", "sgd"], "--lr-range 'sgd'; it must have the form adamw=1e-4:1e-1"),
    (["compare", "ravine", "--lr-range", "sgd=1:x"], "--lr-range 'sgd=1:x'; it must have the form"),
    (
        ["compare", "ravine", "--lr-range", "adam[eps=1.0]=0.3:3"],
        "--lr-range names Adam[eps=1.0], which is not compared",
    ),
    (["compare", "ravine", "--lr-range", "sgd=2:1"], "learning rates of SGD from 2 to 1; it must be 0 < low < high"),
    (["compare", "ravine", "--lr-range", "adam=1:2"], "--lr-range names Adam, which is not compared"),
    (["compare", "ravine", "--option", "sgd:momentum"], "--option 'sgd:momentum': write it as adamw.weight_decay=0.1"),
    (["compare", "ravine", "--option", "sgd.lr=1"], "compare searches lr; set its range with --lr-range sgd=low:high"),
    (["compare", "ravine", "--device", "tpu"], "device='tpu'; it must be 'cpu' or 'cuda'"),
    (["compare", "ravine", "--out", "taken"], "taken is not empty and contains no comparison; give another --out"),
    (["compare", "ravine", "--out", "bad.py"], "cannot write to bad.py"),
    (["optimizers", "--family", "cn"], "unknown family 'cn': did you mean 'cnn'?"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[" ".join(a) for a, _ in MISTAKES])
def test_a_mistake_is_one_line_and_exit_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.py").write_text("1 / 0\n")
    Path("other.py").write_text("x = 1\n")
    Path("taken").mkdir()
    Path("taken/thesis.tex").write_text("precious")
    assert cli.main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("stepwell: ")
    assert message in said.err
    assert said.err.count("\n") == 1


def test_a_folder_of_another_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from stepwell.compare.contenders import contenders
    from stepwell.compare.facts import facts_digest
    from stepwell.compare.folder import Folder
    from stepwell.compare.outcome import crashed
    from stepwell.compare.plan import Plan, Trial
    from stepwell.tasks import find

    both = contenders(["sgd", "lion"], "toy")
    folder = Folder(tmp_path / "run", Plan("ravine", both, 3, 2, 21, task_digest=facts_digest(find("ravine"))))
    folder.append(crashed(Trial("SGD", "tune", 0, 0.1, 0), "it broke"))
    assert cli.main([*FAST, "--out", str(tmp_path / "run")]) == 2
    assert "run contains another run: steps is 21 there and 20 here; give another --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["compare"], ["compare", "ravine", "--trials", "many"], ["compare", "--no-such"], ["nonsense"]]
)
def test_what_the_option_parser_refuses_has_no_traceback(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    said = capsys.readouterr()
    assert "Usage: " in said.err
    assert "Traceback" not in said.err + said.out


def test_a_refused_option_inside_a_worker_is_one_line_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        *FAST,
        "--quiet",
        "--out",
        str(tmp_path / "run"),
        "--option",
        "sgd.nesterov=True",
        "--option",
        "sgd.momentum=0.0",
    ]
    assert cli.main(arguments) == 2
    said = capsys.readouterr()
    assert "nesterov" in said.err
    assert said.err.count("\n") == 1


def test_tasks_and_optimizers_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    from stepwell import optimizers, tasks

    assert cli.main(["tasks", "--json"]) == 0
    listed = {fact["name"]: fact for fact in json.loads(capsys.readouterr().out)}
    assert list(listed) == [*tasks.TABLE, *(f"{name}:PATH" for name in tasks.LOCAL)]
    assert (listed["digits"]["direction"], listed["bytes"]["family"]) == ("max", "transformer")

    assert cli.main(["optimizers", "--family", "cnn", "--json"]) == 0
    listed = {fact["name"]: fact for fact in json.loads(capsys.readouterr().out)}
    assert list(listed) == list(optimizers.TABLE)
    for name, fact in listed.items():
        assert (fact["lr_low"], fact["lr_high"]) == optimizers.find(name).facts.lr_range("cnn")
        assert fact["summary"]
        assert fact["source"]
    assert (listed["AdamW"]["state_bytes"], listed["Lion"]["needs"]) == (8, ["warmup", "large_batch"])

    assert cli.main(["optimizers"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "kind", "method", "lr_low", "lr_high", "state_bytes", "needs", "summary"]
    assert [line.split()[0] for line in lines[1:]] == list(optimizers.TABLE)
    assert cli.main(["tasks"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert names == [*tasks.TABLE, *(f"{name}:PATH" for name in tasks.LOCAL)]


def test_options_are_read_as_python_values() -> None:
    given = ["adamw.betas=(0.9,0.95)", "adamw.amsgrad=True", "lion.state=bf16", "lion.weight_decay=1e-2"]
    assert options(given, "") == {
        "adamw": {"betas": (0.9, 0.95), "amsgrad": True},
        "lion": {"state": "bf16", "weight_decay": 0.01},
    }
    assert ranges(["adamw=1e-4:0.1"]) == {"adamw": (1e-4, 0.1)}


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"stepwell {__version__}\n"
    assert cli.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("compare", "tasks", "optimizers"))


def test_help_loads_nothing_that_takes_long() -> None:
    code = (
        "import sys; from stepwell import cli; code = cli.main(['compare', '--help']);"
        "print(code, sorted({'torch', 'numpy', 'numba', 'optuna', 'plotly', 'jinja2', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


MISSING = [
    ("typer", ["--help"], "every command but `stepwell lint` needs the package 'typer'"),
    ("optuna", ["compare", "ravine"], "stepwell compare needs the package 'optuna'"),
    ("rich", ["compare", "ravine"], "stepwell compare needs the package 'rich'"),
    ("plotly", ["compare", "ravine"], "an HTML report needs the package 'plotly'"),
    ("jinja2", ["compare", "ravine"], "an HTML report needs the package 'jinja2'"),
    ("sklearn", ["compare", "digits"], "the task 'digits' needs the package 'scikit-learn'"),
]


@pytest.mark.parametrize(("package", "arguments", "message"), MISSING, ids=[package for package, _, _ in MISSING])
def test_a_missing_extra_is_named_before_any_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    package: str, arguments: list[str], message: str,
) -> None:  # fmt: skip
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)  # what Python holds for a module that cannot be imported
    if package == "sklearn":
        from stepwell.tasks.digits import images

        images.cache_clear()
    out = [] if arguments == ["--help"] else ["--out", str(tmp_path / "run")]
    assert cli.main([*arguments, *out]) == 2
    said = capsys.readouterr()
    assert said.err == f"stepwell: {message}, which is not installed: pip install 'stepwell[tools]'\n"
    assert not (tmp_path / "run").exists()


def test_ctrl_c_elsewhere_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("stepwell.tasks.find", interrupted)
    assert cli.main(["tasks"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def listen() -> None:
    """A shell's background job ignores Ctrl-C, and so would all that it starts: these tests may run in one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
def test_ctrl_c_in_a_real_run_shows_what_is_done_and_the_same_command_resumes_it(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW_TASK)
    settings = ["--optimizers", "sgd,lion", "--trials", "3", "--seeds", "2", "--steps", "30", "--jobs", "2"]
    arguments = ["compare", "slow.py:task", *settings]
    process = subprocess.Popen(
        [sys.executable, "-m", "stepwell.cli", *arguments, "--out", "parts"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=listen,
    )  # fmt: skip
    trials = tmp_path / "parts" / "trials.jsonl"
    until = time.monotonic() + 120
    while time.monotonic() < until and not (trials.exists() and trials.read_bytes().count(b"\n") >= 3):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers, too
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.rstrip().endswith("interrupted; run the same command again to resume")
    assert "trials are done" in out
    done = trials.read_bytes().count(b"\n")
    assert 3 <= done < 10

    resumed = command(*arguments, "--out", "parts", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stderr.startswith(f"resuming: {done} of 10 trials are done")
    straight = command(*arguments, "--out", "straight", cwd=tmp_path)
    assert straight.returncode == 0, straight.stderr

    def trained(folder: str) -> list[dict[str, object]]:
        results = json.loads((tmp_path / folder / "results.json").read_text())
        return [
            {key: value for key, value in trial.items() if key not in ("seconds", "by")} for trial in results["trials"]
        ]

    assert trained("parts") == trained("straight")


def test_the_console_script_is_this_command() -> None:
    scripts = importlib.metadata.entry_points(group="console_scripts", name="stepwell")
    assert {script.value for script in scripts} == {"stepwell.cli:main"}
