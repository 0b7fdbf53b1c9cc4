"""Fixes: made only where what remains is better than what was.

A fix counts when the changed source can be read, its own finding is gone, and no check that is on finds anything new.
Fixes that overlap wait for the next pass; after 20 passes the rest is left as it is.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from stepwell.findings import Fix
from stepwell.lint.document import Document
from stepwell.lint.examined import Examined, Hit, examined
from stepwell.lint.lines import split

PASSES = 20
Splices = Sequence[tuple[int, int, str]]


@dataclass
class Fixed:
    """A document after its fixes.

    Attributes:
        document: the changed document, or the same if nothing could be fixed.
        made: the code of each fix that was made.
        left: what all checks find in the document now.
    """

    document: Document
    made: list[str] = field(default_factory=list)
    left: Examined = field(default_factory=Examined)


def fixed(document: Document, counts: Callable[[Hit], bool], unsafe: bool) -> Fixed:
    """Make the fixes of the findings that count; with `unsafe`, also those that may change what the program means."""
    result = Fixed(document, left=examined(document))
    for _ in range(PASSES):
        before = [hit for hit in result.left.raw if counts(hit)]
        offered = [
            (hit, fix)
            for hit in before
            if hit.finding.fix is not None and (hit.finding.fix.safe or unsafe)
            if (fix := result.document.own_fix(hit.finding)) is not None
        ]
        better = _better(result.document, before, offered, counts)
        if better is None:
            break
        result = Fixed(better.document, result.made + better.made, better.left)
    return result


def _better(
    document: Document, before: Sequence[Hit], offered: Sequence[tuple[Hit, Fix]], counts: Callable[[Hit], bool]
) -> Fixed | None:
    """All fixes at once, else one after the other beside those that were good; None if none is."""
    if not offered:
        return None
    best = _tried(document, before, offered, counts)
    if best is not None or len(offered) == 1:
        return best
    good: list[tuple[Hit, Fix]] = []
    for one in offered:
        tried = _tried(document, before, [*good, one], counts)
        if tried is not None and len(tried.made) > len(good):  # else it overlaps a good one, and waits
            good.append(one)
            best = tried
    return best


def _tried(
    document: Document, before: Sequence[Hit], offered: Sequence[tuple[Hit, Fix]], counts: Callable[[Hit], bool]
) -> Fixed | None:
    changed, made, splices = document.changed([fix for _, fix in offered])
    if not splices or changed.text == document.text:
        return None
    try:
        changed.data()
    except UnicodeEncodeError:
        return None
    left = examined(changed)
    if left.unreadable or left.failed:
        return None
    done = [id(fix) for fix in made]
    gone = [hit for hit, fix in offered if id(fix) in done]
    rest = [hit for hit in before if not any(hit is one for one in gone)]
    if not _nothing_new(document.text, splices, rest, [hit for hit in left.raw if counts(hit)]):
        return None
    return Fixed(changed, [hit.finding.code for hit in gone], left)


def _nothing_new(text: str, splices: Splices, rest: Sequence[Hit], after: Sequence[Hit]) -> bool:
    """Whether each finding of the changed text is one of the rest: on its line, or among the lines that changed."""
    open_ones = Counter((hit.finding.code, _line(hit)) for hit in rest)
    regions = _regions(text, splices)
    for hit in after:
        code, line = hit.finding.code, _line(hit)
        shift = 0
        lines: Sequence[int] | None = None
        for (first, last), (new_first, new_last) in regions:
            if new_first <= line <= new_last:
                lines = range(first, last + 1)
                break
            if line > new_last:
                shift = last - new_last
        for old in [line + shift] if lines is None else lines:
            if open_ones[code, old] > 0:
                open_ones[code, old] -= 1
                break
        else:
            return False
    return True


def _regions(text: str, splices: Splices) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """For each replacement, the lines that it touches, before and after."""
    starts = [0]
    for line in split(text):
        starts.append(starts[-1] + len(line))
    if text.endswith(("\n", "\r")) is False:
        starts.pop()
    found = []
    shift = 0
    for begin, end, new in splices:
        first, last = bisect_right(starts, begin), bisect_right(starts, end)
        added = _ends(new)
        grown = added - _ends(text[begin:end])
        found.append(((first, last), (first + shift, last + shift + grown)))
        shift += grown
    return found


def _ends(text: str) -> int:
    return text.count("\n") + text.count("\r") - text.count("\r\n")


def _line(hit: Hit) -> int:
    return hit.finding.place.line  # type: ignore[union-attr]  # a linter's places are in sources
