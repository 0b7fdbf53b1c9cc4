"""A notebook: its code cells read as one module, in order, and written back without touching anything else.

The cells are numbered as editors show them: from 1, those with text included. What is written back replaces the text of
a cell in the file's own JSON, with the file's own indentation; outputs, metadata and the order of keys stay.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from json.decoder import WHITESPACE, JSONDecodeError  # type: ignore[attr-defined]  # json's own blanks, not in its stub
from typing import Any

from stepwell.findings import Evidence, Finding, Fix, Source
from stepwell.findings.fix import splices
from stepwell.lint.document import Document, Unread, spliced
from stepwell.lint.lines import split
from stepwell.lint.magics import python_of

_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class Cell:
    """A code cell: its number, its text, and where its text stands in the JSON."""

    number: int
    text: str
    begin: int
    end: int


class Notebook(Document):
    """The code cells of a notebook."""

    def __init__(self, file: str, raw: str, cells: Sequence[Cell], mark: bytes = b"") -> None:
        self.raw, self.cells = raw, cells
        self._shown = [_ended(cell.text) for cell in cells]
        self._starts = [1]  # the line at which each cell begins
        for text in self._shown:
            self._starts.append(self._starts[-1] + text.count("\n"))
        super().__init__(file, "".join(_ended(python_of(cell.text)) for cell in cells), "utf-8", mark)

    @property
    def text(self) -> str:
        return "".join(self._shown)

    def _cell(self, line: int) -> int:
        return max(0, min(bisect_right(self._starts, line), len(self.cells)) - 1)

    def place(self, place: Source) -> Source:
        if not self.cells:
            return place
        cell = self._cell(place.line)
        start = self._starts[cell] - 1
        end = place.end
        if end is not None:
            end = (end[0] - start, end[1]) if self._cell(end[0]) == cell else None
        return replace(place, line=place.line - start, end=end, cell=self.cells[cell].number)

    def located(self, finding: Finding) -> Finding:
        assert isinstance(finding.place, Source)
        evidence = [
            Evidence(self.place(one.place), one.seen) if isinstance(one.place, Source) else one
            for one in finding.evidence
        ]
        return replace(
            finding, place=self.place(finding.place), evidence=tuple(evidence), fix=self._fix_inside(finding)
        )

    def _fix_inside(self, finding: Finding) -> Fix | None:
        """The fix in the places of the finding's cell; None if it also changes others."""
        fix = self.own_fix(finding)
        if fix is None or not isinstance(finding.place, Source):
            return None
        cell = self._cell(finding.place.line)
        if any({self._cell(edit.start[0]), self._cell(edit.end[0])} != {cell} for edit in fix.edits):
            return None
        start = self._starts[cell] - 1
        moved = [
            replace(one, start=(one.start[0] - start, one.start[1]), end=(one.end[0] - start, one.end[1]))
            for one in fix.edits
        ]
        return replace(fix, edits=tuple(moved))

    def own_fix(self, finding: Finding) -> Fix | None:
        """The fix with each edit inside one cell. Lines added behind the finding's cell belong to that cell, and lines
        removed up to its end leave the next one alone."""
        fix = finding.fix
        if fix is None or not self.cells or not isinstance(finding.place, Source):
            return None
        home = self._cell(finding.place.line)
        edits = []
        for edit in fix.edits:
            start, end, new = edit.start, edit.end, edit.new.replace("\r\n", "\n")
            begins, ends = self._cell(start[0]), self._cell(end[0])
            behind = (self._starts[home + 1], 1)
            if start == end == behind and new.endswith("\n"):
                start = end = (behind[0] - 1, len(self.line(behind[0] - 1)) + 1)
                new = "\n" + new[:-1]
            elif end == (self._starts[begins + 1], 1) and start < end:  # up to the end of its cell
                end = (end[0] - 1, len(self.line(end[0] - 1)) + 1)
                if new.endswith("\n"):
                    new = new[:-1]
                elif start[1] == 1 and start[0] > self._starts[begins]:  # whole lines: the line end before them goes
                    start = (start[0] - 1, len(self.line(start[0] - 1)) + 1)
            elif begins != ends:
                return None
            edits.append(replace(edit, start=start, end=end, new=new))
        try:
            return replace(fix, edits=tuple(edits))
        except ValueError:
            return None

    def changed(self, fixes: Sequence[Fix]) -> tuple[Document, list[Fix], list[tuple[int, int, str]]]:
        found, made = splices(self.text, fixes)
        replaced: list[tuple[int, int, str]] = []
        at = 0
        for cell, shown in zip(self.cells, self._shown, strict=True):
            inside = [
                (b - at, e - at, new) for b, e, new in found if at <= b and e <= at + len(shown) and b < at + len(shown)
            ]
            if inside:
                text = spliced(shown, inside)
                if not cell.text.endswith("\n"):
                    text = text.removesuffix("\n")
                replaced.append((cell.begin, cell.end, _written(text, self.raw[cell.begin : cell.end], self.raw)))
            at += len(shown)
        raw = spliced(self.raw, replaced)
        return Notebook(self.file, raw, _cells(raw), self._mark), made, found

    def data(self) -> bytes:
        return self._mark + self.raw.encode("utf-8")


