"""The tables `[tool.stepwell...]` of a pyproject.toml.

From Python 3.11 on the standard library reads TOML. On 3.10 `tomli` does if it is installed; without it a small reader
takes what a linter's settings are made of: strings, booleans, and lists of strings, over one line or several. It gives
up on anything else with a word on what to install.
"""

from __future__ import annotations

import ast
import re
from importlib import import_module
from typing import Any

_HEADER = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(?:#.*)?$")
_KEY = re.compile(r"\s*(\"[^\"]*\"|'[^']*'|[\w-]+)\s*=\s*(.*)$")
_STRING = r"\"(?:[^\"\\]|\\.)*\"|'[^']*'"
_COMMENT = re.compile(rf"({_STRING})|#.*$")
_BOOLEAN = re.compile(rf"({_STRING})|\b(true|false)\b")


class NotRead(Exception):
    """A file that is no TOML, with the reason."""


def read(text: str) -> dict[str, Any]:
    """The file as a dict. Raises NotRead."""
    for name in ("tomllib", "tomli"):
        try:
            module = import_module(name)
        except ImportError:
            continue
        try:
            return module.loads(text)
        except (module.TOMLDecodeError, RecursionError) as error:
            raise NotRead(str(error)) from None
    return without_library(text)


def without_library(text: str) -> dict[str, Any]:
    """The tables under [tool.stepwell]; all others are skipped.

    >>> without_library('[tool.stepwell.lint]\\nselect = [\\n  "SW1",  # order\\n]\\npreview = true')
    {'tool': {'stepwell': {'lint': {'select': ['SW1'], 'preview': True}}}}
    """
    whole: dict[str, Any] = {}
    table: dict[str, Any] | None = None
    lines = iter(enumerate(text.splitlines(), 1))
    for number, line in lines:
        header = _HEADER.match(line)
        if header:
            names = [name.strip().strip("\"'") for name in _parts(header[1])]
            table = None
            if names[:2] == ["tool", "stepwell"]:
                table = whole
                for name in names:
                    table = table.setdefault(name, {})
            continue
        key = _KEY.match(line)
        if table is None or not key:
            continue
        value = _bare(key[2])
        while value.count("[") > value.count("]"):  # a list over several lines
            following = next(lines, None)
            if following is None:
                raise NotRead(f"line {number}: a list has no end")
            value += " " + _bare(following[1])
        try:
            table[key[1].strip("\"'")] = ast.literal_eval(_BOOLEAN.sub(lambda m: m[1] or m[2].title(), value))
        except (ValueError, SyntaxError):
            raise NotRead(f"line {number}: this needs Python 3.11, or: pip install tomli") from None
    return whole


def _bare(text: str) -> str:
    return _COMMENT.sub(lambda m: m[1] or "", text).strip()


def _parts(name: str) -> list[str]:
    return re.findall(r"\"[^\"]*\"|'[^']*'|[^.\s]+", name)
