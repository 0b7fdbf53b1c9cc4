"""Advice without a fix."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Script

CHECK = Check(
    code="SW901",
    name="plain-sgd",
    severity="note",
    certainty="advice",
    looks_for="SGD without momentum",
    why="momentum costs little",
    instead="give momentum=0.9",
    example_bad="SGD(p, lr=0.1)",
    example_good="SGD(p, lr=0.1, momentum=0.9)",
)
FIX = ""


def find(script: Script) -> Iterator[Finding]:
    for node in ast.walk(script.tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "SGD" and not node.keywords:
            yield script.finding(CHECK, node, seen="SGD without momentum")
