"""A fix: edits of the source text that remove a fault."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

# Where Python and editors end a line; `str.splitlines` also ends one at a form feed, which old sources have.
_LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True, order=True)
class Edit:
    """The characters from `start` up to `end` are replaced by `new`. Places are (line, column), both from 1; columns
    count characters."""

    start: tuple[int, int]
    end: tuple[int, int]
    new: str


@dataclass(frozen=True)
class Fix:
    """Edits that are applied together, all or none.

    Attributes:
        says: what the edits do, as "insert optimizer.zero_grad() before the backward pass".
        edits: the edits, which must not overlap.
        safe: whether the fix certainly keeps the intent; `--fix` applies safe fixes, `--unsafe-fixes` all fixes.

    Raises ValueError for edits that overlap or end before they begin.
    """

    says: str
    edits: tuple[Edit, ...]
    safe: bool = False

    def __post_init__(self) -> None:
        ordered = sorted(self.edits)
        for one in ordered:
            if one.end < one.start:
                raise ValueError(f"fix {self.says!r}: an edit ends at {one.end}, before it begins at {one.start}")
        for one, following in pairwise(ordered):
            if following.start < one.end or following.start == one.start:
                raise ValueError(f"fix {self.says!r}: the edits at {one.start} and {following.start} overlap")


def applied(source: str, fixes: Iterable[Fix]) -> tuple[str, list[Fix]]:
    """The source after the fixes, and the fixes that were applied: a fix that overlaps an earlier fix is left for the
    next call.

    >>> applied("a = 1", [Fix("rename a", (Edit((1, 1), (1, 2), "b"),))])[0]
    'b = 1'
    """
    found, made = splices(source, fixes)
    for begin, end, new in reversed(found):
        source = source[:begin] + new + source[end:]
    return source, made


def splices(source: str, fixes: Iterable[Fix]) -> tuple[list[tuple[int, int, str]], list[Fix]]:
    """What `applied` replaces: (begin, end, new text) by character, in the order of the source, and the fixes that were
    made."""
    ends = [one.end() for one in _LINE_END.finditer(source)]
    starts = [0, *ends]

    def offset(place: tuple[int, int]) -> int:
        line, column = place
        if line > len(starts):
            return len(source)
        return min(starts[line - 1] + column - 1, starts[line] if line < len(starts) else len(source))

    made: list[Fix] = []
    taken: list[tuple[int, int, str]] = []
    for fix in fixes:
        spans = [(offset(edit.start), offset(edit.end), edit.new) for edit in fix.edits]
        free = all(
            end <= begin2 or end2 <= begin if begin != begin2 else False
            for begin, end, _ in spans
            for begin2, end2, _ in taken
        )
        if free:
            taken += spans
            made.append(fix)
    return sorted(taken), made
