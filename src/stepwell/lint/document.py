"""A document: a file's text as the checks read it, and the way back to the file's own places and bytes.

A Python file is read as it is. A notebook (notebook.py) is read as one module, cell after cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from stepwell.findings import Finding, Fix, Source
from stepwell.findings.fix import splices
from stepwell.lint.lines import line_end, split


class Unread(Exception):
    """A file that cannot be checked, with the reason in words."""


class Document:
    """A Python source.

    Attributes:
        file: the path as the user gave it.
        source: what the checks read.
    """

    def __init__(self, file: str, source: str, encoding: str = "utf-8", mark: bytes = b"") -> None:
        self.file, self.source, self._encoding, self._mark = file, source, encoding, mark
        self._lines: list[str] | None = None

    @property
    def lines(self) -> list[str]:
        if self._lines is None:
            self._lines = split(self.text)
        return self._lines

    @property
    def text(self) -> str:
        """The source as the user sees it; lines and columns are those of `source`."""
        return self.source

    def line(self, number: int) -> str:
        """A line without its end, or "" after the last one."""
        return self.lines[number - 1].rstrip("\r\n") if 0 < number <= len(self.lines) else ""

    def place(self, place: Source) -> Source:
        """A place in `source` as a place in the file."""
        return place

    def located(self, finding: Finding) -> Finding:
        """The finding with the places of the file."""
        return finding

    def own_fix(self, finding: Finding) -> Fix | None:
        """The finding's fix in the line ends of this document; None if it cannot be made here.

        Lines added after a last line that has no end go behind that line.
        """
        fix = finding.fix
        if fix is None:
            return None
        text, end = self.text, line_end(self.text)
        edits = []
        for edit in fix.edits:
            new = edit.new.replace("\r\n", "\n").replace("\n", end)
            start, stop = edit.start, edit.end
            if start[0] > len(self.lines) and text and not text.endswith(("\n", "\r")) and new.endswith(end):
                start = stop = (len(self.lines), len(self.lines[-1]) + 1)
                new = end + new[: -len(end)]
            edits.append(replace(edit, start=start, end=stop, new=new))
        try:
            return replace(fix, edits=tuple(edits))
        except ValueError:  # two edits meet behind the last line
            return None

    def changed(self, fixes: Sequence[Fix]) -> tuple[Document, list[Fix], list[tuple[int, int, str]]]:
        """The document after these fixes, the fixes that were made, and what was replaced in `text`."""
        found, made = splices(self.text, fixes)
        return Document(self.file, spliced(self.text, found), self._encoding, self._mark), made, found

    def data(self) -> bytes:
        """The bytes of the file. Raises UnicodeEncodeError for what the file's encoding does not have."""
        return self._mark + self.source.encode(self._encoding)


def spliced(text: str, found: Sequence[tuple[int, int, str]]) -> str:
    parts, at = [], 0
    for begin, end, new in found:
        parts += [text[at:begin], new]
        at = end
    return "".join([*parts, text[at:]])
