"""Which checks are on: options, pyproject.toml, per-file ignores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stepwell.errors import UsageError
from stepwell.lint import Settings, toml
from stepwell.lint.patterns import fits
from tests.lint.conftest import Said

Lint = Callable[..., Said]
EACH = """\
loss.backward()
opt.zero_grad()
a.get_lr()
opt = SGD(p)
loss.backward()
"""  # SW101, SW210, SW901, SW102


def codes(said: Said) -> list[str]:
    assert said.code in (0, 1), said.err
    return [line.split(": ")[1].split()[0] for line in said.out.splitlines()]


def found(lint: Lint, *arguments: str) -> list[str]:
    Path("a.py").write_text(EACH)
    return codes(lint("a.py", "-q", "--output-format", "concise", *arguments))


@pytest.mark.parametrize(
    ("arguments", "on"),
    [
        ([], ["SW101", "SW210"]),
        (["--preview"], ["SW101", "SW210", "SW102"]),
        (["--select", "ALL"], ["SW101", "SW210", "SW901"]),
        (["--select", "ALL", "--preview"], ["SW101", "SW210", "SW901", "SW102"]),
        (["--select", "SW1"], ["SW101"]),
        (["--select", "sw1", "--preview"], ["SW101", "SW102"]),
        (["--select", "SW102"], ["SW102"]),
        (["--select", "missing-step,SW9"], ["SW901", "SW102"]),
        (["--select", "plain_sgd", "--select", "SW2"], ["SW210", "SW901"]),
        (["--ignore", "SW1"], ["SW210"]),
        (["--ignore", "SW1", "--preview"], ["SW210"]),
        (["--ignore", "zero-grad-between"], ["SW210"]),
        (["--ignore", "ALL"], []),
        (["--extend-select", "SW901"], ["SW101", "SW210", "SW901"]),
        (["--select", "SW2", "--extend-select", "SW9"], ["SW210", "SW901"]),
        (["--select", "SW101", "--ignore", "SW1"], ["SW101"]),  # the longer word wins
        (["--select", "SW1", "--ignore", "SW101"], []),
        (["--ignore", "SW1", "--extend-ignore", "SW2"], []),
        (["--select", "SW"], ["SW101", "SW210", "SW901"]),
    ],
)
def test_what_is_on(lint: Lint, arguments: list[str], on: list[str]) -> None:
    assert found(lint, *arguments) == on


def test_the_nearest_configuration_with_the_table_counts(lint: Lint) -> None:
    Path("pyproject.toml").write_text('[tool.stepwell.lint]\nselect = ["SW2"]\nextend-ignore = ["SW9"]\n')
    Path("sub/deep").mkdir(parents=True)
    Path("sub/pyproject.toml").write_text("[project]\nname = 'stepwell-user'\n")
    Path("own").mkdir()
    Path("own/pyproject.toml").write_text("[tool.stepwell.lint]\npreview = true\nselect = ['SW1']\n")
    for folder in ("sub/deep", "own", "."):
        Path(folder, "x.py").write_text(EACH)
    lines = lint(".", "-q", "--output-format", "concise").out.splitlines()
    assert [line.split(": ")[0].split(":")[0] + " " + line.split(": ")[1][:5] for line in lines] == [
        "own/x.py SW101", "own/x.py SW102", "sub/deep/x.py SW210", "x.py SW210",
    ]  # fmt: skip
    assert codes(lint("own", "-q", "--output-format", "concise", "--isolated")) == ["SW101", "SW210"]
    assert codes(lint("own", "-q", "--output-format", "concise", "--config", "pyproject.toml")) == ["SW210"]
    assert codes(lint("own", "-q", "--output-format", "concise", "--select", "SW210")) == ["SW210"]
    assert codes(lint("own", "-q", "--output-format", "concise", "--no-preview")) == ["SW101"]


def test_per_file_ignores(lint: Lint) -> None:
    Path("tests").mkdir()
    Path("pyproject.toml").write_text(
        '[tool.stepwell.lint.per-file-ignores]\n"tests/*" = ["SW1", "get-lr"]\n"*_old.py" = ["ALL"]\n'
    )
    for name in ("tests/x.py", "a_old.py", "b.py"):
        Path(name).write_text("a.get_lr()\n")
    assert lint(".", "-q", "--output-format", "concise").out.count("\n") == 1


WRONG = [
    ("selct = ['SW1']", "pyproject.toml: unknown key tool.stepwell.lint.selct: did you mean 'select'?"),
    ("select = ['SW77']", "pyproject.toml: [tool.stepwell.lint] select: there is no check 'SW77'"),
    ("select = 'SW1'", "pyproject.toml: [tool.stepwell.lint] select='SW1' is no list of texts"),
    ("extend-select = [1]", "pyproject.toml: [tool.stepwell.lint] extend-select has 1, which is no text"),
    ("preview = 'yes'", "pyproject.toml: [tool.stepwell.lint] preview='yes' is neither true nor false"),
    ("unsafe-fixes = 1", "[tool.stepwell.lint] unsafe-fixes=1 is neither true nor false"),
    ("per-file-ignores = ['SW1']", "[tool.stepwell.lint] per-file-ignores=['SW1'] is no table of patterns"),
    (
        "per-file-ignores = {'a' = ['get-rl']}",
        "per-file-ignores of 'a': there is no check 'get-rl': did you mean 'get-lr'",
    ),
    ("select = [", "configuration pyproject.toml is no TOML"),
    ("exclude = true", "exclude=True is no list of texts"),
]


@pytest.mark.parametrize(("line", "words"), WRONG, ids=[line for line, _ in WRONG])
def test_a_mistake_in_the_configuration_names_file_and_key(lint: Lint, line: str, words: str) -> None:
    Path("a.py").write_text("a.get_lr()\n")
    Path("pyproject.toml").write_text(f"[tool.stepwell.lint]\n{line}\n")
    said = lint("a.py")
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert words in said.err


def test_a_table_that_is_none(lint: Lint) -> None:
    Path("a.py").write_text("a.get_lr()\n")
    Path("pyproject.toml").write_text("[tool.stepwell]\nlint = 3\n")
    assert "tool.stepwell.lint=3 is no table" in lint("a.py").err
    Path("pyproject.toml").write_bytes(b"[tool.stepwell.lint]\nselect = ['\xff']\n")
    assert "is no TOML" in lint("a.py").err
    Path("pyproject.toml").write_text("no toml at all [[[\n")  # and nothing for the linter in it
    assert lint("a.py").code == 1


def test_settings_from_python(example_checks: None) -> None:
    with pytest.raises(UsageError, match="select='SW1' is no list"):
        Settings(select="SW1")  # type: ignore[arg-type]
    assert Settings(select=["SW1"]).select == ("SW1",)  # type: ignore[arg-type]


TABLES = [
    "[tool.stepwell.lint]\nselect = ['SW1', \"SW2\"]  # a comment\npreview = true\n",
    '[tool.other]\nx = {a = 1}\n[tool.stepwell.lint]\nexclude = [\n  "a#b",  # yes\n  "c",\n]\n[z]\ny = 1\n',
    '[tool.stepwell.lint.per-file-ignores]\n"tests/**/*.py" = ["SW1"]\n\'x\' = [ ]\n',
    "[tool . stepwell . 'lint']\nunsafe-fixes=false\n",
]


@pytest.mark.parametrize("text", TABLES)
def test_the_small_reader_of_tables_agrees_with_the_library(text: str) -> None:
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on
    assert toml.without_library(text)["tool"]["stepwell"] == tomllib.loads(text)["tool"]["stepwell"]


def test_without_a_library_the_small_reader_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(name: str, *rest: Any) -> Any:
        if name in ("tomllib", "tomli"):
            raise ImportError(name)
        return real(name, *rest)

    real = toml.import_module
    monkeypatch.setattr(toml, "import_module", without)
    assert toml.read(TABLES[0])["tool"]["stepwell"]["lint"]["preview"] is True
    with pytest.raises(toml.NotRead, match=r"line 2: this needs Python 3.11, or: pip install tomli"):
        toml.read("[tool.stepwell.lint]\nselect = {a = 1}\n")
    with pytest.raises(toml.NotRead, match="a list has no end"):
        toml.read("[tool.stepwell.lint]\nselect = [\n")


@pytest.mark.parametrize(
    ("path", "pattern", "does"),
    [
        ("/p/tests/a.py", "tests/*", True),
        ("/p/tests/deep/a.py", "tests/*", True),  # what lies inside a folder that fits, fits
        ("/p/src/tests/a.py", "tests/*", False),
        ("/p/src/tests/a.py", "tests", True),
        ("/p/src/tests/a.py", "**/tests/*.py", True),
        ("/p/tests/a.py", "**/tests/*.py", True),
        ("/p/a_old.py", "*_old.py", True),
        ("/p/a.py", "./a.py", True),
        ("/p/a.py", "/p/a.py", True),
        ("/p/ab.py", "a[bc].py", True),
        ("/p/ad.py", "a[!bc].py", True),
        ("/p/a.py", "b.py", False),
        ("/build/p/a.py", "build", False),  # above the folder of the configuration
        ("/other/build/a.py", "a.py", True),
        ("/p/src/x/legacy/a.py", "src/**/legacy", True),
        ("/p/a.py", "[", False),
    ],
)
def test_patterns(path: str, pattern: str, does: bool) -> None:
    base = "/build/p" if path.startswith("/build") else "/p"
    assert fits(path, [pattern], base) is does
