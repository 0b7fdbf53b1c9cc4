"""Tensors and lists of parameters that are made from others."""

from __future__ import annotations

import ast

from stepwell.lint.analysis.syntax import written
from stepwell.lint.analysis.values import Many, Tensor, Thing, Value, things


def computed(by: str, node: ast.AST, parts: tuple[Tensor, ...]) -> Tensor:
    """A tensor that is computed from others."""
    known = [part.attached for part in parts]
    attached = True if True in known else None if None in known or not known else False
    models = tuple(dict.fromkeys(model for part in parts for model in part.models))
    return Tensor(attached, by, parts, models, node)


def detached(node: ast.AST, of: Tensor | None = None, by: str = "detach") -> Tensor:
    """A tensor without a graph."""
    return Tensor(False, by, (), (), node, cut_from=of)


def parameters_of(values: list[Value], node: ast.AST) -> Thing:
    """The parameters in several lists, groups and models."""
    found: list[Thing] = []
    whole = True
    for one in values:
        inside = list(things(one, 5))
        whole = whole and bool(inside) and not (isinstance(one, Many) and not one.whole)
        for thing in inside:
            if thing.kind == "parameters":
                found += thing.of
                whole = whole and thing.whole
            elif thing.kind == "model":
                found.append(thing)
    return Thing(
        "parameters",
        written(node)[:60] if isinstance(node, ast.expr) else "",
        of=tuple(dict.fromkeys(found)),
        whole=whole,
    )
