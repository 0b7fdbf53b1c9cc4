"""The arguments of a call, and what is known of one that is not followed."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from stepwell.lint.analysis.syntax import written
from stepwell.lint.analysis.values import Constant, Function, Many, Tensor, Thing, Value, tensors, things

if TYPE_CHECKING:
    from stepwell.lint.analysis.interpreter import Interpreter


class Given:
    """The arguments of a call, evaluated."""

    def __init__(self, run: Interpreter, node: ast.Call) -> None:
        self.node = node
        self.values: dict[str | int, Value] = {}
        self.hidden = False
        for index, one in enumerate(node.args):
            value = run.value(one)
            if isinstance(one, ast.Starred):
                self.hidden = self.hidden or not (
                    isinstance(value, Many) and value.whole and index == len(node.args) - 1
                )
                if isinstance(value, Many):
                    for shift, item in enumerate(value.items):
                        self.values[index + shift] = item
            else:
                self.values[index] = value
        for keyword in node.keywords:
            value = run.value(keyword.value)
            if keyword.arg is None:
                self.hidden = True
                if isinstance(value, Many) and value.keys is not None:
                    self.values |= {str(key): item for key, item in zip(value.keys, value.items, strict=True)}
            else:
                self.values[keyword.arg] = value

    def get(self, position: int, keyword: str = "") -> Value:
        return self.values.get(keyword, self.values.get(position))

    def all(self) -> list[Value]:
        return list(self.values.values())

    def things(self) -> tuple[Thing, ...]:
        return tuple(dict.fromkeys(one for value in self.values.values() for one in things(value)))

    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(tensors(self.values.values()))


def unknown(run: Interpreter, node: ast.Call, given: Given, owner: Value = None) -> Value:
    """A call of what the file does not show."""
    name = written(node.func)
    targets = tuple(dict.fromkeys((*given.things(), *things(owner))))
    for value in given.all():
        if isinstance(value, Function):
            run.handed.add(id(value.node))
    run.emit("unknown", node, name=name, targets=targets, call=node, extra={"tensors": given.tensors(), "functions": [
        value for value in given.all() if isinstance(value, Function)]})  # fmt: skip
    last = name.rsplit(".", 1)[-1]
    if last.startswith(("prepare", "setup", "wrap", "to_device", "initialize")) and targets:
        values = [value for value in given.all() if isinstance(value, (Thing, Many))]
        return values[0] if len(values) == 1 else Many(list(given.values.values()))
    return followed_not(node, given)


def followed_not(node: ast.AST, given: Given) -> Value:
    """A tensor computed in a way that nobody sees; None where nothing of it is known."""
    parts = given.tensors()
    graph = tuple(part for part in parts if part.attached is not False)
    if not graph:
        return None
    models = tuple(dict.fromkeys(model for part in graph for model in part.models))
    return Tensor(None, "call", graph, models, node)


def number() -> Constant:
    return Constant(known=False)
