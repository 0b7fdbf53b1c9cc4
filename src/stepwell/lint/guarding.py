"""The edits that put an evaluation under torch.no_grad()."""

from __future__ import annotations

import ast

from stepwell.findings import Edit, Fix
from stepwell.lint import edits
from stepwell.lint.analysis import Event, Script
from stepwell.lint.analysis.evaluating import Evaluation, text_of


def guarded(script: Script, one: Evaluation) -> Fix | None:
    """A decorator where the function does nothing but evaluate, else a `with` around the loop."""
    if not any(
        isinstance(node, ast.Import) and any(name.name == "torch" and name.asname is None for name in node.names)
        for node in script.tree.body
    ):
        return None
    function = one.loop.function if one.loop.role == "batch" else one.forward.function
    if isinstance(function, ast.FunctionDef) and one.mode is not None and not _uses_gradients(script, function):
        edit = _decorator(script, function)
        return Fix("decorate the function with @torch.no_grad()", (edit,), safe=True) if edit is not None else None
    return _with(script, one.loop.node) if one.loop.role == "batch" else None


def _uses_gradients(script: Script, function: ast.FunctionDef) -> bool:
    inside = [event for event in script.events if event.function is function or function in _functions(event)]
    if any(event.kind in ("backward", "step", "grad", "zero") for event in inside):
        return True
    return any(
        isinstance(node, (ast.Yield, ast.YieldFrom, ast.Await)) for node in ast.walk(function)
    ) or "grad" in text_of(script, function)


def _functions(event: Event) -> tuple[ast.AST | None, ...]:
    return tuple(loop.function for loop in event.loops)


def _decorator(script: Script, function: ast.FunctionDef) -> Edit | None:
    line = script.lines[function.lineno - 1]
    if line[: function.col_offset].strip():
        return None
    code = f"{edits.indentation(script, function)}@torch.no_grad(){edits.newline(script)}"
    return Edit((function.lineno, 1), (function.lineno, 1), code)


def _with(script: Script, loop: ast.AST) -> Fix | None:
    statement = script.statement(loop)
    if statement is None or _spans_lines(statement):
        return None
    first = edits.insert_before(script, statement, "with torch.no_grad():")
    if first is None:
        return None
    step = "    "
    made = [Edit(first.start, first.end, first.new + step)]
    numbers = range(statement.lineno + 1, (statement.end_lineno or statement.lineno) + 1)
    made += [Edit((number, 1), (number, 1), step) for number in numbers if script.lines[number - 1].strip()]
    return Fix("put the loop under torch.no_grad()", tuple(made), safe=True)


def _spans_lines(statement: ast.stmt) -> bool:
    """Whether a text in it goes over several lines, which an indentation would change, or tabs indent it."""
    return any(
        isinstance(node, (ast.Constant, ast.JoinedStr))
        and getattr(node, "end_lineno", 0) != node.lineno
        and (isinstance(node, ast.JoinedStr) or isinstance(node.value, (str, bytes)))
        for node in ast.walk(statement)
    )
