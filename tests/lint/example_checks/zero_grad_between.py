"""zero_grad() between backward() and step()."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import pairwise

from stepwell.findings import Check, Edit, Finding, Fix
from stepwell.lint.analysis import Script

CHECK = Check(
    code="SW101",
    name="zero-grad-between",
    severity="error",
    certainty="certain",
    looks_for="the gradients are reset between backward() and step()",
    why="the optimizer steps with gradients of zero",
    instead="call zero_grad() after step()",
    example_bad="loss.backward()\nopt.zero_grad()\nopt.step()",
    example_good="loss.backward()\nopt.step()\nopt.zero_grad()",
)
FIX = "unsafe"


def called(node: ast.AST) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute):
        return node.value.func.attr
    return ""


def find(script: Script) -> Iterator[Finding]:
    for node in ast.walk(script.tree):
        body = getattr(node, "body", None)
        for one, two in pairwise(body if isinstance(body, list) else []):
            if called(one) == "backward" and called(two) == "zero_grad":
                fix = Fix("remove zero_grad()", (Edit((two.lineno, 1), (two.end_lineno + 1, 1), ""),))
                yield script.finding(
                    CHECK, two, seen="zero_grad() undoes backward()", evidence=((one, "the backward pass"),), fix=fix
                )
