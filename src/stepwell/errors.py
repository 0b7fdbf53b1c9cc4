"""How a refusal is worded: one line with what was given, what is allowed and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """Something that a user can mend. Commands print its message and exit with 2; no traceback."""


class WrongType(UsageError, TypeError):
    """An argument of a type that cannot serve, where torch promises a TypeError."""


class MissingExtra(UsageError, ImportError):
    """A package of an optional extra is needed and not installed."""

    def __init__(self, package: str, extra: str, needed_for: str) -> None:
        super().__init__(
            f"{needed_for} needs the package '{package}', which is not installed: pip install 'stepwell[{extra}]'"
        )


def nearest(given: str, known: Iterable[str]) -> str:
    """The end of an unknown-name message: the nearest right name if one is near, then all of them.

    >>> nearest("adamv", ["adam", "adamw", "sgd"])
    "did you mean 'adamw'? known: adam, adamw, sgd"
    """
    names = sorted(known)
    folded = {name.lower(): name for name in names}
    close = difflib.get_close_matches(given.lower(), folded, n=1, cutoff=0.5)
    hint = f"did you mean '{folded[close[0]]}'? " if close else ""
    return f"{hint}known: {', '.join(names)}"


def unknown(kind: str, given: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not in a table."""
    return UsageError(f"unknown {kind} '{given}': {nearest(given, known)}")
