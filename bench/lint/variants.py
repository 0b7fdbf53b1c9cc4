"""The register of planters: code -> the ways in which people make that mistake."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from lint.drafts import Planted
from lint.scripts import NoPlace, Script

Addition = Callable[[str], str]
Planter = Callable[[Script], Planted]


@lru_cache(maxsize=256)
def added(additions: tuple[Addition, ...], source: str) -> Script | None:
    """A script with all of these additions; None where one of them finds no place."""
    if not additions:
        return Script(source)
    script = added(additions[:-1], source)
    try:
        return added((), additions[-1](script.source)) if script is not None else None
    except NoPlace:
        return None


@dataclass(frozen=True)
class Variant:
    """One way to make a mistake: correct additions that give it a place, then the mistake."""

    code: str
    name: str
    first: tuple[Addition, ...]
    planter: Planter

    def plant(self, source: str) -> tuple[str, Planted] | None:
        """The correct script with the additions, and the same with the mistake; None where there is no place."""
        script = added(self.first, source)
        if script is None:
            return None
        try:
            planted = self.planter(script)
        except NoPlace:
            return None
        ast.parse(planted.source)
        if planted.source == script.source:
            return None
        return script.source, planted


VARIANTS: dict[str, list[Variant]] = defaultdict(list)


def plants(code: str, *first: Addition) -> Callable[[Planter], Planter]:
    def register(planter: Planter) -> Planter:
        VARIANTS[code].append(Variant(code, planter.__name__.replace("_", "-").strip("-"), first, planter))
        return planter

    return register
