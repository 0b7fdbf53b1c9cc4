"""What a fix changes, as a unified diff."""

from __future__ import annotations

from collections.abc import Iterator

from stepwell.lint.document import Document
from stepwell.lint.lines import split


def diff(old: Document, new: Document) -> str:
    """The differences of two states of a document, of a notebook cell by cell; empty if there is none."""
    from difflib import unified_diff

    parts: list[str] = []
    for (name, before), (_, after) in zip(_texts(old), _texts(new), strict=True):
        for line in unified_diff(split(before), split(after), name, name):
            if line.endswith("\n"):
                parts.append(line)
            elif line.endswith("\r"):
                parts.append(line + "\n")
            else:
                parts.append(f"{line}\n\\ No newline at end of file\n")
    return "".join(parts)


def _texts(document: Document) -> Iterator[tuple[str, str]]:
    cells = getattr(document, "cells", None)
    if cells is None:
        yield document.file, document.text
        return
    for cell in cells:
        text = cell.text
        yield f"{document.file}:cell {cell.number}", text if text.endswith("\n") or not text else text + "\n"
