"""Every command, run as a module and as the console script; and with bad input, which is one line and no traceback."""

from __future__ import annotations

import errno
import importlib
import importlib.metadata
import io
import os
import runpy
import subprocess
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stepwell import cli
from stepwell.errors import UsageError

COMPARE = ["compare", "ravine", "--optimizers", "sgd", "--trials", "1", "--seeds", "1", "--steps", "3", "--jobs", "1"]
GOOD = {
    "compare": [*COMPARE, "--quiet", "--out", "run"],
    "tasks": ["tasks"],
    "advise": ["advise", "ViT-B/16", "--batch-size", "1024"],
    "recipes": ["recipes", "vit"],
    "report": ["report", "one.json", "two.json"],
    "optimizers": ["optimizers"],
    "schedule": ["schedule", "warmup(5).then(cosine(20))"],
    "plan": ["plan", "module.py:make_model"],
    "find-lr": ["find-lr", "digits", "--optimizer", "sgd", "--iterations", "30", "--orders", "1", "--attempts", "1"],
    "info": ["info"],
    "findings": ["findings"],
    "lint": ["lint", "--no-cache", "module.py"],
    "doctor": ["doctor", "run.jsonl"],
}
JOURNAL = '{"kind": "start", "format": 1}\n{"kind": "step", "step": 1, "loss": 0.5}\n{"kind": "end", "step": 1}\n'

MODULE = """
from torch import nn
from stepwell.tasks import Metric, Task, find

def make_model():
    return nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))

def of_a_seed(seed):
    return nn.Linear(seed + 1, 2)

class Network(nn.Linear):
    def __init__(self):
        super().__init__(2, 2)

network = nn.Linear(3, 3)
number = 3

def fails():
    raise RuntimeError("several\\nlines \\ud800")

def leaves():
    raise SystemExit("gone")

def _task(**changed):
    ravine = find("ravine")
    from dataclasses import replace
    return replace(ravine, **changed)

outside = _task(name="../../evil/x")
absolute = _task(name="/tmp/evil")
nan = _task(batch_size=float("nan"))
surrogate = _task(name="\\ud800")
summary = _task(summary="\\ud800")
about = _task(about={"x": 3})
target = _task(target="high")
exits = _task(model=lambda seed: exit(3))
"""


RESULTS = '{"task": {"name": "t", "metric": "m", "direction": "max"}, "scores": [], "trials": [], "plan": {}}'


def as_module(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> int:
    monkeypatch.setattr(sys, "argv", ["stepwell", *arguments])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(cli.__file__), run_name="__main__")
    assert isinstance(caught.value.code, int)
    return caught.value.code


def as_script(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> int:
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="stepwell")
    monkeypatch.setattr(sys, "argv", ["stepwell", *arguments])
    code = script.load()()
    assert isinstance(code, int)
    return code


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("module.py").write_text(MODULE)
    Path("run.jsonl").write_text(JOURNAL)
    for name in ("one.json", "two.json"):
        Path(name).write_text(RESULTS)
    return tmp_path


def test_every_command_is_among_these(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["--help"])
    listed = capsys.readouterr().out.partition("Commands:")[2]
    assert {line.split()[0] for line in listed.splitlines() if line.startswith("  ") and line[2] != " "} == set(GOOD)


def test_the_table_says_what_each_command_does() -> None:
    """The first sentence of its help, or the like; and options are described in one style."""
    for name, (module, said) in cli.COMMANDS.items():
        function = getattr(importlib.import_module(module), name.replace("-", "_"))
        assert said.endswith(".")
        assert (function.__doc__ or "").split()[0] == said.split()[0], name
        for option in typing.get_type_hints(function, include_extras=True).values():
            for one in getattr(option, "__metadata__", ()):
                assert one.help[0].isupper(), one.help
                assert one.help[-1] == ".", one.help


