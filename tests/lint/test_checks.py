"""Every check on its own examples: each bad one is found where it says so, and nowhere else; no good one is found."""

from __future__ import annotations

from types import ModuleType

import pytest

from stepwell.lint.analysis import read
from stepwell.lint.checks import TABLE, load

CASES = [
    (module, kind, index)
    for module in load()
    for kind in ("BAD", "GOOD")
    for index in range(len(getattr(module, kind)))
]


def found(module: ModuleType, source: str) -> list[int]:
    return sorted({finding.place.line for finding in module.find(read(source))})


@pytest.mark.parametrize(
    ("module", "kind", "index"), CASES, ids=[f"{m.CHECK.code}-{k.lower()}-{i}" for m, k, i in CASES]
)
def test_examples(module: ModuleType, kind: str, index: int) -> None:
    source = getattr(module, kind)[index]
    expected = [number for number, line in enumerate(source.splitlines(), 1) if "# expect" in line]
    assert bool(expected) == (kind == "BAD")
    assert found(module, source) == expected


@pytest.mark.parametrize("module", load(), ids=list(TABLE))
def test_a_check_has_enough_examples_and_its_code(module: ModuleType) -> None:
    assert len(module.BAD) >= 5
    assert len(module.GOOD) >= 5
    assert TABLE[module.CHECK.code] == module.__name__.rsplit(".", 1)[-1]
    assert module.FIX in ("safe", "unsafe", "")
