"""A training script as planters see it: its statements with their blocks, loops and functions, from the syntax alone.

Nothing here is shared with the analysis of the linter: a fault of that analysis must not hide itself.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator


class NoPlace(Exception):
    """The script has no place for this mistake."""


class Script:
    """A source, its tree, and where each statement stands."""

    def __init__(self, source: str) -> None:
        self.source = source if source.endswith("\n") else source + "\n"
        self.lines = self.source.splitlines(keepends=True)
        self.tree = ast.parse(self.source)
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line))
        self.parents: dict[ast.AST, ast.AST] = {}
        self.statements: list[ast.stmt] = []
        self.blocks: dict[ast.stmt, list[ast.stmt]] = {}
        for node in ast.walk(self.tree):
            for child in ast.iter_child_nodes(node):
                self.parents[child] = node
            for _, block in ast.iter_fields(node):
                if isinstance(block, list) and block and isinstance(block[0], ast.stmt):
                    self.blocks.update(dict.fromkeys(block, block))
                    self.statements += block
        self.statements.sort(key=lambda one: (one.lineno, one.col_offset))

    def text(self, node: ast.AST) -> str:
        return ast.get_source_segment(self.source, node) or ast.unparse(node)

    def around(self, node: ast.AST) -> Iterator[ast.AST]:
        """What a node stands in, from the inside out."""
        while node in self.parents:
            node = self.parents[node]
            yield node

    def function(self, node: ast.AST) -> ast.AST:
        """The function that a node stands in, or the module."""
        return next((one for one in self.around(node) if isinstance(one, ast.FunctionDef)), self.tree)

    def loops(self, node: ast.AST) -> list[ast.For | ast.While]:
        """The loops around a node in its function, the innermost first."""
        found: list[ast.For | ast.While] = []
        for one in self.around(node):
            if isinstance(one, ast.FunctionDef):
                break
            if isinstance(one, (ast.For, ast.While)):
                found.append(one)
        return found

    def statement(self, node: ast.AST) -> ast.stmt:
        return (
            node if isinstance(node, ast.stmt) else next(one for one in self.around(node) if isinstance(one, ast.stmt))
        )

    def calls(self, name: str) -> list[tuple[ast.stmt, ast.Call]]:
        """The calls of this name that are statements of their own, in the order of the source."""
        return [
            (statement, statement.value)
            for statement in self.statements
            if isinstance(statement, ast.Expr)
            and isinstance(statement.value, ast.Call)
            and called(statement.value) == name
        ]

    def all_calls(self, name: str) -> list[ast.Call]:
        return [node for node in ast.walk(self.tree) if isinstance(node, ast.Call) and called(node) == name]

    def indentation(self, statement: ast.stmt) -> str:
        line = self.lines[statement.lineno - 1]
        return line[: len(line) - len(line.lstrip())]

    def offset(self, line: int, column: int) -> int:
        """Where a position of `ast`, whose columns count UTF-8 bytes, is in the source."""
        return self.starts[line - 1] + len(self.lines[line - 1].encode()[:column].decode())

    def span(self, node: ast.AST) -> tuple[int, int]:
        return self.offset(node.lineno, node.col_offset), self.offset(node.end_lineno, node.end_col_offset)

    def whole_lines(self, statement: ast.stmt) -> tuple[int, int]:
        """The lines of a statement, with its decorators and the comment behind it."""
        first = min([statement.lineno, *(one.lineno for one in getattr(statement, "decorator_list", ()))])
        last = statement.end_lineno or statement.lineno
        shared = [one for one in self.blocks[statement] if one is not statement and one.lineno <= last]
        if any((one.end_lineno or one.lineno) >= first for one in shared):
            raise NoPlace  # two statements in one line
        if self.lines[first - 1][: self.offset(first, 0) - self.starts[first - 1]].strip():
            raise NoPlace
        header = self.lines[statement.lineno - 1].encode()[: statement.col_offset].decode().strip()
        if header:
            raise NoPlace  # `if x: statement`
        return self.starts[first - 1], self.starts[last]


def called(call: ast.Call) -> str:
    """The last part of the name of what is called."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def receiver(call: ast.Call) -> str:
    """What a method is called on, as written; "" for a function."""
    return ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""


def is_scheduler(name: str) -> bool:
    return bool(re.search(r"sched", name.rsplit(".", 1)[-1], re.IGNORECASE))


def is_scaler(name: str) -> bool:
    return bool(re.search(r"scaler", name.rsplit(".", 1)[-1], re.IGNORECASE))


def is_optimizer(name: str) -> bool:
    return bool(re.search(r"optim|(^|_)opt(_|\d|[A-Z]|$)", name.rsplit(".", 1)[-1]))