@pytest.mark.parametrize(
    ("words", "expected"),
    [("stepwell fi", {"find-lr", "findings"}), ("stepwell info --js", {"--json"}), ("stepwell lint", {"lint"})],
)
def test_a_shell_completes_commands_and_options(words: str, expected: set[str]) -> None:
    environment = {"_STEPWELL_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    code = "import sys; sys.argv = ['stepwell']; from stepwell.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert set(done.stdout.split()) == expected, done.stderr


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("run", [as_module, as_script])
@pytest.mark.parametrize("command", GOOD)
def test_every_command_runs(
    command: str,
    run: Callable[[pytest.MonkeyPatch, list[str]], int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, GOOD[command]) == 0
    said = capsys.readouterr()
    assert said.out.strip()
    assert "Traceback" not in said.err


BAD = [
    (["compare", "module.py:outside"], "'../../evil/x', which is not a folder name inside runs"),
    (["compare", "module.py:absolute"], "'/tmp/evil', which is not a folder name inside runs"),
    (["compare", "module.py:nan"], "batch_size=nan; it must be a whole number of at least 1, or None"),
    (["compare", "module.py:surrogate"], "name='\\ud800'; it must be a nonempty str"),
    (["compare", "module.py:summary"], "summary='\\ud800'; it must be a str"),
    (["compare", "module.py:about"], "about 'x'=3; it must be a str"),
    (["compare", "module.py:target"], "target='high'; it must be a finite number or None"),
    (["compare", "module.py:exits"], "model(0) fails: it calls sys.exit(3)"),
    (["compare", "\udcff"], "task='\\udcff'; it must be the name of a task"),
    (["compare", "x" * 5000 + ".py"], "does not exist"),
    (["compare", "ravine", "--seeds", "0"], "seeds=0; it must be a whole number from 1 to 10000"),
    (["compare", "ravine", "--trials", "9" * 30], "it must be a whole number from 1 to 10000"),
    (["compare", "ravine", "--jobs", "-1"], "jobs=-1; it must be a whole number"),
    (["compare", "ravine", "--lr-range", "sgd=nan:1"], "lr_ranges of SGD="),
    (["compare", "ravine", "--lr-range", "sgd=1e-320:1e300"], "times apart"),
    (
        ["compare", "ravine", "--option", "sgd.momentum=1e999"],
        "momentum of SGD=inf; it must be a value that a file can store",
    ),
    (
        ["compare", "ravine", "--option", "sgd.momentum={1}"],
        "momentum of SGD={1}; it must be a value that a file can store",
    ),
    (["compare", "ravine", "--optimizers", "\udcff"], "unknown optimizer '\\udcff'"),
    (["compare", "ravine", "--out", ""], "out=''; it must be a path"),
    ([*COMPARE, "--out", "pipe"], "run.json is not a file"),
    ([*COMPARE, "--out", "edited"], "run.json is damaged"),
    (["schedule", "exponential(500)", "--steps", "100000"], "larger than any number at step 99999"),
    (["schedule", "step(1, gamma=500)", "--steps", "100000"], "gives inf at step 99999"),
    (["schedule", ""], "the schedule is empty"),
    (["schedule", "cosine(5)", "--lr", "nan"], "lr=nan; it must be a finite number"),
    (["schedule", "cosine(5)", "--lr", "1e305"], "too large to draw"),
    (["schedule", "cosine()", "--steps", "0"], "total_steps=0; it must be a whole number of at least 1"),
    (["schedule", "cosine(5)", "--out", "missing/x.png"], "the folder missing does not exist"),
    (["schedule", "cosine(5)", "--out", "pipe.png"], "exists and is not a file"),
    (["plan", "module.py:number"], "'number' in 'module.py' is or makes a int; it must be a torch.nn.Module"),
    (["plan", "module.py:fails"], "'fails' in 'module.py' fails: RuntimeError: lines \\ud800"),
    (["plan", "module.py:leaves"], "'leaves' in 'module.py' calls sys.exit('gone')"),
    (["plan", "module.py:make_modl"], "defines no 'make_modl': did you mean 'make_model'?"),
    (["plan", "nowhere.py:model"], "task file 'nowhere.py' does not exist"),
    (["plan", "digit"], "unknown task 'digit': did you mean 'digits'?"),
    (["plan", "digits", "--averages", "-1"], "averages=-1"),
    (["plan", "digits", "--lr", "nan"], "lr=nan"),
    (["find-lr", "digits", "--out", "missing/x.png"], "--out missing/x.png: the folder missing does not exist"),
    (["find-lr", "digits", "--out", "x.gif"], "use one of these file extensions"),
    (["find-lr", "digits", "--out", "pipe.png"], "exists and is not a file"),
    (["find-lr", "digits", "--option", "adamw.lr=1"], "find-lr searches lr; set its range with --low and --high"),
    (["find-lr", "digits", "--option", "lion.betas=1"], "--option names Lion, and the optimizer here is AdamW"),
    (["find-lr", "digits", "--option", "AdamW.nonsense=3"], "unknown option nonsense=3"),
    (["find-lr", "digits", "--option", "x"], "write it as adamw.weight_decay=0.1"),
    (["find-lr", "digits", "--low", "nan"], "low=nan; it must be a finite number above 0"),
    (["find-lr", "digits", "--attempts", "0"], "attempts=0; it must be a whole number from 1 to 9"),
    (["find-lr", "digits", "--accumulate", "0"], "accumulate=0; it must be a whole number of at least 1"),
    (["find-lr", "digits", "--seed", "-1"], "seed=-1"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[ascii(" ".join(a))[:60] for a, _ in BAD])
def test_bad_input_is_one_line(
    arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo("pipe.png")
    for name in ("pipe", "edited"):
        (folder / name).mkdir()
        (folder / name / "trials.jsonl").touch()
    os.mkfifo("pipe/run.json")
    (folder / "edited" / "run.json").write_text('{"contenders": [3]}')
    before = sorted(path.name for path in folder.parent.iterdir())
    assert cli.main(arguments) == cli.USAGE
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert said.err.startswith("stepwell: ")
    assert said.err.count("\n") == 1
    assert not (folder / "runs").exists()
    assert sorted(path.name for path in folder.parent.iterdir()) == before  # nothing was written beside the folder


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("source", ["make_model", "of_a_seed", "Network", "network"])
def test_plan_takes_a_model_and_what_makes_one(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", f"module.py:{source}"]) == 0
    assert "together" in capsys.readouterr().out


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("optimizer", "values"),
    [("adamw", {"0.001", "0.01", "0"}), ("sgd", {"0.001", "0"}), ("sam", {"0.001", "0"}), ("muon", {"0.001", "0.1"})],
)
def test_plan_prints_values_where_the_optimizer_decides(
    optimizer: str, values: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    task = "digits" if optimizer == "muon" else "module.py:make_model"
    assert cli.main(["plan", task, "--optimizer", optimizer]) == 0
    said = capsys.readouterr().out
    assert "default" not in said
    assert values <= set(said.split())
    assert cli.main(["plan", task, "--optimizer", optimizer, "--lr", "0.25"]) == 0
    assert "0.25" in capsys.readouterr().out


def test_finding_nothing_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    call = ["find-lr", "digits", "--optimizer", "sgd", "--low", "100", "--high", "1000", "--iterations", "10"]
    assert cli.main([*call, "--orders", "1", "--attempts", "2"]) == cli.FAILED
    said = capsys.readouterr().out
    assert said.startswith("no learning rate found")
    assert "tried before: 1e+02 to 1e+03, 1 x 10 updates" in said


def test_the_optimizer_of_the_finder_is_that_of_a_comparison() -> None:
    from stepwell.compare.run import contenders
    from stepwell.finder.command import _options

    for name in ("sgd", "sam", "lookahead", "shampoo"):
        (contender,) = contenders([name], "cnn")
        assert _options(name, None) == contender.options
    assert _options("sgd", {"momentum": 0.0}) == {"momentum": 0.0}


def _raise(error: BaseException) -> Callable[..., Any]:
    def find(name: str) -> Any:
        raise error

    return find


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UsageError("said so"), 2, "stepwell: said so\n"),
        (UsageError("said\nso \ud800"), 2, "stepwell: said so \\ud800\n"),
        (KeyboardInterrupt(), 130, "stepwell: interrupted\n"),
        (OSError(errno.ENOSPC, "No space left on device", "x"), 1, "stepwell: x: No space left on device\n"),
        (BrokenPipeError(), 0, ""),
        (RecursionError("too deep"), 1, "stepwell: RecursionError: too deep (STEPWELL_TRACEBACK=1"),
        (KeyError("lr"), 1, "stepwell: KeyError: "),
        (SystemExit(3), 1, "stepwell: the task's code calls sys.exit(3)\n"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_whatever_goes_wrong_is_one_line(
    error: BaseException,
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("stepwell.tasks.find", _raise(error))
    monkeypatch.setattr(cli, "_close_output", lambda: None)
    monkeypatch.delenv(cli.TRACEBACK, raising=False)
    assert cli.main(["tasks"]) == code
    said = capsys.readouterr()
    assert said.err.startswith(message)
    assert said.err.count("\n") == (1 if message else 0)


def test_the_traceback_is_there_for_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepwell.tasks.find", _raise(KeyError("lr")))
    monkeypatch.setenv(cli.TRACEBACK, "1")
    with pytest.raises(KeyError):
        cli.main(["tasks"])


def test_a_full_disk_behind_the_output_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    monkeypatch.setattr(cli, "_close_output", lambda: None)
    assert cli.main(["tasks"]) == 1
    assert capsys.readouterr().err == "stepwell: No space left on device\n"
