"""Lines where Python ends them: at \\n, \\r\\n and \\r. `str.splitlines` also ends one at form feeds and other signs
that stand inside the lines of real sources."""

from __future__ import annotations

import io


def split(text: str) -> list[str]:
    """The lines with their ends.

    >>> split("a\\x0cb\\r\\nc")
    ['a\\x0cb\\r\\n', 'c']
    """
    return io.StringIO(text, newline="").readlines()


def line_end(text: str) -> str:
    """The line end that the text uses most; "\\n" if it has none."""
    windows = text.count("\r\n")
    unix, old = text.count("\n") - windows, text.count("\r") - windows
    if windows > unix and windows >= old:
        return "\r\n"
    return "\r" if old > unix else "\n"
