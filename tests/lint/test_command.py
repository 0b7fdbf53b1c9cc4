"""The command: exit codes, outputs, and one line for each mistake."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stepwell import cli
from tests.lint.conftest import Said
from tests.lint.scripts import BAD, CLEAN

Lint = Callable[..., Said]


def test_a_finding_has_its_line_why_what_instead_and_its_evidence(lint: Lint) -> None:
    Path("a.py").write_text(BAD)
    said = lint("a.py")
    assert said.code == 1
    assert said.err == ""
    assert said.out.splitlines()[:7] == [
        "a.py:6:5: SW101 zero_grad() undoes backward()",
        "    opt.zero_grad()",
        "    ^^^^^^^^^^^^^^^",
        "  why: the optimizer steps with gradients of zero",
        "  instead: call zero_grad() after step()",
        "  a.py:5:5: the backward pass",
        "  fix (--fix --unsafe-fixes): remove zero_grad()",
    ]
    assert "a.py:8:11: SW210 [*] get_lr() is called\n    print(sched.get_lr())\n          ^^^^^^^^^^^^" in said.out
    assert said.out.splitlines()[-1] == (
        "2 findings in 1 of 1 file; 1 fixable with --fix; 1 more fixable with --fix --unsafe-fixes"
    )
    assert "2 fixable with --fix --unsafe-fixes" in lint("a.py", "--unsafe-fixes").out
    assert "\033" not in said.out


def test_exit_codes(lint: Lint) -> None:
    Path("bad.py").write_text(BAD)
    Path("clean.py").write_text(CLEAN)
    Path("broken.py").write_text("x = (\n")
    assert lint("clean.py").code == 0
    assert lint("clean.py").out == "no finding in 1 file\n"
    assert lint("bad.py", "clean.py").code == 1
    both = lint("bad.py", "broken.py")
    assert both.code == 2  # before 1, and the findings are printed all the same
    assert "SW101" in both.out
    assert both.err.startswith("stepwell: broken.py:1:")
    assert both.err.count("\n") == 1


@pytest.mark.parametrize("kind", ["concise", "json", "json-lines", "github", "sarif"])
def test_the_other_outputs(lint: Lint, kind: str) -> None:
    Path("a, b.py").write_text(BAD)
    said = lint("a, b.py", "--output-format", kind)
    assert said.code == 1
    if kind == "concise":
        assert said.out.splitlines()[0] == "a, b.py:6:5: SW101 zero_grad() undoes backward()"
        assert lint("a, b.py", "--output-format", kind, "-q").out.count("\n") == 2
    elif kind == "json":
        found = json.loads(said.out)
        assert [one["code"] for one in found] == ["SW101", "SW210"]
        assert found[0]["place"] == {
            "kind": "source", "file": "a, b.py", "line": 6, "column": 5, "end": [6, 20], "cell": None,
        }  # fmt: skip
        assert found[0]["evidence"][0]["place"]["line"] == 5
    elif kind == "json-lines":
        assert [json.loads(line)["code"] for line in said.out.splitlines()] == ["SW101", "SW210"]
    elif kind == "github":
        assert said.out.splitlines()[0].startswith(
            "::error file=a%2C b.py,line=6,col=5,endLine=6,endColumn=20,title=stepwell SW101 zero-grad-between::"
        )
    else:
        (run,) = json.loads(said.out)["runs"]
        first, second = run["results"]
        place = first["locations"][0]["physicalLocation"]
        assert place["artifactLocation"]["uri"] == "a%2C%20b.py"
        (change,) = second["fixes"][0]["artifactChanges"]
        assert change["replacements"][0]["insertedContent"]["text"] == "get_last_lr"
        assert first["partialFingerprints"] != second["partialFingerprints"]


def prints(lint: Lint, source: str) -> list[Any]:
    Path("a.py").write_text(source)
    (run,) = json.loads(lint("a.py", "--output-format", "sarif").out)["runs"]
    return [one["partialFingerprints"] for one in run["results"]]


def test_fingerprints_stay_when_lines_move_and_tell_equal_lines_apart(lint: Lint) -> None:
    before = prints(lint, "a.get_lr()\na.get_lr()\nb.get_lr()\n")
    assert len({json.dumps(one) for one in before}) == 3
    assert prints(lint, "import x\n\n\na.get_lr()\nif x:\n    a.get_lr()\nb.get_lr()\n") == before


def test_no_finding_is_an_empty_list(lint: Lint) -> None:
    Path("a.py").write_text(CLEAN)
    assert json.loads(lint("a.py", "--output-format", "json").out) == []
    assert lint("a.py", "--output-format", "json-lines").out == ""
    assert json.loads(lint("a.py", "--output-format", "sarif").out)["runs"][0]["results"] == []


def test_output_file_and_statistics(lint: Lint) -> None:
    Path("a.py").write_text(BAD + "b.get_lr()\n")
    said = lint("a.py", "--output-format", "json", "-o", "found.json")
    assert said.out == ""
    assert len(json.loads(Path("found.json").read_text())) == 3
    assert lint("a.py", "--statistics").out.splitlines()[:2] == [
        "2  SW210  [*]  get-lr",
        "1  SW101  [ ]  zero-grad-between",
    ]
    assert json.loads(lint("a.py", "--statistics", "--output-format", "json").out)[0] == {
        "count": 2, "code": "SW210", "name": "get-lr", "fixable": True,
    }  # fmt: skip
    assert lint("a.py", "-o", "/dev/null").code == 1
    assert Path("/dev/null").is_char_device()
    assert lint("a.py", "-o", "nowhere/found.txt").code == 2


MISTAKES = [
    (["--select", "SW77"], "select: there is no check 'SW77'"),
    (["--select", "get-rl"], "did you mean 'get-lr'?"),
    (["--ignore", "E501"], "ignore: there is no check 'E501'"),
    (["--selct", "SW1"], "unknown option --selct: did you mean --select?"),
    (["--output-format", "xml"], "invalid choice: 'xml'"),
    (["--jobs", "0"], "invalid number of processes (1 to 256) value: '0'"),
    (["--explain", "SW1"], "there is no check 'SW1'"),
    (["-", "a.py"], "- is the standard input and stands alone"),
    (["--stdin-filename", "x.py"], "give - as the path"),
    (["--config", "none.toml"], "configuration none.toml: No such file or directory"),
    (["--config", "x", "--isolated"], "leave out one of both"),
    (["--watch", "--fix"], "--watch prints findings of files"),
    (["missing.py"], "missing.py: No such file or directory"),
    (["--select"], "expected one argument"),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES, ids=[" ".join(one) for one, _ in MISTAKES])
def test_a_mistake_is_one_line_and_exit_code_2(lint: Lint, arguments: list[str], words: str) -> None:
    said = lint(*arguments)
    assert said.code == 2
    assert words in said.err
    assert said.err.startswith("stepwell: ")
    assert said.err.count("\n") == 1


def test_list_explain_help_and_version(lint: Lint) -> None:
    assert "SW102  missing-step       error     --preview      safe" in lint("--list").out
    page = lint("--explain", "sw210").out
    assert page == lint("--explain", "get-lr").out
    headings = [line[3:] for line in page.splitlines() if line.startswith("## ")]
    assert headings == [
        "What it does", "Why is this bad?", "Example", "Use instead", "Fix safety", "Silent when", "References",
    ]  # fmt: skip
    assert "The fix is safe" in page
    said = lint("--help")
    assert (said.code, said.err) == (0, "")
    assert "--unsafe-fixes" in said.out
    assert lint("--version").out.startswith("stepwell 0")


def test_standard_input(lint: Lint, monkeypatch: pytest.MonkeyPatch) -> None:
    def given(text: str) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

    given("a.get_lr()\n")
    said = lint("-", "--output-format", "concise", "-q")
    assert said.out == "<stdin>:1:1: SW210 [*] get_lr() is called\n"
    Path("pyproject.toml").write_text('[tool.stepwell.lint.per-file-ignores]\n"sub/*" = ["SW2"]\n')
    given("a.get_lr()\n")
    assert lint("-", "--stdin-filename", "sub/x.py").code == 0
    given("a.get_lr()\n")
    said = lint("-", "--fix")
    assert said.out == "a.get_last_lr()\n"
    assert said.err == "1 finding fixed; no finding in 1 file\n"
    given("a.get_lr()\n")
    assert "+a.get_last_lr()\n" in lint("-", "--diff").out


def test_color_is_for_terminals_alone(lint: Lint, monkeypatch: pytest.MonkeyPatch) -> None:
    from stepwell.lint import command, options

    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    given = options.parsed(["a.py"])
    monkeypatch.setenv("TERM", "xterm")
    assert command._colored(given)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not command._colored(given)


def test_no_file_is_said(lint: Lint) -> None:
    Path("sub").mkdir()
    said = lint("sub")
    assert said.code == 0
    assert "no .py or .ipynb file in sub" in said.err


def test_an_error_of_a_check_is_one_line_and_the_others_go_on(lint: Lint) -> None:
    Path("a.py").write_text("raise_\na.get_lr()\n")
    said = lint("a.py", cache=True)
    assert said.code == 2
    assert said.err == "stepwell: internal error in SW310 on a.py: ZeroDivisionError: of the test; please report it\n"
    assert "SW210" in said.out
    assert lint("a.py", cache=True).err == said.err  # and is not remembered as nothing


def test_the_help_of_the_program_lists_the_linter(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    assert "lint " in capsys.readouterr().out


LIGHT = """
import sys
from stepwell.cli import main
code = main(["lint", *sys.argv[1:]])
heavy = {"torch", "numpy", "numba", "typer", "rich", "click", "multiprocessing", "concurrent.futures", "pathlib",
         "tomllib", "difflib", "shutil", "hashlib"}
print(code, sorted(heavy & set(sys.modules)))
"""


def test_a_run_loads_little(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(CLEAN)
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, "a.py"], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout.splitlines()[-1] == "0 []"


def test_both_ways_to_start_it(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = (\n")
    for module in (["stepwell.lint"], ["stepwell.cli", "lint"]):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", *module, "a.py"], capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == 2
        assert done.stderr.startswith("stepwell: a.py:1:")
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_is_one_line_and_130(tmp_path: Path, jobs: str) -> None:
    source = "\n".join(f"def f{i}(x):\n    return [x, {i}, (x + {i}) * 2]" for i in range(3000))
    for number in range(60):
        (tmp_path / f"a{number}.py").write_text(source)
    process = subprocess.Popen(
        [sys.executable, "-m", "stepwell.lint", "--no-cache", "--jobs", jobs, "."],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, start_new_session=True,
    )  # fmt: skip
    time.sleep(1.5)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to every process
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "stepwell: interrupted\n")
