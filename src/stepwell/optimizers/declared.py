"""The facts of an optimizer, read from the text of its file: without torch, which the file itself needs.

`stepwell doctor --symptom` answers in the time in which Python starts; importing torch alone takes seconds. The facts
of a class are an expression of literals, so they can be read (a millisecond per file) instead of kept in a second list.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Any

from stepwell.errors import loaded
from stepwell.optimizers import facts
from stepwell.optimizers.facts import Facts
from stepwell.optimizers.table import _TABLE

_HOUSE = Path(__file__).parents[1]


def module_of(name: str) -> str:
    """The module that defines an optimizer of the table: in this room, unless its line names another."""
    file = _TABLE[name]
    return f"stepwell.{file}" if "." in file else f"stepwell.optimizers.{file}"


@cache
def declared(name: str) -> Facts:
    """The facts of an optimizer of the table: equal to `find(name).facts`, without importing torch.

    >>> declared("Lion").method
    'sign'
    """
    found = _read(name)
    return loaded(module_of(name), name).facts if found is None else found


def _read(name: str) -> Facts | None:
    """The facts as they stand in the file; None where there is no file, or more in it than names of `facts.py`."""
    path = _HOUSE.joinpath(*module_of(name).split(".")[1:]).with_suffix(".py")
    try:
        tree = ast.parse(path.read_bytes())
    except OSError:  # an application of compiled files
        return None
    cls = next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name), None)
    if cls is None:
        return None
    for node in cls.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value and ast.unparse(target or cls) == "facts":
            return _value(node.value, str(path))
    for base in cls.bases:
        if isinstance(base, ast.Name) and base.id in _TABLE:
            return declared(base.id)
    return None


def _value(expression: ast.expr, path: str) -> Facts | None:
    scope: dict[str, Any] = {**vars(facts), "__builtins__": {}}
    try:
        return eval(compile(ast.Expression(expression), path, "eval"), scope)
    except NameError:
        return None
