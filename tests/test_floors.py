"""The floors of the house: what each part may import, read from the source; and what the door must not load."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import stepwell

HOUSE = Path(stepwell.__file__).parent

# from the ground up; a part imports from lower rows, and from its own row only inside its own package
ROWS = (
    ("errors", "arguments", "terminal", "ops"),
    ("findings",),
    ("curves",),
    ("engine", "anatomy"),
    ("optimizers", "schedules"),
    ("wrappers", "switching", "groups"),
    ("step",),
    ("finder", "tasks"),
    ("compare", "lint", "doctor", "advisor", "report"),
    ("commands",),
    ("cli",),
)
FLOOR = {part: row for row, parts in enumerate(ROWS) for part in parts}
GROUND = {"errors", "arguments", "terminal", "ops"}  # single files that may use one another
FILES = sorted(path for path in HOUSE.rglob("*.py") if path != HOUSE / "__init__.py")


def part_of(path: Path) -> str:
    """The room of a file. A command stands in the folder of its room and on the floor of the command line: it may use
    any room, and no room may use a command."""
    if path.name == "command.py":
        return "cli"
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def imported(path: Path) -> list[str]:
    """All modules that a file imports, at the top or inside functions; those only for types do not count."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    names = []
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(HOUSE.parent).with_suffix("").parts[: -node.level] if node.level else ()
            base = ".".join([*package, *((node.module or "").split(".") if node.module else [])])
            names += [f"{base}.{alias.name}" for alias in node.names]
    return names


def parts_used(path: Path) -> set[str]:
    names = [name.split(".") for name in imported(path) if name.startswith("stepwell.") and name.count(".") >= 1]
    return {"cli" if "command" in name[2:3] else name[1] for name in names} & FLOOR.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(HOUSE)))
def test_a_file_imports_from_lower_rows_only(path: Path) -> None:
    part = part_of(path)
    assert part in FLOOR, f"{part} stands on no floor: give it a row in design.md and here"
    for used in parts_used(path):
        allowed = FLOOR[used] < FLOOR[part] or used == part or {used, part} <= GROUND
        assert allowed, f"{path.relative_to(HOUSE)} imports stepwell.{used}, which is not below {part}"


def test_the_reader_of_imports_sees_them(tmp_path: Path) -> None:
    # a rule that reads nothing would pass every file
    file = HOUSE / "compare" / "command.py"
    assert {"errors", "compare", "report", "terminal", "cli"} <= parts_used(file)


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if part_of(path) in ("lint", "errors", "arguments", "findings", "curves")],
    ids=lambda path: str(path.relative_to(HOUSE)),
)
def test_lint_and_what_it_stands_on_import_neither_torch_nor_numpy(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported(path)}
    assert not roots & {"torch", "numpy", "numba"}


@pytest.mark.parametrize(
    "module", ["stepwell", "stepwell.arguments", "stepwell.findings", "stepwell.curves", "stepwell.cli"]
)
def test_the_door_and_the_command_load_nothing_heavy(module: str) -> None:
    heavy = {"torch", "numpy", "numba", "typer", "rich", "plotly"}
    code = f"import sys, {module}; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
