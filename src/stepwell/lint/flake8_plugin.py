"""The checks inside flake8: `pip install stepwell`, and flake8 reports the SW codes beside its own."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator, Sequence
from typing import Any

from stepwell import __version__


class Plugin:
    """What flake8 calls for each file; the settings are those of `stepwell lint` for it."""

    name = "stepwell"
    version = __version__

    def __init__(self, tree: ast.AST, filename: str = "stdin", lines: Sequence[str] = ()) -> None:
        self._file, self._source = filename, "".join(lines)

    def run(self) -> Iterator[tuple[int, int, str, type[Any]]]:
        """(line, column from 0, text, this class) of each finding."""
        from stepwell.lint.active import active
        from stepwell.lint.configuration import Configuration
        from stepwell.lint.document import Document
        from stepwell.lint.examined import examined
        from stepwell.lint.output import source_of

        path = os.path.abspath(self._file)
        counts = active(Configuration().of(path), path)
        for hit in filter(counts, examined(Document(self._file, self._source)).hits):
            place = source_of(hit.finding)
            said = f"{hit.finding.code} {hit.finding.seen}: {hit.finding.instead}"
            yield place.line, (place.column or 1) - 1, said, type(self)
