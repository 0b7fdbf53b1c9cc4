"""What lies on a disk: every kind of file gives its findings or one line."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stepwell.errors import UsageError
from stepwell.lint import lint_source
from tests.lint.conftest import Said
from tests.lint.scripts import BAD

Lint = Callable[..., Said]

ODD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", ""),
    "blank": (b" \n\x0c\n", ""),
    "comment": (b"# nothing", ""),
    "mark": (b"\xef\xbb\xbf", ""),
    "latin": (b"x = '\xe4'\n", "line 1 is not UTF-8 and the file names no other encoding"),
    "latin2": (b"\n\nx = '\xe4'\n", "line 3 is not UTF-8"),
    "cookie": (b"# -*- coding: latin-1 -*-\nx = '\xe4'\n", ""),
    "cookie2": (b"#!/usr/bin/python\n# vim: set fileencoding=cp1252 :\nx = '\xe4'\n", ""),
    "late_cookie": (b"x = 1\n# coding: latin-1\ny = '\xe4'\n", "line 3 is not UTF-8"),
    "unknown": (b"# coding: klingon\n", "name the encoding 'klingon', which Python does not know"),
    "rot13": (b"# coding: rot13\nk = 1\n", "name the encoding 'rot13', which Python does not know as a text"),
    "zip": (b"# coding: zip\nk = 1\n", "name the encoding 'zip', which Python does not know as a text"),
    "both": (b"\xef\xbb\xbf# coding: latin-1\n", "begins with the mark of UTF-8 and names the encoding 'latin-1'"),
    "utf16": ("x = 1\n".encode("utf-16"), "is not UTF-8"),
    "ascii": (b"# coding: ascii\nx = '\xe4'\n", "line 2 is not ascii, which its first lines name"),
    "broken": (b"def f(:\n", "broken.py:1:"),
    "null": (b"x = 1\x00\n", "null.py"),
    "binary": (bytes(range(256)), "is not UTF-8"),
    "deep": (b"(" * 1000 + b")" * 1000, "deep.py"),
    "deep_if": (b"".join(b" " * i + b"if x:\n" for i in range(1000)) + b" " * 1000 + b"y\n", "deep_if.py"),
    "big": (b"x = 1\n" * 1_700_000, "it has 10.2 MB, more than the 2 MB that are read: exclude it"),
    "long_line": (b"x = [" + b"1, " * 30_000 + b"]\n", ""),
    "old_mac": (b"x = 1\ry = 2\r", ""),
    "escape": (b"x = '\\d'\nassert (x, 1)\nx is 3\n", ""),
    "tabs": (b"if x:\n\ty\n        z\n", "tabs.py"),
}


@pytest.mark.parametrize("name", ODD)
def test_every_file_gives_at_most_one_line(lint: Lint, name: str) -> None:
    content, words = ODD[name]
    path = Path(f"{name}.py")
    path.write_bytes(content)
    start = time.perf_counter()
    said = lint(path.name, "-q")
    assert time.perf_counter() - start < 20
    assert said.out == ""
    assert words in said.err
    assert said.err.count("\n") == bool(words)
    assert said.code == (2 if words else 0)
    assert "Traceback" not in said.err
    assert lint(path.name, "-q", "--fix").err == said.err
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "source",
    ["-" * 5000 + "x", "a" + ".b" * 5000, "x = " + "+".join("1" * 5000), "f" + "()" * 5000, "a[" * 300 + "]" * 300],
)
def test_long_chains_do_not_end_the_linter(lint: Lint, source: str) -> None:
    Path("a.py").write_text(source)
    said = lint("a.py", "-q")
    assert said.code in (0, 2)
    assert said.err.count("\n") <= 1


def test_pipes_loops_links_and_folders_without_permission(lint: Lint) -> None:
    Path("sub/deep").mkdir(parents=True)
    Path("sub/a.py").write_text(BAD)
    os.mkfifo("sub/pipe.py")
    Path("sub/deep/loop").symlink_to("../..")  # a folder that holds itself
    Path("sub/self.py").symlink_to("self.py")
    Path("sub/.#lock.py").symlink_to("nobody@nowhere")
    Path("sub/folder.py").mkdir()
    Path("sub/folder.py/b.py").write_text(BAD)
    said = lint("sub", "-q", "--output-format", "concise")
    assert [line.split(":")[0] for line in said.out.splitlines()] == ["sub/a.py"] * 2 + ["sub/folder.py/b.py"] * 2
    assert said.err == "stepwell: sub/pipe.py: no regular file\n"
    assert said.code == 2
    assert lint("sub/pipe.py").err == "stepwell: sub/pipe.py: no regular file\n"
    assert "Too many levels" in lint("sub/self.py").err
    assert lint("none.py", "sub/none").err.splitlines() == [
        "stepwell: none.py: No such file or directory",
        "stepwell: sub/none: No such file or directory",
    ]
    assert lint("x\0y.py").err == "stepwell: 'x\\x00y.py' is no path\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read(lint: Lint) -> None:
    Path("a.py").write_text("x = 1\n")
    Path("a.py").chmod(0)
    assert lint("a.py").err == "stepwell: a.py: Permission denied\n"


def test_what_is_walked_into(lint: Lint) -> None:
    for name in (
        "a.py", "b.pyi", "c.txt", "d.ipynb", ".venv/x.py", "venv/x.py", "build/x.py", "node_modules/x.py", ".git/x.py",
        "src/__pycache__/x.py", "src/site-packages/x.py", "src/ok.py", "src/old/x.py", "script",
    ):  # fmt: skip
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text('{"cells": []}' if name.endswith("ipynb") else "a.get_lr()\n")

    def files(*arguments: str) -> list[str]:
        said = lint(*arguments, "-q", "--output-format", "concise")
        return [line.split(":")[0] for line in said.out.splitlines()]

    assert files() == files(".") == ["a.py", "src/ok.py", "src/old/x.py"]
    assert files("--extend-exclude", "old") == ["a.py", "src/ok.py"]
    assert files("--extend-exclude", "src/o*") == ["a.py"]
    assert files("--extend-exclude", "./src/old,src/ok.py") == ["a.py"]
    assert "build/x.py" in files("--exclude", "old")
    assert files("build") == ["build/x.py"]  # named itself
    assert files("build/x.py", "script", "b.pyi") == ["build/x.py", "script"]
    assert files("build/x.py", "a.py", "--force-exclude") == ["a.py"]
    assert files("src", "src/ok.py", "./src/ok.py") == ["src/ok.py", "src/old/x.py"]  # each once
    Path("pyproject.toml").write_text("[tool.stepwell.lint]\nextend-exclude = ['src/old']\n")
    assert files() == ["a.py", "src/ok.py"]


def test_strange_names(lint: Lint) -> None:
    for name in ("a b\tc.py", "ä.py", "new\nline.py", os.fsdecode(b"\xff.py"), "-dash.py"):
        Path(name).write_text("a.get_lr()\n")
    for kind in ("text", "concise", "json", "github", "sarif"):
        said = lint(".", "--output-format", kind)
        assert said.code == 1
        assert "Traceback" not in said.err
    assert lint("--", "-dash.py").code == 1


def test_what_a_terminal_cannot_take_is_not_shown(lint: Lint) -> None:
    Path("a.py").write_bytes("x = '\x1b[31m ä 漢字'; a.get_lr()\nif x:\n\ta.get_lr()\n".encode())
    lines = lint("a.py").out.splitlines()
    assert "\x1b" not in "".join(lines)
    assert lines[1] == "    x = '?[31m ä 漢字'; a.get_lr()"
    assert lines[2] == "    " + " " * 20 + "^" * 8  # a sign of Chinese takes two places
    Path("a.py").write_text("x = '" + "y" * 5000 + "'; a.get_lr()\n")
    assert max(map(len, lint("a.py").out.splitlines())) < 200


def test_what_was_not_seen_in_200_changed_sources(example_checks: None) -> None:
    rng = random.Random(3)
    lines = (BAD + "# noqa: SW1\nclass A:\n    def f(self, x='''\n'''):  # noqa\n        return x\n").splitlines(True)
    said: list[str] = []
    start = time.perf_counter()
    for _ in range(200):
        changed = list(lines)
        for _ in range(rng.randint(1, 4)):
            at, other = rng.randrange(len(changed)), rng.randrange(len(changed))
            match rng.randrange(5):
                case 0:
                    del changed[at]
                case 1:
                    changed.insert(at, changed[other])
                case 2:
                    changed[at], changed[other] = changed[other], changed[at]
                case 3:
                    changed[at] = changed[at][: rng.randrange(len(changed[at]) + 1)]
                case 4:
                    changed[at] = rng.choice(["\0", "\x0c", "\t", "'''", "(", "\\\n", "\ud800"]) + changed[at]
            if not changed:
                break
        try:
            lint_source("".join(changed))
        except UsageError as error:
            said.append(str(error))
    assert time.perf_counter() - start < 200  # 1 s each
    assert said
    assert not any("\n" in one or "internal error" in one for one in said)
