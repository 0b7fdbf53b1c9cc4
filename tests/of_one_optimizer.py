"""`pytest --optimizer Yogi`: the tests that one optimizer of the table can break, and no test of another one.

These are the tests whose id or parameters name the optimizer; and of those that name none and are not slow, the ones
that go through the whole table in their own body, or that read all source files.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from stepwell.optimizers import TABLE

# What the body of a test that goes through the whole table says; the files that read all sources do not say it.
GOES_THROUGH = re.compile(r"\b(TABLE|RULES|ROWS|TIES|BY_RULE)\b|\brows\(\)|optimizers\.md|contract\.md|PAGE\b")
FILES = re.compile(r"\boptimizers\b|tests\.contract")
READ_ALL = ("tests/test_floors.py", "tests/test_words.py", "tests/optimizers/test_names.py")


def concerns(name: str, item: pytest.Item) -> bool:
    """Whether the optimizer `name` can break a test."""
    named = names_in(item)
    if named:
        return name in named
    if item.get_closest_marker("slow") is not None:
        return False
    return item.nodeid.startswith(READ_ALL) or goes_through_the_table(getattr(item, "function", None))


def names_in(item: pytest.Item) -> set[str]:
    """The optimizers that the id of a parametrized test or its parameters name."""
    call = getattr(item, "callspec", None)
    texts = [] if call is None else [call.id, *(value for value in call.params.values() if isinstance(value, str))]
    return {word for text in texts for word in re.findall(r"\w+", text.replace("_", " "))} & TABLE.keys()


@cache
def goes_through_the_table(test: Callable[..., Any] | None) -> bool:
    """Whether the body of a test says so, in a file that imports something of the table."""
    if test is None or not FILES.search(Path(inspect.getfile(test)).read_text()):
        return False
    return GOES_THROUGH.search(inspect.getsource(test)) is not None
