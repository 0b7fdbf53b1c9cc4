"""`# noqa`: comments by which a user mutes findings on a line or in a file.

    loss.backward()  # noqa                  everything on this line
    loss.backward()  # noqa: SW101, SW2      the check SW101 and all whose codes begin with SW2
    # stepwell: noqa                         everything in this file (in a line of its own)
    # stepwell: noqa: SW101                  one check in this file

A comment on the line of the finding counts, on the first line of its statement, and on the last line of a statement of
several lines. For a statement with a block, as `for` or `def`, its header is meant, not its block.
"""

from __future__ import annotations

import ast
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence

EVERYTHING = "*"
_WORD = "noqa"
_CODES = r"[A-Za-z]+[0-9]+(?:[\s,]+[A-Za-z]+[0-9]+)*"
_LINE = re.compile(rf"#\s*noqa(?P<colon>\s*:\s*(?P<codes>{_CODES})?)?(?![\w-])", re.IGNORECASE)
_FILE = re.compile(rf"#\s*stepwell\s*:\s*noqa(?P<colon>\s*:\s*(?P<codes>{_CODES})?)?(?![\w-])", re.IGNORECASE)


def covers(pattern: str, code: str) -> bool:
    """Whether a word of a comment mutes a code: "*" all, "SW2" each code that begins so."""
    return pattern == EVERYTHING or code.startswith(pattern)


def muted(source: str, tree: ast.Module, places: Sequence[int]) -> list[tuple[str, ...]]:
    """For each line of a finding, the words that mute there."""
    if not places or _WORD not in source.lower():
        return [()] * len(places)
    lines: dict[int, tuple[str, ...]] = {}
    everywhere: tuple[str, ...] = ()
    for number, alone, comment in _comments(source):
        file = _FILE.search(comment)
        if file and alone:
            everywhere += _words(file)
        line = _LINE.search(comment)
        if line:
            lines[number] = lines.get(number, ()) + _words(line)
    if not lines:
        return [everywhere] * len(places)
    spans = sorted(_spans(tree))
    found = []
    for place in places:
        words = everywhere
        for number in sorted({place, *_ends(spans, place)}):
            words += lines.get(number, ())
        found.append(tuple(dict.fromkeys(words)))
    return found


def _words(match: re.Match[str]) -> tuple[str, ...]:
    if match["codes"]:
        return tuple(one.upper() for one in re.split(r"[\s,]+", match["codes"]))
    return () if match["colon"] else (EVERYTHING,)  # a comment with words has no code


def _comments(source: str) -> Iterator[tuple[int, bool, str]]:
    """(line, whether nothing else stands in it, text) of each comment that may matter."""
    import io
    import tokenize

    try:
        for token in tokenize.generate_tokens(io.StringIO(source, newline="").readline):
            if token.type == tokenize.COMMENT and _WORD in token.string.lower():
                yield token.start[0], not token.line[: token.start[1]].strip(), token.string
    except (tokenize.TokenError, SyntaxError):  # it was parsed, so what was found so far is right
        return


def _spans(tree: ast.Module) -> Iterator[tuple[int, int]]:
    """The first and the last line of each statement, of one with a block those of its header."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.stmt):
            continue
        end = node.end_lineno or node.lineno
        if getattr(node, "body", None):
            heads = [
                child.end_lineno or child.lineno
                for name, value in ast.iter_fields(node)
                if name not in ("body", "orelse", "finalbody", "handlers", "cases", "decorator_list", "type_params")
                for child in (value if isinstance(value, list) else [value])
                if isinstance(child, ast.expr | ast.arg)
            ]
            heads += [item.context_expr.end_lineno or 0 for item in getattr(node, "items", ())]
            arguments = getattr(node, "args", None)
            if isinstance(arguments, ast.arguments):
                heads += [one.end_lineno or 0 for one in ast.walk(arguments) if isinstance(one, ast.arg | ast.expr)]
            end = max([node.lineno, *heads])
        yield node.lineno, end


def _ends(spans: Sequence[tuple[int, int]], line: int) -> tuple[int, ...]:
    """The ends of the innermost statement around a line."""
    for begin, end in reversed(spans[: bisect_right(spans, (line, 1 << 60))]):
        if end >= line:
            return begin, end
    return ()
