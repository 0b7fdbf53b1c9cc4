"""Which expression a name stands for, where the file leaves no doubt."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from stepwell.lint.analysis.known import full_name
from stepwell.lint.analysis.scope import imported
from stepwell.lint.analysis.values import External

BINDING: tuple[type[ast.AST], ...] = (
    ast.Assign, ast.AnnAssign, ast.NamedExpr, ast.AugAssign, ast.For, ast.AsyncFor, ast.comprehension, ast.arg,
    ast.With, ast.AsyncWith,
)  # fmt: skip


def assignments(nodes: Sequence[ast.AST]) -> dict[str, list[ast.expr | None]]:
    """name, or ".attribute" -> all that the file assigns to it; None for what is bound in another way (a parameter, a
    loop, `+=`)."""
    found: dict[str, list[ast.expr | None]] = {}

    def add(target: ast.AST, value: ast.expr | None) -> None:
        if isinstance(target, ast.Name):
            found.setdefault(target.id, []).append(value)
        elif isinstance(target, ast.Attribute):
            found.setdefault(f".{target.attr}", []).append(value)
        elif isinstance(target, (ast.Tuple, ast.List)):
            pairs = value.elts if isinstance(value, (ast.Tuple, ast.List)) else []
            for index, one in enumerate(target.elts):
                add(one, pairs[index] if len(pairs) == len(target.elts) else None)
        elif isinstance(target, ast.Starred):
            add(target.value, None)

    for node in nodes:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                add(target, node.value)
        elif isinstance(node, (ast.AnnAssign, ast.NamedExpr)):
            if node.value is not None:
                add(node.target, node.value)
        elif isinstance(node, (ast.AugAssign, ast.For, ast.AsyncFor, ast.comprehension)):
            add(node.target, None)
        elif isinstance(node, ast.arg):
            found.setdefault(node.arg, []).append(None)
        elif isinstance(node, (ast.With, ast.AsyncWith)):
            for item in node.items:
                if item.optional_vars is not None:
                    add(item.optional_vars, None)
    return found


def resolved(found: dict[str, list[ast.expr | None]], node: ast.expr | None, depth: int = 3) -> ast.expr | None:
    """What an expression is: for a name with one assignment in the file, what is assigned."""
    while depth and isinstance(node, (ast.Name, ast.Attribute)):
        values = found.get(node.id if isinstance(node, ast.Name) else f".{node.attr}", [])
        if isinstance(node, ast.Attribute) and not (
            isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
        ):
            return node
        if len(values) != 1 or values[0] is None:
            return node
        node, depth = values[0], depth - 1
    return node


def literal(found: dict[str, list[ast.expr | None]], node: ast.expr | None) -> Any:
    """The number, text or tuple of literals that an expression is known to be, or None."""
    node = resolved(found, node)
    if isinstance(node, (ast.Tuple, ast.List)):
        items = tuple(literal(found, one) for one in node.elts)
        return None if None in items else items
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Mult, ast.Div, ast.Pow, ast.Add, ast.Sub)):
        left, right = literal(found, node.left), literal(found, node.right)
        if all(isinstance(one, (int, float)) and abs(one) < 1e9 for one in (left, right)):
            return _arithmetic(node.op, left, right)
        return None
    try:
        return None if node is None else ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _arithmetic(op: ast.operator, left: float, right: float) -> float | None:
    try:
        if isinstance(op, ast.Mult):
            return left * right
        if isinstance(op, ast.Div):
            return left / right
        if isinstance(op, ast.Pow):
            value = left**right if abs(right) <= 20 else None
            return value if isinstance(value, (int, float)) else None
        return left + right if isinstance(op, ast.Add) else left - right
    except (ArithmeticError, ValueError):
        return None


def imports(nodes: Sequence[ast.AST]) -> dict[str, str]:
    """name -> the full name of what is imported under it, anywhere in the file. `torch`, `nn`, `F` and `optim` are what
    they usually are also where the import is not seen, as in a cell of a notebook."""
    found = dict(_USUAL)
    for node in nodes:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for name, value in imported(node).items():
                if isinstance(value, External):
                    found[name] = value.name
    return found


_USUAL = {"torch": "torch", "nn": "torch.nn", "F": "torch.nn.functional", "optim": "torch.optim"}


def full_name_of(names: dict[str, str], node: ast.expr) -> str:
    """The full name of a dotted name: "torch.cuda.amp.autocast" for `amp.autocast`; "" for what is not imported."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in names:
        return ""
    return full_name(".".join([names[node.id], *reversed(parts)]))
