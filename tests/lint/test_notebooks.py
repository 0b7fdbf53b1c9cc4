"""Notebooks: cells and lines, IPython's syntax, and fixes that leave the rest of the JSON alone."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stepwell.errors import UsageError
from stepwell.lint import lint_source
from stepwell.lint.magics import python_of
from tests.lint.conftest import Said

Lint = Callable[..., Said]


def cell(source: Any, kind: str = "code") -> dict[str, Any]:
    extra = {"execution_count": 3, "outputs": [{"data": {"text/plain": "ä"}}]} if kind == "code" else {}
    return {"cell_type": kind, "id": "x", "metadata": {}, **extra, "source": source}


def notebook(*cells: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {"cells": list(cells), "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


USUAL = notebook(
    cell(["# Title\n", "text"], "markdown"),
    cell(["%matplotlib inline\n", "import torch\n", "files = !ls\n", "sched.get_lr()"]),
    cell(["for x in y:\n", "    loss.backward()\n", "    opt.zero_grad()\n"]),
    cell("a.get_lr()"),
)


def found(whole: Any) -> list[str]:
    text = whole if isinstance(whole, str) else json.dumps(whole)
    return [f"{one.place} {one.code}" for one in lint_source(text, "n.ipynb")]


@pytest.mark.usefixtures("example_checks")
class TestPlaces:
    def test_a_finding_names_the_cell_and_the_line_in_it(self) -> None:
        assert found(USUAL) == [
            "n.ipynb:cell 2:4:1 SW210",
            "n.ipynb:cell 3:3:5 SW101",
            "n.ipynb:cell 4:1:1 SW210",
        ]
        second = lint_source(json.dumps(USUAL), "n.ipynb")[1]
        assert str(second.evidence[0].place) == "n.ipynb:cell 3:2:5"

    def test_the_cells_are_one_module(self) -> None:
        assert found(notebook(cell("loss.backward()"), cell("opt.zero_grad()"))) == ["n.ipynb:cell 2:1:1 SW101"]

    def test_other_languages_and_no_code_have_no_findings(self) -> None:
        assert found(notebook(cell("a.get_lr()"), language_info={"name": "R"})) == []
        assert found(notebook(cell("a.get_lr()"), kernelspec={"language": "python"})) != []
        assert found(notebook()) == []
        assert found(notebook(cell("# noqa", "markdown"), cell(""))) == []

    def test_a_broken_cell_is_named(self) -> None:
        with pytest.raises(UsageError, match=r"^n\.ipynb:cell 2:2:"):
            found(notebook(cell("x = 1"), cell("y = 2\nz = = 3\n")))

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"cells": 3}', "\x00", "1" * 5000, "[" * 100_000, '{"a": NaN'])
    def test_what_is_no_notebook_is_one_line(self, text: str) -> None:
        with pytest.raises(UsageError, match=r"^n\.ipynb: it is (no notebook|JSON but no notebook)") as caught:
            found(text)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("odd", [3, None, "x", {}, {"cell_type": "code"}, {"cell_type": "code", "source": [1]}])
    def test_odd_cells_are_passed_over(self, odd: Any) -> None:
        assert found(notebook(odd, cell("a.get_lr()"))) == ["n.ipynb:cell 2:1:1 SW210"]

    def test_noqa(self) -> None:
        assert found(notebook(cell("a.get_lr()  # noqa: SW210"))) == []


@pytest.mark.parametrize(
    ("text", "python"),
    [
        ("%matplotlib inline\nx = 1", "pass\nx = 1"),
        ("!pip install torch", "pass"),
        ("x = !ls\ny = %time f()", "x = None\ny = None"),
        ("a, b = !ls", "a, b = None"),
        ("?torch.optim\ntorch.optim?\nf.x??", "pass\npass\npass"),
        ("if x:\n    !ls\ny = 1", "if x:\n    pass\ny = 1"),
        ("!ls \\\n   -la\nx = 1", "pass\n\nx = 1"),
        ("%%bash\nls\necho hi", "\n\n"),
        ("\n%%html\n<b>\n", "\n\n\n"),
        ("%%time\nx = 1", "\nx = 1"),
        ("%%capture out\n%cd x\ny = 2", "\npass\ny = 2"),
        ("x = (a\n     % b)", "x = (a\n     % b)"),  # Python as it is
        ("s = '''\n%d items\n!'''", "s = '''\n%d items\n!'''"),
        ("x = 5 % 3", "x = 5 % 3"),
        ("x != y", "x != y"),
    ],
)
def test_magics(text: str, python: str) -> None:
    assert python_of(text) == python
    ast.parse(python)
    assert python_of(text).count("\n") == text.count("\n")


FORMS = [
    lambda whole: json.dumps(whole, indent=1, ensure_ascii=False) + "\n",
    lambda whole: json.dumps(whole, indent=4, ensure_ascii=False),
    lambda whole: json.dumps(whole),
    lambda whole: json.dumps(whole, separators=(",", ":")),
    lambda whole: json.dumps(whole, indent="\t", ensure_ascii=True).replace("\n", "\r\n"),
]


@pytest.mark.parametrize("form", FORMS)
def test_a_fix_leaves_the_rest_of_the_json_alone(lint: Lint, form: Callable[[Any], str]) -> None:
    path = Path("n.ipynb")
    before = form(USUAL)
    path.write_bytes(before.encode())
    said = lint("n.ipynb", "--fix", "-q", "--output-format", "concise")
    assert said.out == "n.ipynb:cell 3:3:5: SW101 zero_grad() undoes backward()\n"
    assert path.read_bytes().decode() == before.replace("get_lr", "get_last_lr")
    lint("n.ipynb", "--fix", "--unsafe-fixes")
    want = before.replace("get_lr", "get_last_lr")
    line = (
        next(one for one in (', "    opt.zero_grad()\\n"', ',"    opt.zero_grad()\\n"') if one in want)
        if "\n" not in before
        else ""
    )
    if line:
        assert path.read_bytes().decode() == want.replace(line, "")
    assert json.loads(path.read_text())["cells"][2]["source"] == ["for x in y:\n", "    loss.backward()\n"]
    after = path.read_bytes()
    lint("n.ipynb", "--fix", "--unsafe-fixes")
    assert path.read_bytes() == after


def test_lines_are_added_to_the_cell_of_the_finding(lint: Lint) -> None:
    for last in ([], [cell("# the end")], [cell("# text", "markdown")]):
        Path("n.ipynb").write_text(json.dumps(notebook(cell(["x = 1\n", "loss.backward()"]), *last)))
        assert lint("n.ipynb", "--fix", "--preview").code == 0
        after = json.loads(Path("n.ipynb").read_text())
        assert after["cells"][0]["source"] == ["x = 1\n", "loss.backward()\n", "opt.step()"]
        assert after["cells"][1:] == last


def test_the_diff_names_the_cell(lint: Lint) -> None:
    Path("n.ipynb").write_text(json.dumps(USUAL))
    assert "--- n.ipynb:cell 2\n+++ n.ipynb:cell 2\n" in lint("n.ipynb", "--diff").out


def test_magics_stay_in_a_fixed_cell(lint: Lint) -> None:
    Path("n.ipynb").write_text(json.dumps(notebook(cell("%cd x\n!ls\na.get_lr()\nx?"))))
    assert lint("n.ipynb", "--fix").code == 0
    assert json.loads(Path("n.ipynb").read_text())["cells"][0]["source"] == "%cd x\n!ls\na.get_last_lr()\nx?"
