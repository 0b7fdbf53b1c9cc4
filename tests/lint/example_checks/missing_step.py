"""A likely one; its fix adds a line after the backward pass."""

from __future__ import annotations

from collections.abc import Iterator

from stepwell.findings import Check, Edit, Finding, Fix
from stepwell.lint.analysis import Script
from tests.lint.example_checks.zero_grad_between import called

CHECK = Check(
    code="SW102",
    name="missing-step",
    severity="error",
    certainty="likely",
    looks_for="backward() at the end of a file without a step()",
    why="nothing is learned",
    instead="call opt.step()",
    example_bad="loss.backward()",
    example_good="loss.backward()\nopt.step()",
)
FIX = "safe"


def find(script: Script) -> Iterator[Finding]:
    last = script.tree.body[-1] if script.tree.body else None
    if last is not None and called(last) == "backward":
        after = ((last.end_lineno or 0) + 1, 1)
        fix = Fix("add opt.step()", (Edit(after, after, "opt.step()\n"),), safe=True)
        yield script.finding(CHECK, last, seen="no step after it", fix=fix)