def notebook(file: str, data: bytes) -> Notebook:
    """The document of a notebook. Raises Unread for what is none, or holds another language than Python."""
    mark = b"\xef\xbb\xbf" if data.startswith(b"\xef\xbb\xbf") else b""
    try:
        raw = data[len(mark) :].decode("utf-8")
        whole = json.loads(raw)
        if not isinstance(whole, dict) or not isinstance(whole.get("cells"), list):
            raise Unread("it is JSON but no notebook of format 4: it has no list `cells`")
        return Notebook(file, raw, _cells(raw) if _is_python(whole) else [], mark)
    except UnicodeDecodeError:
        raise Unread("it is no notebook: its bytes are not UTF-8") from None
    except JSONDecodeError as error:
        raise Unread(f"it is no notebook: line {error.lineno}, column {error.colno}: {error.msg}") from None
    except (RecursionError, ValueError):
        raise Unread("it is no notebook: its JSON cannot be read") from None


def _is_python(whole: dict[str, Any]) -> bool:
    found = whole.get("metadata")
    metadata = found if isinstance(found, dict) else {}
    for key, name in (("language_info", "name"), ("kernelspec", "language")):
        said = metadata.get(key)
        language = said.get(name) if isinstance(said, dict) else None
        if isinstance(language, str):
            return language.lower() in ("python", "ipython", "python3")
    return True


def _cells(raw: str) -> list[Cell]:
    found = []
    cells = next((span for key, span in _items(raw, _after(raw, 0)) if key == "cells"), None)
    for number, (begin, _) in enumerate(_elements(raw, cells[0]) if cells else (), 1):
        if raw[begin] != "{":
            continue
        parts = dict(_items(raw, begin))
        if "cell_type" not in parts or "source" not in parts or _value(raw, parts["cell_type"]) != "code":
            continue
        source = _value(raw, parts["source"])
        text = "".join(source) if isinstance(source, list) and all(isinstance(s, str) for s in source) else source
        if isinstance(text, str):
            found.append(Cell(number, text.replace("\r\n", "\n").replace("\r", "\n"), *parts["source"]))
    return found


def _value(raw: str, span: tuple[int, int]) -> Any:
    return _DECODER.raw_decode(raw, span[0])[0]


def _after(raw: str, at: int) -> int:
    return WHITESPACE.match(raw, at).end()


def _items(raw: str, begin: int) -> Iterator[tuple[str, tuple[int, int]]]:
    """The keys of the object at `begin`, and from where to where each value stands."""
    at = _after(raw, begin + 1)
    while raw[at] != "}":
        key, at = _DECODER.raw_decode(raw, at)
        start = _after(raw, _after(raw, at) + 1)  # behind the colon
        _, end = _DECODER.raw_decode(raw, start)
        yield key, (start, end)
        at = _after(raw, end)
        at = _after(raw, at + 1) if raw[at] == "," else at


def _elements(raw: str, begin: int) -> Iterator[tuple[int, int]]:
    at = _after(raw, begin + 1)
    while raw[at] != "]":
        _, end = _DECODER.raw_decode(raw, at)
        yield at, end
        at = _after(raw, end)
        at = _after(raw, at + 1) if raw[at] == "," else at


def _written(text: str, old: str, raw: str) -> str:
    """The text of a cell as JSON of the form in which the old one stands: a list of lines or one string."""
    plain = raw.isascii() and "\\u" in raw

    def dumped(value: str) -> str:
        return json.dumps(value, ensure_ascii=plain)

    if not old.startswith("["):
        return dumped(text)
    lines = [line for line in split(text) if line]
    spans = list(_elements(old, 0))
    if not lines or not spans:
        return "[" + ", ".join(map(dumped, lines)) + "]"
    opening, closing = old[: spans[0][0]], old[spans[-1][1] :]
    between = old[spans[0][1] : spans[1][0]] if len(spans) > 1 else "," + (opening[1:] or " ")
    return opening + between.join(map(dumped, lines)) + closing


def _ended(text: str) -> str:
    return text if text.endswith("\n") or not text else text + "\n"
