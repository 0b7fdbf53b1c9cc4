"""Parameters by pattern: the names that a glob or a regular expression matches, and the error if it matches none."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterable, Sequence

from stepwell.anatomy import Member
from stepwell.arguments import items
from stepwell.errors import UsageError, shown

# A glob over the whole name ("*.bias"), or the name of a module or parameter ("encoder.layer.3"); or a compiled
# regular expression, which may match anywhere in the name.
Pattern = str | re.Pattern[str]


_MOST = 10_000  # patterns; an iterator of more is taken for one that never ends
_LONGEST = 200  # characters of a pattern that are compared with the names: difflib's time grows with the square


def text_of(pattern: Pattern) -> str:
    return pattern.pattern if isinstance(pattern, re.Pattern) else pattern


def matches(pattern: Pattern, member: Member) -> bool:
    """Whether `pattern` matches any name of this tensor."""
    if isinstance(pattern, re.Pattern):
        return any(pattern.search(name) for name in member.names)
    if not any(sign in pattern for sign in "*?["):
        return any(name == pattern or name.startswith(f"{pattern}.") for name in member.names)
    return any(fnmatch.fnmatchcase(name, pattern) for name in member.names)


def check(patterns: Iterable[Pattern], members: Sequence[Member], owner: str) -> None:
    """Raise UsageError for a pattern that matches no parameter, with the nearest names."""
    for pattern in patterns:
        if not isinstance(pattern, (str, re.Pattern)):
            raise UsageError(
                f"{owner}: the pattern {shown(pattern)} is neither a str (a glob such as '*.bias') "
                "nor a compiled regular expression"
            )
        if not any(matches(pattern, member) for member in members):
            raise UsageError(
                f"{owner}: the pattern {shown(text_of(pattern))} matches no parameter; {_near(pattern, members)}"
            )


def _near(pattern: Pattern, members: Sequence[Member]) -> str:
    names = [name for member in members for name in member.names]
    modules = sorted({".".join(name.split(".")[:end]) for name in names for end in range(1, name.count(".") + 1)})
    plain = re.sub(r"[\\^$*?\[\]()|+]", "", text_of(pattern)[:_LONGEST]).strip(".")
    close = difflib.get_close_matches(plain, [*modules, *names], n=3, cutoff=0.4)
    close = close or [name for name in names if plain and plain.lower() in name.lower()][:3] or names[:3]
    return f"nearest of {len(names)}: {', '.join(close)}"


def pick(patterns: Iterable[Pattern], members: Sequence[Member], owner: str) -> list[Member]:
    """The members that any of the patterns matches. Raises UsageError for a pattern without a match."""
    whose, _, name = owner.rpartition(": ")
    must = "a list of name patterns, as ['head', '*.bias']"
    given = [patterns] if isinstance(patterns, (str, re.Pattern)) else items(whose, name, patterns, must, most=_MOST)
    check(given, members, owner)
    return [member for member in members if any(matches(pattern, member) for pattern in given)]
