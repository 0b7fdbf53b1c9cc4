"""What single statements and conditions say by their form alone."""

from __future__ import annotations

import ast
from functools import cached_property

_NO_NODES = frozenset(  # fields of nodes that never hold nodes
    [
        "ctx", "op", "ops", "id", "attr", "arg", "kind", "type_comment", "level", "module", "asname", "conversion",
        "simple", "is_async", "rest", "kwd_attrs", "lineno", "tag",
    ]
)  # fmt: skip


def _fields() -> dict[type, tuple[str, ...]]:
    """The fields of each type of node that hold nodes, last first."""
    found: dict[type, tuple[str, ...]] = {}
    for kind in vars(ast).values():
        if isinstance(kind, type) and issubclass(kind, ast.AST) and kind not in (ast.Constant, ast.MatchSingleton):
            without = {"names"} if kind in (ast.Global, ast.Nonlocal) else set()
            found[kind] = tuple(name for name in reversed(kind._fields) if name not in _NO_NODES | without)
    return found


_FIELDS = _fields()
_ATOMS = (ast.Name, ast.Attribute, ast.Call, ast.Subscript)  # never in parentheses before a dot


def written(node: ast.AST) -> str:
    """`ast.unparse`, which is slow: dotted names are read here, and the text of any other node is kept on the node."""
    if isinstance(node, ast.Name):
        return node.id
    kept: dict[str, str] = vars(node)
    known = kept.get("written")
    if known is None:
        if isinstance(node, ast.Attribute) and isinstance(node.value, _ATOMS):
            known = f"{written(node.value)}.{node.attr}"
        else:
            known = ast.unparse(node)
        kept["written"] = known
    return known


def test_of(node: ast.expr) -> tuple[str | None, bool]:
    """The text of a condition without negation, and whether it was negated. (None, False) for a constant."""
    negated = False
    while isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        node, negated = node.operand, not negated
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        opposite = {ast.NotEq: "==", ast.IsNot: "is", ast.NotIn: "in"}.get(type(node.ops[0]))
        if opposite is not None:
            left, right = written(node.left), written(node.comparators[0])
            return _truth(f"{left} {opposite} {right}", not negated)
    return _truth(written(node), negated)


def _truth(text: str, negated: bool) -> tuple[str, bool]:
    """`x is None` is the negation of `x`, as far as optional objects go."""
    return (text.removesuffix(" is None"), not negated) if text.endswith(" is None") else (text, negated)


def added_to(node: ast.Assign) -> ast.expr | None:
    """x of `total = total + x`, or None."""
    if len(node.targets) != 1 or not isinstance(node.value, ast.BinOp) or not isinstance(node.value.op, ast.Add):
        return None
    target = node.targets[0]
    if not isinstance(target, (ast.Name, ast.Attribute, ast.Subscript)):
        return None
    text = written(target)
    if written(node.value.left) == text:
        return node.value.right
    return node.value.left if written(node.value.right) == text else None


def is_main(test: ast.expr) -> bool:
    """Whether a condition is `__name__ == "__main__"`."""
    return isinstance(test, ast.Compare) and written(test).replace('"', "'") == "__name__ == '__main__'"


def may_guard(node: ast.expr) -> bool:
    text = written(node)
    return "grad" in text or "eval" in text or "inference" in text


class Survey:
    """All nodes of a tree, walked through once: in the order of the text, by their types, and what is around each."""

    def __init__(self, tree: ast.AST) -> None:
        self.nodes: list[ast.AST] = []
        self.parents: dict[int, ast.AST] = {}
        self.of_type: dict[type, list[ast.AST]] = {}
        parents, of_type, found = self.parents, self.of_type, self.nodes.append
        todo: list[ast.AST] = [tree]
        push, pop = todo.append, todo.pop
        while todo:
            node = pop()
            found(node)
            kind = type(node)
            if kind in of_type:
                of_type[kind].append(node)
            else:
                of_type[kind] = [node]
            for name in _FIELDS.get(kind, ()):
                value = getattr(node, name)
                if value is None or type(value) is str:
                    continue
                if type(value) is list:
                    for one in reversed(value):
                        if one is not None:
                            parents[id(one)] = node
                            push(one)
                else:
                    parents[id(value)] = node
                    push(value)

    @cached_property
    def positions(self) -> dict[int, int]:
        """id of a node -> its number in the order of the text."""
        return {id(node): index for index, node in enumerate(self.nodes)}


def nodes_of(tree: ast.AST) -> list[ast.AST]:
    """A node and all nodes inside it, in the order of the text; without the markers of contexts and operators.

    Several times as fast as `ast.walk`, which asks every node for all its fields.
    """
    found: list[ast.AST] = []
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        found.append(node)
        for name in _FIELDS.get(type(node), ()):
            value = getattr(node, name)
            if type(value) is list:
                todo += [one for one in reversed(value) if one is not None]
            elif value is not None and type(value) is not str:
                todo.append(value)
    return found
