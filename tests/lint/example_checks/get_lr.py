"""The rate is asked for with get_lr()."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from stepwell.findings import Check, Edit, Finding, Fix
from stepwell.lint.analysis import Script

CHECK = Check(
    code="SW210",
    name="get-lr",
    severity="warning",
    certainty="certain",
    looks_for="get_lr() of a scheduler is called",
    why="it computes the next rate from the present one",
    instead="call get_last_lr()",
    silent_when="the class is the user's own",
    example_bad="print(scheduler.get_lr())",
    example_good="print(scheduler.get_last_lr())",
    reference="https://docs.pytorch.org/docs/stable/optim.html",
)
FIX = "safe"


def find(script: Script) -> Iterator[Finding]:
    for node in ast.walk(script.tree):
        if isinstance(node, ast.Attribute) and node.attr == "get_lr":
            place = script.finding(CHECK, node, seen="x").place
            line, column = place.end  # type: ignore[union-attr,misc]
            edit = Edit((line, column - 6), (line, column), "get_last_lr")
            fix = Fix("call get_last_lr()", (edit,), safe=True)
            yield script.finding(
                CHECK, node, seen="get_lr() is called", evidence=((node.value, "the scheduler"),), fix=fix
            )
