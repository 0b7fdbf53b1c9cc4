"""The cache: the same findings, sooner; and never a mistake of its own."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stepwell.lint import cache, examined, one_file
from tests.lint.conftest import Said
from tests.lint.scripts import BAD

Lint = Callable[..., Said]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were really looked at."""
    seen: list[str] = []
    real = examined.examined

    def look(document: object) -> object:
        seen.append(document.file)  # type: ignore[attr-defined]
        return real(document)  # type: ignore[arg-type]

    monkeypatch.setattr(one_file, "examined", look)
    return seen


def test_a_second_run_looks_at_nothing_and_says_the_same(lint: Lint, counted: list[str]) -> None:
    Path("a.py").write_text(BAD + "b.get_lr()  # noqa\n")
    notebook = {"cells": [{"cell_type": "code", "source": "a.get_lr()"}]}
    Path("b.ipynb").write_text(json.dumps(notebook))
    first = {kind: lint(".", "--output-format", kind).out for kind in ("text", "json", "sarif")}
    assert lint(".", cache=True).out == first["text"]
    counted.clear()
    for kind, out in first.items():
        assert lint(".", "--output-format", kind, cache=True).out == out
    assert lint(".", "-q", "--select", "SW2", "--output-format", "concise", cache=True).out.count("\n") == 2
    assert counted == []
    assert Path(".stepwell_cache/.gitignore").read_text() == "*\n"
    Path("a.py").write_text("x = 1\n")
    assert "a.py" not in lint(".", "-q", cache=True).out
    assert counted == ["a.py"]


def test_where_it_lies(lint: Lint) -> None:
    Path("project/src").mkdir(parents=True)
    Path("project/pyproject.toml").write_text("")
    Path("project/src/a.py").write_text(BAD)
    lint("project/src/a.py", cache=True)
    assert Path("project/.stepwell_cache").is_dir()
    assert not Path(".stepwell_cache").exists()
    lint("project", "--cache-dir", "elsewhere/deep", cache=True)
    assert Path("elsewhere/deep/lint").is_dir()
    shutil.rmtree("project/.stepwell_cache")
    lint("project", "--no-cache")
    assert not Path("project/.stepwell_cache").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff", b'{"key": 1}', b"[" * 100_000, None, "hits"])
def test_a_broken_cache_is_no_matter(lint: Lint, content: object) -> None:
    Path("a.py").write_text(BAD)
    first = lint("a.py", cache=True)
    (entry,) = Path(".stepwell_cache/lint").rglob("*.json")
    if content is None:
        entry.unlink()
        entry.mkdir()
    elif content == "hits":  # the right key, and nonsense behind it
        whole = json.loads(entry.read_text())
        for hits in ([3], [{}], 3, [{**whole["hits"][0], "code": "SW77"}], [{**whole["hits"][0], "place": [1]}]):
            entry.write_text(json.dumps({**whole, "hits": hits}))
            assert lint("a.py", cache=True) == first
        return
    else:
        assert isinstance(content, bytes)
        entry.write_bytes(content)
    assert lint("a.py", cache=True) == first


def test_a_cache_that_cannot_be_written_is_no_matter(lint: Lint) -> None:
    Path("a.py").write_text(BAD)
    Path(".stepwell_cache").write_text("a file")
    assert lint("a.py", cache=True) == lint("a.py")
    assert lint("a.py", "--cache-dir", "/dev/null/x", cache=True) == lint("a.py")


def test_the_key_holds_content_and_kind_and_linter(monkeypatch: pytest.MonkeyPatch) -> None:
    one = cache.key(b"x", False)
    assert one == cache.key(b"x", False)
    assert one != cache.key(b"y", False)
    assert one != cache.key(b"x", True)
    monkeypatch.setattr(cache, "_linter", lambda: b"another")
    assert one != cache.key(b"x", False)


def test_fixing_with_a_cache(lint: Lint) -> None:
    Path("a.py").write_text("a.get_lr()\n")
    assert lint("a.py", cache=True).code == 1
    assert lint("a.py", "--fix", cache=True).code == 0
    assert Path("a.py").read_text() == "a.get_last_lr()\n"
    assert lint("a.py", cache=True).code == 0


@pytest.mark.parametrize("jobs", [1, 2])
def test_many_files_in_order(lint: Lint, jobs: int) -> None:
    for number in range(60):
        Path(f"f{number:02}.py").write_text("a.get_lr()\n" if number % 3 else "x = (\n")
    said = lint(".", "-q", "--output-format", "concise", "--jobs", str(jobs))
    assert [line.split(":")[0] for line in said.out.splitlines()] == [f"f{n:02}.py" for n in range(60) if n % 3]
    assert said.err.count("\n") == 20
    assert said.code == 2


def test_a_process_that_is_killed_is_one_line(lint: Lint, monkeypatch: pytest.MonkeyPatch) -> None:
    from stepwell.lint import checks

    modules = checks.load()
    parent = os.getpid()

    class Killer:
        CHECK = modules[0].CHECK

        @staticmethod
        def find(script: object) -> list[object]:
            if os.getpid() != parent:
                os._exit(9)
            return []

    monkeypatch.setattr(checks, "load", lambda: [Killer])
    for number in range(4):
        Path(f"f{number}.py").write_text("x = 1\n")
    said = lint(".", "--jobs", "2")
    assert said.code == 2
    assert "a process of the linter was ended from outside" in said.err
    assert said.err.count("\n") == 1
