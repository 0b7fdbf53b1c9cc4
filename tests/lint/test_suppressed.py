"""Comments that mute."""

from __future__ import annotations

import pytest

from stepwell.lint import Settings, lint_source

pytestmark = pytest.mark.usefixtures("example_checks")


def found(source: str) -> list[str]:
    return [one.code for one in lint_source(source)]


MUTED = [
    "a.get_lr()  # noqa",
    "a.get_lr()  # NOQA",
    "a.get_lr()  #noqa:SW210",
    "a.get_lr()  # noqa: SW2",
    "a.get_lr()  # noqa: E501, SW210",
    "a.get_lr()  # noqa: E501 SW210 since it is ours",
    "a.get_lr()  # type: ignore  # noqa: SW210",
    "f(\n    a.get_lr(),  # noqa: SW210\n)",
    "f(  # noqa\n    a.get_lr(),\n)",
    "f(\n    a.get_lr(),\n)  # noqa",
    "x = '''\n''' + a.get_lr()  # noqa",
    "# stepwell: noqa\na.get_lr()",
    "a.get_lr()\n# stepwell:noqa: SW1, SW210\n",
    "if a.get_lr():  # noqa\n    pass",
    "if (a.get_lr()\n    and b):  # noqa\n    pass",
    "with f(\n    a.get_lr(),\n    b,\n):  # noqa\n    pass",
    "def f(\n    x=a.get_lr(),\n    y=1,  # noqa\n): pass",
]
LOUD = [
    "a.get_lr()  # noqa: E501",
    "a.get_lr()  # noqa: SW1",
    "a.get_lr()  # noqa: because",
    "a.get_lr()  # noqa-not",
    "a.get_lr()\n# noqa",
    "x = '# noqa'; a.get_lr()",
    "x = '# stepwell: noqa'\na.get_lr()",
    "x = 1  # stepwell: noqa\na.get_lr()",  # not in a line of its own
    "# stepwell: noqa: SW1\na.get_lr()",
    "if x:\n    a.get_lr()\n    b()  # noqa",  # the end of the block is not the end of the statement
    "for x in a.get_lr():\n    b()  # noqa",
    "def f():  # noqa\n    a.get_lr()",
]


@pytest.mark.parametrize("source", MUTED)
def test_muted(source: str) -> None:
    assert found(source) == []


@pytest.mark.parametrize("source", LOUD)
def test_loud(source: str) -> None:
    assert found(source) == ["SW210"]


def test_only_its_own_line_and_code() -> None:
    source = "loss.backward()\nopt.zero_grad(); a.get_lr()  # noqa: SW101\nb.get_lr()\n"
    assert found(source) == ["SW210", "SW210"]
    assert [one.code for one in lint_source("SGD(p)  # noqa: SW9", settings=Settings(select=("ALL",)))] == []
