"""PLACEHOLDER of the surface's branch: to be overwritten by the analysis."""

from __future__ import annotations

import ast
import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from stepwell.findings import Check, Evidence, Finding, Fix, Source


class Unreadable(Exception):
    def __init__(self, line: int, column: int, message: str) -> None:
        super().__init__(message)
        self.line, self.column, self.message = line, column, message


@dataclass
class Script:
    source: str
    file: str
    lines: list[str]
    tree: ast.Module

    def place(self, node: Any) -> Source:
        def column(line: int, offset: int) -> int:
            return len(self.lines[line - 1].encode("utf-8", "surrogatepass")[:offset].decode("utf-8", "replace")) + 1

        end = (node.end_lineno, column(node.end_lineno, node.end_col_offset))
        return Source(self.file, node.lineno, column(node.lineno, node.col_offset), end)

    def finding(
        self,
        check: Check,
        node: Any,
        *,
        seen: str,
        evidence: Iterable[tuple[Any, str]] = (),
        instead: str = "",
        fix: Fix | None = None,
    ) -> Finding:
        return Finding(
            check=check,
            place=self.place(node),
            seen=seen,
            evidence=tuple(Evidence(self.place(one), words) for one, words in evidence),
            instead=instead,
            fix=fix,
        )


def read(source: str, file: str) -> Script:
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise Unreadable(error.lineno or 1, error.offset or 1, f"syntax error: {error.msg}") from None
    except ValueError as error:
        raise Unreadable(1, 1, str(error)) from None
    except (RecursionError, MemoryError):
        raise Unreadable(1, 1, "nested too deeply to be parsed") from None
    return Script(source, file, io.StringIO(source, newline="").readlines(), tree)
