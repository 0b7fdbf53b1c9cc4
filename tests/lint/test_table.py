"""What the surface takes for granted of the table of checks."""

from __future__ import annotations

import subprocess
import sys

import pytest

from stepwell.lint import checks, codes, explain


@pytest.mark.parametrize("code", checks.TABLE)
def test_a_check_is_named_as_its_file_and_has_a_page(code: str) -> None:
    module = explain.module_of(code)
    assert module.CHECK is codes.check_of(code)
    assert (module.CHECK.code, module.CHECK.name) == (code, codes.names()[code])
    assert module.FIX in ("safe", "unsafe", "")
    page = explain.page(module)
    assert page.startswith(f"# {module.CHECK.name} ({code})\n")
    assert "## Fix safety\n" in page


def test_the_table_is_in_order_and_load_follows_it() -> None:
    assert list(checks.TABLE) == sorted(checks.TABLE)
    assert [module.CHECK.code for module in checks.load()] == list(checks.TABLE)


def test_codes_are_known_without_loading_the_checks() -> None:
    """An option is read, and a run that the cache answers is done, before any check is imported."""
    code = """
import sys
from stepwell.lint.settings import Settings
Settings(select=("ALL",))
print([name for name in sys.modules if name.startswith("stepwell.lint.checks.")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
