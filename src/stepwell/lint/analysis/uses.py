"""All that a file does with an object, by the names that the object has: for checks that claim that something never
happens."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from stepwell.lint.analysis.script import Script

_CHECKPOINT = re.compile(
    r"(load|restore|resume|restart|save)\w*(checkpoint|ckpt|state)|register_for_checkpointing", re.I
)
_HANDING = ("prepare", "setup", "setup_optimizers", "to")  # what comes back is what went in


def uses(script: Script, made: ast.Call) -> list[ast.Attribute] | None:
    """The attributes that are asked of what a call makes, under all names that it gets. None where the object may be
    used by code that the file does not show: returned to a caller elsewhere, stored in a list, given to a library."""
    start = script.parents.get(id(made))
    while isinstance(start, ast.IfExp) and start.test is not made:
        start = script.parents.get(id(start))
    if isinstance(start, ast.Expr):
        return []
    walk = _Walk(script)
    if not walk.flows(made):
        return None
    asked: list[ast.Attribute] = []
    done: set[str] = set()
    while walk.names - done:
        name = next(iter(walk.names - done))
        done.add(name)
        for node in walk.loads.get(name, ()):
            parent = script.parents.get(id(node))
            if isinstance(parent, ast.Attribute) and parent.value is node:
                asked.append(parent)
            elif not walk.flows(node):
                return None
    return asked


class _Walk:
    """The names that an object has, found by following where it flows. A name means the same in the whole
    file."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.names: set[str] = set()
        self.functions: dict[str, list[ast.FunctionDef | ast.AsyncFunctionDef]] = {}
        self.classes: dict[str, ast.ClassDef] = {}
        self.loads: dict[str, list[ast.expr]] = {}
        self.calls: dict[str, list[ast.Call]] = {}
        for node in script.each(ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Call, ast.Name, ast.Attribute):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                self.functions.setdefault(node.name, []).append(node)
            elif isinstance(node, ast.ClassDef):
                self.classes[node.name] = node
            elif isinstance(node, ast.Call):
                self.calls.setdefault(_called(node), []).append(node)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                self.loads.setdefault(node.id, []).append(node)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                self.loads.setdefault(f".{node.attr}", []).append(node)

    def flows(self, node: ast.expr) -> bool:
        """Follow a value to what its place in the source gives it to. False where that is not known."""
        parent = self.script.parents.get(id(node))
        if isinstance(parent, ast.IfExp):
            return parent.test is node or self.flows(parent)
        if isinstance(parent, (ast.If, ast.While, ast.Assert, ast.Expr, ast.Compare, ast.FormattedValue)):
            return True
        if isinstance(parent, (ast.UnaryOp, ast.BoolOp)):
            above = self.script.parents.get(id(parent))
            return isinstance(above, (ast.If, ast.While, ast.IfExp, ast.BoolOp, ast.Assert, ast.UnaryOp))
        if isinstance(parent, ast.Assign):
            return all(self.target(one) for one in parent.targets)
        if isinstance(parent, ast.AnnAssign):
            return self.target(parent.target)
        if isinstance(parent, ast.keyword):
            call = self.script.parents.get(id(parent))
            return isinstance(call, ast.Call) and parent.arg is not None and self.argument(call, parent.arg, node)
        if isinstance(parent, ast.Call) and node in parent.args:
            return self.argument(parent, parent.args.index(node), node)
        if isinstance(parent, ast.Tuple):
            above = self.script.parents.get(id(parent))
            if isinstance(above, ast.Return):
                return self.returned(above, parent.elts.index(node), len(parent.elts))
            if isinstance(above, ast.Assign) and len(above.targets) == 1 and isinstance(above.targets[0], ast.Tuple):
                other = above.targets[0].elts
                return len(other) == len(parent.elts) and self.target(other[parent.elts.index(node)])
        return isinstance(parent, ast.Return) and self.returned(parent, None, 0)

    def target(self, node: ast.expr) -> bool:
        if isinstance(node, ast.Name):
            self.names.add(node.id)
            return True
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            self.names.add(f".{node.attr}")
            return node.value.id == "self" and self.is_own(node)
        return False

    def is_own(self, node: ast.AST) -> bool:
        """Whether the class that has an attribute is the one to use it, as far as one can see: it has no base from
        elsewhere, and the file makes an object of it, or it steps its optimizer itself."""
        one: ast.AST | None = node
        while one is not None and not isinstance(one, ast.ClassDef):
            one = self.script.parents.get(id(one))
        if not isinstance(one, ast.ClassDef):
            return False
        plain = all(
            isinstance(base, ast.Name) and (base.id == "object" or base.id in self.classes) for base in one.bases
        )
        return plain and (one.name in self.calls or _steps(one))

    def argument(self, call: ast.Call, where: int | str, node: ast.expr) -> bool:
        name = _called(call)
        if name in ("print", "id", "type", "isinstance", "hasattr"):
            return True
        parent = self.script.parents.get(id(call))
        if name in _HANDING and isinstance(where, int) and isinstance(parent, ast.Assign) and len(parent.targets) == 1:
            target = parent.targets[0]
            if isinstance(target, ast.Tuple):
                return len(target.elts) == len(call.args) and self.target(target.elts[where])
            return len(call.args) == 1 and self.target(target)
        if name not in self.functions and _CHECKPOINT.search(name):
            return True
        functions = self.functions.get(name, [])
        bound = 0
        if isinstance(call.func, ast.Name) and name in self.classes:
            functions = [
                one for one in self.classes[name].body if isinstance(one, ast.FunctionDef) and one.name == "__init__"
            ]
            bound = 1
        if len(functions) != 1 or any(isinstance(one, ast.Starred) for one in call.args):
            return False
        function = functions[0]
        if isinstance(call.func, ast.Attribute):
            if not (isinstance(call.func.value, ast.Name) and call.func.value.id == "self"):
                return False
            bound = 1
        names = [one.arg for one in (*function.args.posonlyargs, *function.args.args)]
        if isinstance(where, int):
            if where + bound >= len(names):
                return False
            where = names[where + bound]
        if where not in names and where not in [one.arg for one in function.args.kwonlyargs]:
            return False
        self.names.add(where)
        return True

    def returned(self, node: ast.Return, index: int | None, length: int) -> bool:
        """Follow a value to the callers of the function that returns it."""
        one: ast.AST | None = node
        while one is not None and not isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef)):
            one = self.script.parents.get(id(one))
        if (
            one is None
            or isinstance(self.script.parents.get(id(one)), ast.ClassDef)
            or one.name == "configure_optimizers"
        ):
            return False
        calls = [call for call in self.calls.get(one.name, []) if isinstance(call.func, ast.Name)]
        return bool(calls) and all(self.received(call, index, length) for call in calls)

    def received(self, call: ast.Call, index: int | None, length: int) -> bool:
        if index is None:
            return self.flows(call)
        parent = self.script.parents.get(id(call))
        if (
            not isinstance(parent, ast.Assign)
            or len(parent.targets) != 1
            or not isinstance(parent.targets[0], ast.Tuple)
        ):
            return False
        elements = parent.targets[0].elts
        return len(elements) == length and self.target(elements[index])


def _steps(cls: ast.ClassDef) -> bool:
    """Whether a class steps an optimizer of its own."""
    return any(
        isinstance(one, ast.Attribute)
        and one.attr == "step"
        and isinstance(one.value, ast.Attribute)
        and "opt" in one.value.attr
        and isinstance(one.value.value, ast.Name)
        and one.value.value.id == "self"
        for one in ast.walk(cls)
    )


def _called(call: ast.Call) -> str:
    return (
        call.func.id
        if isinstance(call.func, ast.Name)
        else call.func.attr
        if isinstance(call.func, ast.Attribute)
        else ""
    )


def enclosing(script: Script, node: ast.AST) -> Iterator[ast.AST]:
    """The nodes around a node, from the inside out."""
    one = script.parents.get(id(node))
    while one is not None:
        yield one
        one = script.parents.get(id(one))
