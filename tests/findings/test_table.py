"""The table of checks over all rooms, and its page."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import stepwell
from stepwell.errors import UsageError
from stepwell.findings import find, table
from stepwell.findings.page import page

HOUSE = Path(stepwell.__file__).parent
PAGE = Path(__file__).parents[2] / "docs" / "findings.md"


def test_codes_and_names_are_unique_and_in_order() -> None:
    checks = table()
    assert list(checks) == sorted(checks)
    assert len({one.name for one in checks.values()}) == len(checks)
    assert {"C01", "C09", "F01"} <= checks.keys()


@pytest.mark.parametrize("code", table())
def test_every_check_is_reported_somewhere(code: str) -> None:
    """A room names each of its checks outside the file that lists them."""
    check = table()[code]
    (room,) = [path.parent for path in HOUSE.rglob("checks.py") if f'code="{code}"' in path.read_text()] or [
        None
    ]  # a check in a file of its own holds its own logic
    if room is None:
        return
    tree = ast.parse((room / "checks.py").read_text())
    (name,) = [
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign) and f"code='{code}'" in ast.unparse(node)
        for target in node.targets
        if isinstance(target, ast.Name)
    ]
    users = [path for path in room.glob("*.py") if path.name != "checks.py" and name in path.read_text()]
    assert users, f"{check.code} ({name}) is listed and never reported"


def test_findings_are_written_by_keyword() -> None:
    for path in HOUSE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Finding", "Check"):
                assert not node.args, f"{path}:{node.lineno}"


def test_a_check_is_found_by_code_and_name() -> None:
    assert find("c04") is find("C04") is find("best-rate-at-the-edge")
    with pytest.raises(UsageError, match=r"there is no check 'C4': did you mean 'C04'\? `stepwell findings` shows all"):
        find("C4")


def test_the_page_is_what_the_checks_say() -> None:
    assert PAGE.read_text() == page(table().values()), "python -m stepwell.findings.page > docs/findings.md"


def test_the_table_needs_neither_torch_nor_numpy() -> None:
    code = "import sys; from stepwell.findings import table; table(); print({'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
