"""Names whose fixes are wrong in one way each; they must never be made. `raise_` makes the check itself fail."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from stepwell.findings import Check, Edit, Finding, Fix
from stepwell.lint.analysis import Script

CHECK = Check(
    code="SW310",
    name="bad-fixes",
    severity="warning",
    certainty="certain",
    looks_for="a name of this test",
    why="a test needs it",
    instead="write another name",
    example_bad="breaks",
    example_good="fine",
)
FIX = "safe"
NEW = {"breaks": "(", "stays": "stays ", "moves": "stays", "new_other": "a.get_lr", "rename_me": "renamed"}


def find(script: Script) -> Iterator[Finding]:
    for node in ast.walk(script.tree):
        if isinstance(node, ast.Name) and node.id == "raise_":
            raise ZeroDivisionError("of the\ntest")
        if isinstance(node, ast.Name) and node.id in NEW:
            place = script.finding(CHECK, node, seen="x").place
            edit = Edit((place.line, place.column), place.end, NEW[node.id])  # type: ignore[union-attr,arg-type]
            yield script.finding(CHECK, node, seen=f"name {node.id}", fix=Fix("rename", (edit,), safe=True))
