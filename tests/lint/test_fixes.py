"""Fixes: what is made, what is refused, and that nothing else changes."""

from __future__ import annotations

import ast
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from stepwell.findings import Edit, Fix
from stepwell.findings.fix import applied
from stepwell.lint import Settings
from stepwell.lint.active import active
from stepwell.lint.document import Document
from stepwell.lint.examined import examined
from stepwell.lint.fixing import fixed as fixed_document
from tests.lint.conftest import Said
from tests.lint.scripts import BAD

Lint = Callable[..., Said]


def fixed(lint: Lint, data: bytes, *arguments: str) -> bytes:
    """The bytes after --fix; a second time must change nothing."""
    path = Path("a.py")
    path.write_bytes(data)
    lint("a.py", "--fix", *arguments)
    after = path.read_bytes()
    stamp = path.stat().st_mtime_ns
    lint("a.py", "--fix", *arguments)
    assert path.read_bytes() == after
    assert path.stat().st_mtime_ns == stamp  # not even written
    assert list(Path().glob("*.part")) == []
    return after


def test_safe_and_unsafe(lint: Lint) -> None:
    assert fixed(lint, BAD.encode()) == BAD.replace("get_lr", "get_last_lr").encode()
    both = BAD.replace("get_lr", "get_last_lr").replace("    opt.zero_grad()\n", "")
    assert fixed(lint, BAD.encode(), "--unsafe-fixes") == both.encode()
    Path("pyproject.toml").write_text("[tool.stepwell.lint]\nunsafe-fixes = true\n")
    assert fixed(lint, BAD.encode()) == both.encode()
    assert fixed(lint, BAD.encode(), "--no-unsafe-fixes") == BAD.replace("get_lr", "get_last_lr").encode()


def test_what_is_said_and_returned(lint: Lint) -> None:
    Path("a.py").write_text(BAD)
    said = lint("a.py", "--fix", "-q", "--output-format", "concise")
    assert said.code == 1
    assert said.out == "a.py:6:5: SW101 zero_grad() undoes backward()\n"
    Path("a.py").write_text(BAD)
    said = lint("a.py", "--fix", "--unsafe-fixes")
    assert (said.code, said.out) == (0, "2 findings fixed; no finding in 1 file\n")


def test_diff_changes_nothing(lint: Lint) -> None:
    Path("a.py").write_text(BAD)
    said = lint("a.py", "--diff")
    assert said.code == 1
    assert said.out == (
        "--- a.py\n+++ a.py\n@@ -5,4 +5,4 @@\n     loss.backward()\n     opt.zero_grad()\n     opt.step()\n"
        "-    print(sched.get_lr())\n+    print(sched.get_last_lr())\n"
    )
    assert Path("a.py").read_text() == BAD
    Path("a.py").write_text("x = 1\n")
    assert (lint("a.py", "--diff").code, lint("a.py", "--diff").out) == (0, "")
    Path("a.py").write_text("a.get_lr()")
    assert lint("a.py", "--diff").out.endswith(
        "-a.get_lr()\n\\ No newline at end of file\n+a.get_last_lr()\n\\ No newline at end of file\n"
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"a.get_lr()\r\nb = 1\n\rc = 2\r\n", b"a.get_last_lr()\r\nb = 1\n\rc = 2\r\n"),
        (b"a.get_lr()\rb = 1\r", b"a.get_last_lr()\rb = 1\r"),
        (b"\xef\xbb\xbfa.get_lr()", b"\xef\xbb\xbfa.get_last_lr()"),
        (b"# coding: latin-1\nx = '\xe4'; a.get_lr()\n", b"# coding: latin-1\nx = '\xe4'; a.get_last_lr()\n"),
        ("x = 'ä🙂'; a.get_lr()\n".encode(), "x = 'ä🙂'; a.get_last_lr()\n".encode()),
        (b"x = 1\x0c\n\x0c\na.get_lr()  \t\n", b"x = 1\x0c\n\x0c\na.get_last_lr()  \t\n"),
        ("x = '\u2028\x85'; a.get_lr()\n".encode(), "x = '\u2028\x85'; a.get_last_lr()\n".encode()),
        (b"f(a.get_lr(), b.get_lr())\n", b"f(a.get_last_lr(), b.get_last_lr())\n"),
        (b"a.get_lr()  # noqa\nb.get_lr()\n", b"a.get_lr()  # noqa\nb.get_last_lr()\n"),
    ],
)  # fmt: skip
def test_all_else_stays_byte_for_byte(lint: Lint, before: bytes, after: bytes) -> None:
    assert fixed(lint, before) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"loss.backward()\n", b"loss.backward()\nopt.step()\n"),
        (b"loss.backward()", b"loss.backward()\nopt.step()"),
        (b"x = 1\r\nloss.backward()\r\n", b"x = 1\r\nloss.backward()\r\nopt.step()\r\n"),
        (b"x = 1\r\nloss.backward()", b"x = 1\r\nloss.backward()\r\nopt.step()"),
        (b"loss.backward()  # the end", b"loss.backward()  # the end\nopt.step()"),
    ],
)
def test_lines_are_added_behind_the_last_one(lint: Lint, before: bytes, after: bytes) -> None:
    assert fixed(lint, before, "--preview") == after


