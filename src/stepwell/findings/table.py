"""The table of all checks, by code. Each room lists its checks in its module `checks`, as CHECKS; no other registration
is needed.

No room is named here: every room with a module `checks` is included, and a removed room is simply missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING

from stepwell.errors import UsageError, closest, shown
from stepwell.findings.check import Check

if TYPE_CHECKING:
    from pathlib import Path


@cache
def table() -> Mapping[str, Check]:
    """All checks by code, in the order of their codes.

    Raises ValueError if two rooms use the same code or name.
    """
    from importlib import import_module
    from pathlib import Path

    found: dict[str, Check] = {}
    house = Path(__file__).parents[1]
    for room in sorted(path for path in house.iterdir() if _has_checks(path)):
        for check in import_module(f"stepwell.{room.name}.checks").CHECKS:
            for other in found.values():
                if check.code == other.code or check.name == other.name:
                    raise ValueError(f"two checks are called {check.code} or {check.name}: {other!r} and {check!r}")
            found[check.code] = check
    return MappingProxyType(dict(sorted(found.items())))


def find(code: str) -> Check:
    """The check of a code or a name, in any case.

    Raises UsageError for an unknown code or name, with the closest known one.

    >>> find("c04").name
    'best-rate-at-the-edge'
    """
    checks = table()
    names = {check.name: check for check in checks.values()}
    if isinstance(code, str):
        check = checks.get(code.upper()) or names.get(code.lower())
        if check is not None:
            return check
    near = closest(code, [*checks, *names])
    guess = f"did you mean {near!r}? " if near else ""
    raise UsageError(f"there is no check {shown(code)}: {guess}`stepwell findings` shows all {len(checks)}")


def _has_checks(room: Path) -> bool:
    return (room / "checks.py").is_file() or (room / "checks" / "__init__.py").is_file()
