"""A line of source with a marker under the place that is meant."""

from __future__ import annotations

from stepwell.findings import Source

_WIDEST = 140  # characters of a source line that are shown
_BEFORE = 60  # of them before the place, in a longer line


def marked(line: str, place: Source) -> list[str]:
    """The line as a terminal shows it, and a line with carets; nothing for a line that is empty.

    >>> marked("x = loss.backward()", Source("t.py", 1, 5, (1, 18)))
    ['x = loss.backward()', '    ^^^^^^^^^^^^^']
    """
    if not line.strip():
        return []
    begin = min((place.column or 1) - 1, len(line))
    end = len(line.rstrip())
    if place.end is not None and place.end[0] == place.line:
        end = min(end, place.end[1] - 1)
    if place.column is None:
        begin = len(line) - len(line.lstrip())
    end = max(end, begin + 1)
    cut = max(0, begin - _BEFORE) if len(line) > _WIDEST else 0
    if not cut:
        cut = min(begin, len(line) - len(line.lstrip()))  # the indentation says nothing here
    shown = [_shown(sign) for sign in line[cut : cut + _WIDEST]]
    widths = [_width(text) for text in shown]
    inside = slice(begin - cut, min(end - cut, len(shown)))
    marker = " " * sum(widths[: begin - cut]) + "^" * max(1, sum(widths[inside]))
    return ["".join(shown).rstrip(), marker]


def _shown(sign: str) -> str:
    if sign == "\t":
        return "    "
    return sign if sign.isprintable() else "?"  # a control character could move the cursor of a terminal


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(one) else 2 if east_asian_width(one) in "WF" else 1 for one in text)
