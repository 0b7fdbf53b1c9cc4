"""What single statements and conditions say by their form alone."""

from __future__ import annotations

import ast

_PLAIN = (ast.expr_context, ast.operator, ast.boolop, ast.unaryop, ast.cmpop)  # one object for all places


def test_of(node: ast.expr) -> tuple[str | None, bool]:
    """The text of a condition without negation, and whether it was negated. (None, False) for a constant."""
    negated = False
    while isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        node, negated = node.operand, not negated
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        opposite = {ast.NotEq: "==", ast.IsNot: "is", ast.NotIn: "in"}.get(type(node.ops[0]))
        if opposite is not None:
            left, right = ast.unparse(node.left), ast.unparse(node.comparators[0])
            return _truth(f"{left} {opposite} {right}", not negated)
    return _truth(ast.unparse(node), negated)


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
    text = ast.unparse(target)
    if ast.unparse(node.value.left) == text:
        return node.value.right
    return node.value.left if ast.unparse(node.value.right) == text else None


def is_main(test: ast.expr) -> bool:
    """Whether a condition is `__name__ == "__main__"`."""
    return isinstance(test, ast.Compare) and ast.unparse(test).replace('"', "'") == "__name__ == '__main__'"


def may_guard(node: ast.expr) -> bool:
    text = ast.unparse(node)
    return "grad" in text or "eval" in text or "inference" in text


class Survey:
    """All nodes of a tree, walked through once: in the order of the text, by their types, and what is around each."""

    def __init__(self, tree: ast.AST) -> None:
        self.nodes: list[ast.AST] = []
        self.parents: dict[int, ast.AST] = {}
        self.of_type: dict[type, list[ast.AST]] = {}
        parents, of_type, found = self.parents, self.of_type, self.nodes.append
        todo: list[ast.AST] = [tree]
        while todo:
            node = todo.pop()
            found(node)
            kind = type(node)
            if kind in of_type:
                of_type[kind].append(node)
            else:
                of_type[kind] = [node]
            inside: list[ast.AST] = []
            for value in vars(node).values():
                if type(value) is list:
                    inside += [one for one in value if isinstance(one, ast.AST)]
                elif isinstance(value, ast.AST) and not isinstance(value, _PLAIN):
                    inside.append(value)
            for one in inside:
                parents[id(one)] = node
            inside.reverse()
            todo += inside


def nodes_of(tree: ast.AST) -> list[ast.AST]:
    """A node and all nodes inside it, in the order of the text; without the markers of contexts and operators.

    Three times as fast as `ast.walk`, which asks every node for its fields by name.
    """
    found: list[ast.AST] = []
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        found.append(node)
        inside: list[ast.AST] = []
        for value in vars(node).values():
            if isinstance(value, list):
                inside += [one for one in value if isinstance(one, ast.AST)]
            elif isinstance(value, ast.AST) and not isinstance(value, _PLAIN):
                inside.append(value)
        todo += reversed(inside)
    return found
