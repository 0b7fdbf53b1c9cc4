"""The door: names, completion, types, and the right name near a wrong one."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import stepwell
from stepwell import optimizers, schedules
from tests.door import typed_right

HOUSE = Path(stepwell.__file__).parent
PROGRAMS = Path(typed_right.__file__).parent
CACHE = HOUSE.parents[1] / ".mypy_cache" / "strict"


def typed_names(path: Path) -> dict[str, str]:
    """The names that a type checker sees, with their modules: `from module import name as name`, and those that another
    file of the house has in this form, of `from module import *`."""
    found = {}
    for block in ast.parse(path.read_text()).body:
        if not isinstance(block, ast.If) or ast.unparse(block.test) != "TYPE_CHECKING":
            continue
        for node in block.body:
            if not isinstance(node, ast.ImportFrom):
                continue
            for alias in node.names:
                if alias.name == "*":
                    found |= typed_names(HOUSE.parent / f"{(node.module or '').replace('.', '/')}.py")
                elif alias.asname == alias.name:
                    found[alias.name] = node.module or ""
    return found


def test_checkers_and_python_see_the_same_names() -> None:
    seen = typed_names(HOUSE / "__init__.py")
    assert seen.keys() == {*stepwell._DOOR, *stepwell._ROOMS, *optimizers.TABLE}
    assert {name: seen[name] for name in stepwell._DOOR} == stepwell._DOOR
    for file in ("__init__.py", "table.py"):
        seen = typed_names(HOUSE / "optimizers" / file)
        assert seen == {name: optimizers.module_of(name) for name in optimizers.TABLE}


def test_the_table_of_optimizers_gives_a_star_import_nothing_but_classes() -> None:
    tree = ast.parse((HOUSE / "optimizers" / "table.py").read_text())
    assigned = {target.id for node in ast.walk(tree) if isinstance(node, ast.Assign) for target in node.targets
                if isinstance(target, ast.Name)}  # fmt: skip
    assert assigned == {"_TABLE"}
    assert not [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]


def test_every_name_is_listed_and_there() -> None:
    listed = dir(stepwell)
    for name in typed_names(HOUSE / "__init__.py"):
        assert name in listed
        assert getattr(stepwell, name) is not None


def test_completion_loads_nothing_heavy() -> None:
    code = "import sys, stepwell; assert 'AdamW' in dir(stepwell); print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("module", "wrong", "right"),
    [
        (stepwell, "AdmaW", "AdamW"),
        (stepwell, "adamw", "AdamW"),
        (stepwell, "adam_w", "AdamW"),
        (stepwell, "warmpu", "warmup"),
        (stepwell, "grups", "groups"),
        (stepwell, "UsageEror", "UsageError"),
        (optimizers, "Lyon", "Lion"),
        (schedules, "cosin", "cosine"),
    ],
)
def test_the_nearest_name_is_said(module: object, wrong: str, right: str) -> None:
    with pytest.raises(AttributeError, match=f"has no attribute '{wrong}'; did you mean '{right}'\\?$"):
        getattr(module, wrong)
    assert not hasattr(module, wrong)


def test_a_name_far_from_all_and_names_of_python() -> None:
    with pytest.raises(AttributeError, match=r"has no attribute 'qqqq'; dir\(stepwell\) lists all names$"):
        stepwell.qqqq  # noqa: B018
    with pytest.raises(AttributeError, match=r"has no attribute '__wrapped__'$"):
        stepwell.__wrapped__  # noqa: B018


def step_of_a_model() -> stepwell.Step:
    return stepwell.Step(stepwell.SGD(nn.Linear(2, 1).parameters(), lr=0.1), clip_norm=1.0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("clip_nrom", "did you mean 'clip_norm'"),
        ("acumulate", "did you mean 'accumulate'"),
        ("optimiser", "did you mean 'optimizer'"),
        ("clip_norm", r"use step.clip = ClipNorm\(...\)"),
        ("ema", r"use a new Step\(..., ema=...\)"),
        ("schedule", r"use a new Step\(..., schedule=...\)"),
    ],
)
def test_what_a_step_would_not_read_is_not_set(name: str, message: str) -> None:
    step = step_of_a_model()
    before = dict(step.__dict__)
    with pytest.raises(stepwell.UsageError, match=message):
        setattr(step, name, 3)
    assert step.__dict__ == before


def test_what_a_step_has_and_marks_of_the_user_are_set() -> None:
    step = step_of_a_model()
    step.clip = stepwell.ClipNorm(0.5)
    step.note_of_mine = "kept"  # type: ignore[attr-defined]
    assert step.note_of_mine == "kept"  # type: ignore[attr-defined]

    class Longer(stepwell.Step):
        def __init__(self, optimizer: torch.optim.Optimizer) -> None:
            super().__init__(optimizer)
            self.losses: list[float] = []

    assert Longer(step.optimizer).losses == []


@pytest.mark.slow
def test_the_right_program_runs() -> None:
    model = nn.Linear(4, 1)
    assert typed_right.trained(model, typed_right.loader()) > 0
    assert len(typed_right.built(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 1)))) == 9
    typed_right.scheduled(stepwell.SGD(model.parameters(), lr=0.1))
    assert "did you mean 'adamw'" in typed_right.refused(model).lower()


def marked(path: Path) -> set[int]:
    return {number for number, line in enumerate(path.read_text().splitlines(), 1) if line.endswith("# wrong")}


def lines_of(found: set[tuple[str, int]], name: str) -> set[int]:
    return {line for file, line in found if Path(file).name == name}


def assert_right_passes_and_wrong_fails(found: set[tuple[str, int]], said: str) -> None:
    assert not lines_of(found, "typed_right.py"), said
    assert lines_of(found, "typed_wrong.py") == marked(PROGRAMS / "typed_wrong.py"), said


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_mypy_passes_the_right_program_and_refuses_each_wrong_line() -> None:
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--hide-error-context"]
    programs = [str(PROGRAMS / name) for name in ("typed_right.py", "typed_wrong.py")]
    done = subprocess.run(
        [*command, "--config-file=", f"--cache-dir={CACHE}", "--output=json", *programs],
        env={**os.environ, "MYPYPATH": str(HOUSE.parent)},
        cwd=PROGRAMS.parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    errors = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    found = {(error["file"], error["line"]) for error in errors if error["severity"] == "error"}
    assert_right_passes_and_wrong_fails(found, done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_pyright_passes_the_right_program_and_refuses_each_wrong_line(tmp_path: Path) -> None:
    pyright = Path(sys.executable).with_name("basedpyright")
    if not pyright.exists():
        pytest.skip("basedpyright, pyright with what it needs inside its wheel, is not installed")
    for name in ("typed_right.py", "typed_wrong.py"):
        shutil.copy(PROGRAMS / name, tmp_path)
    settings = {"typeCheckingMode": "strict", "include": ["."], "extraPaths": [str(HOUSE.parent)]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    done = subprocess.run(
        [pyright, "--project", tmp_path, "--pythonpath", sys.executable, "--outputjson"], capture_output=True, text=True
    )
    assert done.returncode == 1, done.stdout + done.stderr
    errors = json.loads(done.stdout)["generalDiagnostics"]
    found = {(e["file"], e["range"]["start"]["line"] + 1) for e in errors if e["severity"] == "error"}
    assert_right_passes_and_wrong_fails(found, done.stdout)
