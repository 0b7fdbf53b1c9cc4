"""Codes, prefixes and names of checks, and which of them are on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from types import MappingProxyType

from stepwell.errors import UsageError, closest, shown
from stepwell.findings import Check

ALL = "ALL"
_WHOLE = 100  # how exactly a whole code or a name says what is meant; a prefix says it by its length


@cache
def names() -> MappingProxyType[str, str]:
    """Code -> name of all checks, without importing the checks themselves."""
    from stepwell.lint.checks import TABLE

    return MappingProxyType({code: file.replace("_", "-") for code, file in TABLE.items()})


@cache
def check_of(code: str) -> Check:
    """The check of a code; only its file is imported."""
    from importlib import import_module

    from stepwell.lint.checks import TABLE

    found: Check = import_module(f"stepwell.lint.checks.{TABLE[code]}").CHECK
    return found


@cache
def expanded(word: str, where: str = "") -> dict[str, int]:
    """The codes that a word means, each with how exactly it is meant.

    Raises UsageError for a word that means none.
    """
    known = names()
    upper, lower = word.upper(), word.lower().replace("_", "-")
    if upper == ALL:
        return dict.fromkeys(known, 0)
    if upper in known:
        return {upper: _WHOLE}
    for code, name in known.items():
        if name == lower:
            return {code: _WHOLE}
    found = {code: len(upper) for code in known if upper.startswith("S") and code.startswith(upper)}
    if found:
        return found
    near = closest(word, [*known, *known.values(), ALL])
    raise UsageError(
        f"{where}{': ' if where else ''}there is no check {shown(word)}: {f'did you mean {near!r}? ' if near else ''}"
        "`stepwell lint --list` shows all; a prefix as 'SW1' and 'ALL' are allowed"
    )


def selection(
    select: Iterable[str] | None, extend: Iterable[str], ignore: Iterable[str], preview: bool
) -> Callable[[Check], bool]:
    """Which checks are on.

    Without `select` every certain check is on, and with `preview` every likely one; `extend` adds to either. A likely
    check is also on without preview where its whole code or name is selected; advice is on where it is selected in any
    way. Where a check is both selected and ignored, the longer word wins, and `ignore` if both are alike.
    """
    asked = _exactness([*(select or ()), *extend])
    off = _exactness(ignore)
    by_default = select is None

    @cache
    def decided(code: str, certainty: str) -> bool:
        exact = asked.get(code, -1)
        is_default = by_default and certainty != "advice"
        if max(exact, 0 if is_default else -1) <= off.get(code, -1) or (exact < 0 and not is_default):
            return False
        return certainty != "likely" or preview or exact == _WHOLE

    return lambda check: decided(check.code, check.certainty)


def _exactness(words: Iterable[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for word in words:
        for code, exact in expanded(word).items():
            found[code] = max(exact, found.get(code, -1))
    return found
