"""Edits of a source that fixes are made of: statements inserted, moved and removed, with their indentation."""

from __future__ import annotations

import ast
from typing import TypeAlias

from stepwell.findings import Edit
from stepwell.lint.analysis import Script

Located: TypeAlias = ast.expr | ast.stmt | ast.keyword | ast.alias


def replace(script: Script, node: Located, new: str) -> Edit:
    """The source of a node becomes `new`."""
    return Edit(_start(script, node), _end(script, node), new)


def insert_before(script: Script, node: ast.AST, code: str) -> Edit | None:
    """A line of `code` before the statement of a node; None where the statement does not begin its line."""
    statement = script.statement(node)
    if statement is None or not _begins_line(script, statement):
        return None
    line = min([statement.lineno, *(one.lineno for one in getattr(statement, "decorator_list", ()))])
    return Edit((line, 1), (line, 1), f"{indentation(script, statement)}{code}{newline(script)}")


def insert_after(script: Script, node: ast.AST, code: str) -> Edit | None:
    """A line of `code` after the statement of a node; None where other code follows in its last line."""
    statement = script.statement(node)
    if statement is None or not _begins_line(script, statement) or not _ends_line(script, statement):
        return None
    line = statement.end_lineno or statement.lineno
    if line >= len(script.lines) and not script.lines[-1].endswith(("\n", "\r")):
        end = (line, len(script.lines[-1]) + 1)
        return Edit(end, end, f"{newline(script)}{indentation(script, statement)}{code}")
    return Edit((line + 1, 1), (line + 1, 1), f"{indentation(script, statement)}{code}{newline(script)}")


def remove(script: Script, node: ast.AST) -> Edit | None:
    """The lines of the statement of a node go; None where it shares its lines, or is all of its block."""
    statement = script.statement(node)
    if statement is None or not _begins_line(script, statement) or not _ends_line(script, statement):
        return None
    block = script.block_of(statement)
    if block is None or len(block) < 2:
        return None
    last = statement.end_lineno or statement.lineno
    end = (last + 1, 1) if last < len(script.lines) else (last, len(script.lines[-1]) + 1)
    return Edit((statement.lineno, 1), end, "")


def text(script: Script, node: Located) -> str:
    """The source of a node as it is written."""
    last = node.end_lineno or node.lineno
    lines = [line.encode("utf-8", "surrogatepass") for line in script.lines[node.lineno - 1 : last]]
    lines[-1] = lines[-1][: node.end_col_offset]
    lines[0] = lines[0][node.col_offset :]
    return b"".join(lines).decode("utf-8", "surrogatepass")


def indentation(script: Script, statement: ast.stmt) -> str:
    line = script.lines[statement.lineno - 1]
    return line[: len(line) - len(line.lstrip())]


def newline(script: Script) -> str:
    first = script.lines[0] if script.lines else "\n"
    return "\r\n" if first.endswith("\r\n") else "\n"


def _start(script: Script, node: Located) -> tuple[int, int]:
    return node.lineno, script.column(node.lineno, node.col_offset)


def _end(script: Script, node: Located) -> tuple[int, int]:
    line = node.end_lineno or node.lineno
    return line, script.column(line, node.end_col_offset or 0)


def _begins_line(script: Script, statement: ast.stmt) -> bool:
    line = script.lines[statement.lineno - 1]
    return not line.encode()[: statement.col_offset].strip()


def _ends_line(script: Script, statement: ast.stmt) -> bool:
    line, column = _end(script, statement)
    rest = script.lines[line - 1][column - 1 :].strip()
    return not rest or rest.startswith("#")
