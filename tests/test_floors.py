"""The floors of the house: what each part may import, read from the source; what the door must not load; how long a
file may be; and that no files import one another in a circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

import stepwell

HOUSE = Path(stepwell.__file__).parent

# from the ground up; a part imports from lower rows, and from its own row only inside its own package
ROWS = (
    ("errors", "arguments", "terminal", "ops", "files", "streams"),
    ("findings",),
    ("curves", "lint"),
    ("engine", "anatomy"),
    ("optimizers", "schedules"),
    ("wrappers", "switching", "groups"),
    ("step",),
    ("finder", "tasks"),
    ("report",),
    ("compare", "doctor", "advisor"),
    ("commands",),
    ("cli",),
)
FLOOR = {part: row for row, parts in enumerate(ROWS) for part in parts}
GROUND = {"errors", "arguments", "terminal", "ops", "files", "streams"}  # single files that may use one another
FILES = sorted(path for path in HOUSE.rglob("*.py") if path != HOUSE / "__init__.py")

LONGEST = 400  # lines of a file
LONG_BY_NATURE = {"engine/kernels/cpu_intrinsics.py", "engine/kernels/gpu_intrinsics.py"}  # lists of short functions


def part_of(path: Path) -> str:
    """The room of a file. A command stands in the folder of its room and on the floor of the command line: it may use
    any room, and no room may use a command."""
    if path.name in ("command.py", "__main__.py"):
        return "cli"
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def imported(path: Path) -> list[str]:
    """All modules that a file imports, at the top or inside functions; those only for types do not count."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for statement in block.body  # what stands under its `else` runs
        for node in ast.walk(statement)
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
    [path for path in FILES if part_of(path) in (*GROUND - {"ops"}, "lint", "findings", "curves")],
    ids=lambda path: str(path.relative_to(HOUSE)),
)
def test_lint_and_what_it_stands_on_import_neither_torch_nor_numpy(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported(path)}
    assert not roots & {"torch", "numpy", "numba"}


@pytest.mark.parametrize(
    "module",
    ["stepwell", "stepwell.arguments", "stepwell.findings", "stepwell.curves", "stepwell.cli", "stepwell.lint.command"],
)
def test_the_door_and_the_command_load_nothing_heavy(module: str) -> None:
    heavy = {"torch", "numpy", "numba", "typer", "rich", "plotly"}
    code = f"import sys, {module}; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_file_is_short_enough_to_be_read_at_once() -> None:
    lines = {path.relative_to(HOUSE).as_posix(): len(path.read_text().splitlines()) for path in HOUSE.rglob("*.py")}
    assert lines.keys() >= LONG_BY_NATURE, "a file that is gone leaves the list"
    for name, count in lines.items():
        assert count <= LONGEST or name in LONG_BY_NATURE, f"{name} has {count} lines, above {LONGEST}: split it"


def module_of(path: Path) -> str:
    """The dotted name of a file; the name of a package is that of its `__init__`."""
    return ".".join(path.relative_to(HOUSE.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in HOUSE.rglob("*.py")}


def modules_used(module: str) -> set[str]:
    """The modules that a module imports, at the top or inside functions. `from package import name` is the submodule of
    that name if there is one, else the package's `__init__`.

    A package is taken to import each of its files, as many do when a name is asked for: so a file that asks its own
    package for a name is in a circle. A command stands in the folder of its room but above it (see `part_of`), and the
    door, whose `__version__` some files read, loads nothing of its own.
    """
    names = [name if name in MODULES else name.rpartition(".")[0] for name in imported(MODULES[module])]
    own = [
        name for name in MODULES if name.rpartition(".")[0] == module and not name.endswith((".command", ".__main__"))
    ]
    return {*names, *(own if module != "stepwell" else [])} & MODULES.keys() - {module}


def circles(uses: Mapping[str, Collection[str]]) -> list[set[str]]:
    """The largest sets of modules of which each reaches every other."""
    reached = {module: set(used) for module, used in uses.items()}
    for middle in uses:
        for ways in reached.values():
            if middle in ways:
                ways |= reached[middle]
    found: list[set[str]] = []
    for module, ways in reached.items():
        circle = {other for other in ways if module in reached[other]}
        if circle and circle not in found:
            found.append(circle)
    return found


def test_no_files_import_one_another_in_a_circle() -> None:
    for circle in circles({module: modules_used(module) for module in MODULES}):
        raise AssertionError(f"these import one another in a circle: {', '.join(sorted(circle))}")


def test_the_finder_of_circles_sees_them() -> None:
    assert circles({"a": ["b"], "b": ["c"], "c": ["b"], "d": ["e"], "e": ["f"], "f": ["d"], "g": ["a"]}) == [
        {"b", "c"},
        {"d", "e", "f"},
    ]
    assert circles({"a": ["b", "c"], "b": ["c"], "c": []}) == []
    door = modules_used("stepwell")
    assert door == {"stepwell.errors", "stepwell.optimizers"}  # of its imports, those for type checkers do not count
    assert "stepwell.schedules.scheduler" in modules_used("stepwell.schedules")  # inside a function
    assert "stepwell.schedules.smooth" in modules_used("stepwell.schedules.expression")  # `from package import name`