@pytest.mark.parametrize("name", ["breaks", "stays", "moves", "new_other"])
def test_a_fix_that_is_no_better_is_not_made_and_does_not_hinder_others(lint: Lint, name: str) -> None:
    source = f"x = {name}\na.get_lr()\ny = rename_me\n"
    want = f"x = {name}\na.get_last_lr()\ny = renamed\n"
    assert fixed(lint, source.encode()) == want.encode()
    assert "SW310" in lint("a.py").out


def test_a_fix_may_not_bring_a_selected_finding_but_may_one_that_is_off(lint: Lint) -> None:
    assert fixed(lint, b"x = new_other\n") == b"x = new_other\n"
    assert fixed(lint, b"x = new_other\n", "--select", "SW310") == b"x = a.get_lr\n"


def test_overlapping_fixes_wait_for_the_next_pass(lint: Lint) -> None:
    # the deleted line holds a fix of its own, which then is gone
    source = b"loss.backward()\nopt.zero_grad(); a.get_lr()\n"
    assert fixed(lint, source, "--unsafe-fixes") == b"loss.backward()\n"


def test_the_mode_stays_and_a_link_stays_a_link(lint: Lint) -> None:
    real, link = Path("real.py"), Path("link.py")
    real.write_text("a.get_lr()\n")
    real.chmod(0o754)
    link.symlink_to("real.py")
    assert lint("link.py", "--fix").code == 0
    assert link.is_symlink()
    assert real.read_text() == "a.get_last_lr()\n"
    assert real.stat().st_mode & 0o777 == 0o754


def test_a_file_that_changed_meanwhile_is_left_alone(lint: Lint, monkeypatch: pytest.MonkeyPatch) -> None:
    from stepwell.lint import change

    Path("a.py").write_text("a.get_lr()\n")
    real = change.fixed

    def slow(*arguments: object) -> object:
        Path("a.py").write_text("a.get_lr()  # newer\n")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(change, "fixed", slow)
    said = lint("a.py", "--fix")
    assert said.code == 2
    assert said.err == "stepwell: a.py was changed while it was checked: it is left as it is; run this again\n"
    assert Path("a.py").read_text() == "a.get_lr()  # newer\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_file_that_may_only_be_read(lint: Lint) -> None:
    Path("a.py").write_text("a.get_lr()\n")
    Path("a.py").chmod(0o444)
    assert "may only be read" in lint("a.py", "--fix").err


def test_edits_count_lines_as_python_does() -> None:
    fix = Fix("x", (Edit((2, 1), (2, 2), "c"),))
    assert applied("a\x0cx\u2028y\nb\n", [fix])[0] == "a\x0cx\u2028y\nc\n"


PARTS = [
    "loss.backward()\n", "opt.zero_grad()\n", "opt.zero_grad(); a.get_lr()\n", "a.get_lr()\n",
    "x = (a.get_lr(),\n  b.get_lr())\n",
    "if x:\n    loss.backward()\n    opt.zero_grad()\n", "breaks\n", "moves\n", "new_other\n",
    "f(rename_me, a.get_lr())\n",
    "y = '''\n\x0c'''; a.get_lr()\n", "a.get_lr()  # noqa\n", "ä = a.get_lr()\n",
]  # fmt: skip


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_fixing_any_source_twice_is_fixing_it_once(example_checks: None, end: str) -> None:
    rng = random.Random(5)
    every = active(Settings(select=("ALL",), preview=True), "/a.py")
    for _ in range(60):
        source = "".join(rng.choices(PARTS, k=rng.randint(1, 8))).replace("\n", end)
        if rng.random() < 0.3:
            source = source.removesuffix(end)
        before = examined(Document("a.py", source))
        once = fixed_document(Document("a.py", source), every, unsafe=True)
        assert not once.left.unreadable
        ast.parse(once.document.source)
        left = Counter(hit.finding.code for hit in once.left.raw if every(hit))
        had = Counter(hit.finding.code for hit in before.raw if every(hit))
        assert left <= had
        assert once.document.source.count("\n") == once.document.source.count(end)
        twice = fixed_document(once.document, every, unsafe=True)
        assert (twice.document.source, twice.made) == (once.document.source, [])
