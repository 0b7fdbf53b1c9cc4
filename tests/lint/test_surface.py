"""The other doors: functions, flake8, watching, and an installation without torch."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from stepwell import errors
from stepwell.errors import UsageError
from stepwell.lint import Settings, checks, lint_paths, lint_source
from stepwell.lint.flake8_plugin import Plugin
from stepwell.lint.watch import stamps, watch
from tests.lint.conftest import Said
from tests.lint.scripts import BAD

ROOT = Path(__file__).parents[2]
Lint = Callable[..., Said]


def test_from_python(example_checks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [one.code for one in lint_source(BAD)] == ["SW101", "SW210"]
    assert [one.code for one in lint_source(BAD.encode(), "x.py", Settings(select=("SW2",)))] == ["SW210"]
    assert str(lint_source("a.get_lr()", "my.py")[0].place) == "my.py:1:1"
    assert lint_source("\ufeffa.get_lr()")[0].place == lint_source("a.get_lr()")[0].place
    with pytest.raises(UsageError, match=r"^<source>:1:\d+: "):
        lint_source("x = (")
    with pytest.raises(UsageError, match="source is a list"):
        lint_source([])  # type: ignore[arg-type]
    for wrong in (
        lambda: lint_source("", 3),  # type: ignore[arg-type]
        lambda: lint_source("", "\0"),
        lambda: lint_source("", "a.py", {"select": ["SW1"]}),  # type: ignore[arg-type]
        lambda: lint_paths(3),  # type: ignore[arg-type]
        lambda: lint_paths([b"a.py"]),  # type: ignore[list-item]
        lambda: lint_paths(".", processes=0),
    ):
        with pytest.raises(UsageError):
            wrong()
    Path("a.py").write_text(BAD)
    Path("b.py").write_text("x = (")
    with pytest.warns(UserWarning, match=r"^b\.py:1:"):
        assert [str(one.place) for one in lint_paths(".")] == ["a.py:6:5", "a.py:8:11"]
    said: list[str] = []
    assert len(lint_paths([Path("a.py"), "none.py"], on_trouble=said.append)) == 2
    assert said == ["none.py: No such file or directory"]
    Path("pyproject.toml").write_text("[tool.stepwell.lint]\nselect = ['SW1']\n")
    assert len(lint_paths("a.py")) == 1
    assert len(lint_paths("a.py", isolated=True)) == 2
    assert not Path(".stepwell_cache").exists()


def test_inside_flake8(example_checks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = list(Plugin(ast.parse(BAD), "a.py", BAD.splitlines(keepends=True)).run())
    assert [(line, column, text[:5], kind) for line, column, text, kind in found] == [
        (6, 4, "SW101", Plugin), (8, 10, "SW210", Plugin),
    ]  # fmt: skip
    Path("pyproject.toml").write_text("[tool.stepwell.lint]\nselect = ['SW1']\n")
    assert len(list(Plugin(ast.parse(BAD), "a.py", BAD.splitlines(keepends=True)).run())) == 1
    assert (Plugin.name, bool(Plugin.version)) == ("stepwell", True)


def test_what_is_declared_to_others() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert '[project.entry-points."flake8.extension"]\nSW = "stepwell.lint.flake8_plugin:Plugin"\n' in text
    hooks = (ROOT / ".pre-commit-hooks.yaml").read_text()
    for line in ("- id: stepwell-lint", "  language: python", "  types_or: [python, jupyter]"):
        assert line in hooks
    assert "  entry: stepwell lint --force-exclude\n" in hooks


def test_watching(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("1")
    looks: list[str] = []

    def look() -> None:
        looks.append(file.read_text())
        if len(looks) < 3:
            file.write_text(str(len(looks)) * 3 * len(looks))

    watch(look, lambda: [str(file)], pause=0.01, rounds=5)
    assert looks == ["1", "111", "222222"]
    assert str(tmp_path / "pyproject.toml") in stamps([str(file)])


def test_watching_prints_again_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    import signal
    import time

    (tmp_path / "a.py").write_text("x = 1\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "stepwell.lint", "--watch", "--no-cache", "a.py"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "no finding in 1 file\n"
    time.sleep(0.1)
    (tmp_path / "a.py").write_text("x = 12345\n")
    assert process.stdout.readline() == "no finding in 1 file\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "stepwell: interrupted\n")


def test_a_name_that_needs_torch_says_so() -> None:
    code = """
import sys
sys.modules["torch"] = None
import stepwell
for name in ("AdamW", "Step", "engine", "find_lr"):
    try:
        getattr(stepwell, name)
    except ImportError as error:
        print(error)
from stepwell.cli import main
sys.exit(main(["optimizers"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    said = "needs the package 'torch', which is not installed: pip install 'stepwell[train]'"
    assert lines == [
        f"stepwell.optimizers.adamw.AdamW {said}",
        f"stepwell.step.Step {said}",
        f"stepwell.engine {said}",
        f"stepwell.finder.find.find_lr {said}",
    ]
    assert done.returncode == 2
    assert done.stderr == f"stepwell: stepwell.optimizers.sgd.SGD {said}\n"


@pytest.mark.parametrize("package", ["torch", "numpy", "numba", "scipy"])
def test_only_what_the_extra_holds_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    monkeypatch.setattr(errors, "import_module", missing)
    kind = ModuleNotFoundError if package == "scipy" else errors.MissingExtra
    with pytest.raises(kind):
        errors.loaded("stepwell.engine", "Optimizer")


@pytest.mark.slow
def test_installed_as_a_commit_hook_does(tmp_path: Path) -> None:
    """What is published, in an empty environment without a network: no torch, less than 200 MB, and it finds."""
    pytest.importorskip("hatchling", reason="the extra dev has it")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = ["wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "-w", str(tmp_path), str(ROOT)]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        (metadata,) = [name for name in content.namelist() if name.endswith(".dist-info/METADATA")]
        needed = [line for line in content.read(metadata).decode().splitlines() if line.startswith("Requires-Dist")]
    assert needed
    assert all("extra ==" in line for line in needed)

    hook = tmp_path / "hook"
    venv.create(hook)
    inside = [*pip, "--python", str(hook)]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    subprocess.run([*inside, "install", "--quiet", "--no-index", str(wheel)], check=True, env=environment)
    size = sum(path.stat().st_size for path in hook.rglob("*") if path.is_file())
    assert size < 200e6
    listed = subprocess.run(
        [*inside, "list", "--format", "json"], check=True, env=environment, capture_output=True, text=True
    )
    assert {one["name"].lower() for one in json.loads(listed.stdout)} == {"stepwell"}

    first = next(one for one in checks.load() if one.CHECK.certainty == "certain")
    (tmp_path / "train.py").write_text(first.BAD[0])
    done = subprocess.run(
        [hook / "bin" / "stepwell", "lint", "--force-exclude", "train.py"],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.returncode == 1
    assert f": {first.CHECK.code} " in done.stdout


def test_the_version_is_one() -> None:
    from stepwell import __version__

    assert importlib.metadata.version("stepwell") == __version__
