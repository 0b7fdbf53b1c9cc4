"""The surface is tested with checks of its own (example_checks), so that no test of it depends on a real one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest

from stepwell import cli
from stepwell.lint import checks, codes

EXAMPLES = {
    "SW101": "zero_grad_between",
    "SW102": "missing_step",
    "SW210": "get_lr",
    "SW310": "bad_fixes",
    "SW901": "plain_sgd",
}


@pytest.fixture
def example_checks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    modules = {name: import_module(f"tests.lint.example_checks.{name}") for name in EXAMPLES.values()}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, f"stepwell.lint.checks.{name}", module)
    monkeypatch.setattr(checks, "TABLE", EXAMPLES)
    monkeypatch.setattr(checks, "load", lambda: list(modules.values()))
    forget()
    yield
    forget()


def forget() -> None:
    for one in (codes.names, codes.check_of, codes.expanded):
        one.cache_clear()


@dataclass
class Said:
    code: int
    out: str
    err: str


@pytest.fixture
def lint(
    example_checks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Said]:
    """Runs the command in an empty folder, without a cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NO_COLOR", raising=False)

    def run(*arguments: str, cache: bool = False) -> Said:
        capfd.readouterr()
        code = cli.main(["lint", *([] if cache else ["--no-cache"]), *arguments])
        said = capfd.readouterr()
        return Said(code, said.out, said.err)

    return run
