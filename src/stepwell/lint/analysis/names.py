"""Full names in the tree of a script, where syntax alone decides and no walk is needed."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from stepwell.lint.analysis.known import full_name
from stepwell.lint.analysis.scope import imported
from stepwell.lint.analysis.values import External

_USUAL = {"torch": "torch", "nn": "torch.nn", "F": "torch.nn.functional", "optim": "torch.optim"}
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class Names:
    """The imports of a file, wherever they stand; a name that the file binds in another way is no import."""

    def __init__(self, tree: ast.Module) -> None:
        self._names: dict[str, str] = {}
        for node in ast.walk(tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                self._names.update(
                    {name: one.name for name, one in imported(node).items() if isinstance(one, External)}
                )
        for statement in tree.body:
            if isinstance(statement, (*_FUNCTIONS, ast.ClassDef)):
                self._names[statement.name] = f"<{statement.name}>"

    def of(self, node: ast.expr) -> str:
        """The full name of a name or attribute: "torch.nn.functional.dropout"; "" if there is none."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return ""
        first = self._names.get(node.id, _USUAL.get(node.id, node.id))
        return full_name(".".join([first, *reversed(parts)]))


def calls_in_methods(
    tree: ast.Module,
) -> Iterator[tuple[ast.Call, ast.FunctionDef | ast.AsyncFunctionDef, ast.ClassDef]]:
    """All calls inside of methods: the call, the method and its class."""
    for cls in ast.walk(tree):
        if isinstance(cls, ast.ClassDef):
            for method in cls.body:
                if isinstance(method, _FUNCTIONS):
                    for node in ast.walk(method):
                        if isinstance(node, ast.Call):
                            yield node, method, cls
