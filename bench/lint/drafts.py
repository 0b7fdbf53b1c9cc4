"""Edits of the text of a script; what no edit touches stays as it is written, comments and formatting included."""

from __future__ import annotations

import ast
import textwrap
from dataclasses import dataclass, field

from lint.scripts import NoPlace, Script


@dataclass(frozen=True)
class Planted:
    """A script with a mistake.

    Attributes:
        source: the script.
        lines: where the check may report it.
        also: further codes that are right to speak up.
        named_by: codes that name the mistake as well as its own does.
    """

    source: str
    lines: frozenset[int]
    also: frozenset[str] = frozenset()
    named_by: frozenset[str] = frozenset()


@dataclass
class Draft:
    """The edits of one script. Positions are those of the script that is edited."""

    script: Script
    edits: list[tuple[int, int, str, bool]] = field(default_factory=list)
    marks: list[ast.AST] = field(default_factory=list)
    deleted: set[ast.stmt] = field(default_factory=set)

    def replace(self, node: ast.AST, text: str, marked: bool = False) -> None:
        self.edits.append((*self.script.span(node), text, marked))

    def append_argument(self, call: ast.Call, text: str) -> None:
        """A further argument of a call."""
        end = self.script.span(call)[1] - 1
        before = self.script.source[:end].rstrip()
        lead = "" if before.endswith(("(", ",")) else ", "
        self.edits.append((end, end, lead + text, False))

    def before(self, statement: ast.stmt, code: str, marked: bool = False) -> None:
        """Lines of code before a statement, with its indentation."""
        at = self.script.whole_lines(statement)[0]
        self.edits.append((at, at, textwrap.indent(code, self.script.indentation(statement)) + "\n", marked))

    def after(self, statement: ast.stmt, code: str, marked: bool = False) -> None:
        at = self.script.whole_lines(statement)[1]
        self.edits.append((at, at, textwrap.indent(code, self.script.indentation(statement)) + "\n", marked))

    def delete(self, *statements: ast.stmt) -> None:
        for statement in statements:
            if statement in self.deleted:
                continue
            self.deleted.add(statement)
            empty = self.deleted.issuperset(self.script.blocks[statement])
            text = self.script.indentation(statement) + "pass\n" if empty else ""
            self.edits.append((*self.script.whole_lines(statement), text, False))

    def code(self, statement: ast.stmt) -> str:
        """A statement as it is written, without its indentation."""
        start, end = self.script.whole_lines(statement)
        return textwrap.dedent(self.script.source[start:end]).rstrip("\n")

    def move_before(self, statement: ast.stmt, place: ast.stmt) -> None:
        self.before(place, self.code(statement), marked=True)
        self.delete(statement)

    def move_after(self, statement: ast.stmt, place: ast.stmt) -> None:
        self.after(place, self.code(statement), marked=True)
        self.delete(statement)

    def indent(self, first: ast.stmt, last: ast.stmt, header: str = "", marked: bool = False) -> None:
        """The statements from `first` to `last` get a header, `with ...:`, and stand one step to the right."""
        start, end = self.script.whole_lines(first)[0], self.script.whole_lines(last)[1]
        code = textwrap.indent(self.script.source[start:end], "    ")
        lead = f"{self.script.indentation(first)}{header}\n" if header else ""
        self.edits.append((start, end, lead + code, marked))

    def dedent(self, statement: ast.With) -> None:
        """The body of a `with` takes the place of the whole statement."""
        start, end = self.script.whole_lines(statement)
        body = self.script.starts[statement.body[0].lineno - 1]
        comments = self.script.source[start:body].splitlines(keepends=True)[1:]
        if statement.items[-1].context_expr.end_lineno != statement.lineno:
            raise NoPlace
        step = len(self.script.indentation(statement.body[0])) - len(self.script.indentation(statement))
        code = "".join(comments) + self.script.source[body:end]
        lines = [line[step:] if line[:step].isspace() else line for line in code.splitlines(keepends=True)]
        self.edits.append((start, end, "".join(lines), True))

    def head(self, code: str) -> None:
        """An import at the head of the script, after the docstring and the imports from `__future__`."""
        if code in self.script.source:
            return
        place = next(
            one
            for one in self.script.tree.body
            if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))
            and not (isinstance(one, ast.ImportFrom) and one.module == "__future__")
        )
        self.before(place, code)

    def mark(self, *nodes: ast.AST | None) -> None:
        """The lines of these nodes may be named, the first one of those that have a body."""
        self.marks += [node for node in nodes if node is not None]

    def text(self) -> str:
        return self._build()[0]

    def finish(self, also: tuple[str, ...] = (), named_by: tuple[str, ...] = ()) -> Planted:
        source, lines = self._build()
        return Planted(source, frozenset(lines), frozenset(also), frozenset(named_by))

    def _build(self) -> tuple[str, set[int]]:
        edits = sorted(enumerate(self.edits), key=lambda one: (one[1][0], one[1][1], one[0]))
        pieces: list[str] = []
        lines: set[int] = set()
        at = 0
        line = 1  # of the new source, where the next piece goes
        done: list[tuple[int, int, int, str]] = []  # start and end in the old source, line in the new one, text
        for _, (start, end, text, marked) in edits:
            if start < at:
                raise NoPlace  # two edits of one place
            kept = self.script.source[at:start]
            line += kept.count("\n")
            if marked:
                lines.update(range(line, line + max(1, text.count("\n") + (not text.endswith("\n")))))
            done.append((start, end, line, text))
            line += text.count("\n")
            pieces += (kept, text)
            at = end
        pieces.append(self.script.source[at:])
        marks = {number for node in self.marks for number in _lines(node)}
        lines.update(new for old in marks if (new := self._new_line(old, done)))
        return "".join(pieces), lines

    def _new_line(self, line: int, done: list[tuple[int, int, int, str]]) -> int:
        """Where a line of the old source is in the new one; 0 for a deleted one."""
        offset = self.script.starts[line - 1]
        shift = 0
        for start, end, new, text in done:
            if end <= offset:
                shift += text.count("\n") - self.script.source[start:end].count("\n")
            elif start <= offset < end:
                if text.strip() in ("", "pass"):
                    return 0
                inside = self.script.source[start:offset].count("\n")
                return new + min(inside, text.rstrip("\n").count("\n"))
        return line + shift


def _lines(node: ast.AST) -> range:
    body = getattr(node, "body", None)
    if isinstance(body, list) and body:
        return range(node.lineno, max(body[0].lineno, node.lineno + 1))
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)
