"""The fixes that checks offer on their own examples: the result parses, the finding is gone, nothing new is found."""

from __future__ import annotations

import ast
from types import ModuleType

import pytest

from stepwell.findings.fix import applied
from stepwell.lint.analysis import read
from stepwell.lint.checks import load

CERTAIN = [module for module in load() if module.CHECK.certainty == "certain"]
FIXING = [module for module in load() if module.FIX]


def codes(source: str) -> list[str]:
    script = read(source)
    return sorted(finding.code for module in CERTAIN for finding in module.find(script))


@pytest.mark.parametrize("module", FIXING, ids=[module.CHECK.code for module in FIXING])
def test_a_fix_removes_its_finding_and_brings_no_other(module: ModuleType) -> None:
    offered = 0
    for source in module.BAD:
        before = list(module.find(read(source)))
        fixes = [finding.fix for finding in before if finding.fix is not None]
        if not fixes:
            continue
        offered += 1
        fixed, made = applied(source, fixes)
        ast.parse(fixed)
        after = list(module.find(read(fixed)))
        assert len(after) <= len(before) - len(made), fixed
        new = [code for code in codes(fixed) if code not in codes(source)]
        assert not new, (new, fixed)
        assert {fix.safe for fix in fixes} <= {True, False}
    assert offered, "a check that says it offers fixes offers none on its own examples"


@pytest.mark.parametrize("module", load(), ids=[module.CHECK.code for module in load()])
def test_a_check_says_whether_it_fixes(module: ModuleType) -> None:
    fixes = [finding.fix for source in module.BAD for finding in module.find(read(source)) if finding.fix is not None]
    assert bool(fixes) == bool(module.FIX)
    if module.FIX == "unsafe":
        assert not any(fix.safe for fix in fixes)
