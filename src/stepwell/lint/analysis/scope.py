"""Names of a module, a function or a class of a script, and what they stand for."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from dataclasses import dataclass, field

from stepwell.lint.analysis.known import full_name
from stepwell.lint.analysis.values import Class, Constant, External, Value

BUILTINS = frozenset(dir(builtins))
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(eq=False)
class Scope:
    """The names of one function call, or of the module."""

    parent: Scope | None = None
    names: dict[str, Value] = field(default_factory=dict)
    outer: set[str] = field(default_factory=set)  # declared global or nonlocal
    born: dict[str, tuple[object, ...]] = field(default_factory=dict)  # name -> the loops around its last plain `=`

    @property
    def module(self) -> Scope:
        return self if self.parent is None else self.parent.module

    def holder(self, name: str) -> Scope | None:
        """The scope that has the name, this one or one around it."""
        one: Scope | None = self
        while one is not None:
            if name in one.names:
                return one
            one = one.parent
        return None

    def find(self, name: str) -> Value:
        holder = self.holder(name)
        return None if holder is None else holder.names[name]

    def bind(self, name: str, value: Value) -> None:
        (self.module if name in self.outer else self).names[name] = value


def imported(node: ast.Import | ast.ImportFrom) -> dict[str, Value]:
    """The names that an import binds."""
    result: dict[str, Value] = {}
    if isinstance(node, ast.Import):
        for one in node.names:
            name = one.asname or one.name.partition(".")[0]
            result[name] = External(full_name(one.name if one.asname else name))
        return result
    module = "." * node.level + (node.module or "")
    for one in node.names:
        if one.name == "*":
            result.update(_starred(module))
        else:
            result[one.asname or one.name] = External(full_name(f"{module}.{one.name}"))
    return result


def _starred(module: str) -> dict[str, Value]:
    """What `from torch.optim import *` and the like bring, as far as it matters here."""
    names = {
        "torch.optim": "SGD Adam AdamW Adagrad RMSprop LBFGS Adadelta Adamax NAdam RAdam lr_scheduler",
        "torch.optim.lr_scheduler": "StepLR MultiStepLR ExponentialLR CosineAnnealingLR ReduceLROnPlateau LambdaLR "
        "OneCycleLR CyclicLR CosineAnnealingWarmRestarts",
        "torch": "nn optim no_grad",
        "torch.nn": "functional Module Linear CrossEntropyLoss MSELoss BCELoss BCEWithLogitsLoss Sequential Softmax",
        "torch.utils.data": "DataLoader Dataset",
    }.get(module, "")
    return {name: External(full_name(f"{module}.{name}")) for name in names.split()}


def statements_of(tree: ast.AST) -> Iterator[ast.stmt]:
    """All statements inside a node, those of functions and classes inside included; expressions are not looked into."""
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            block = getattr(node, name, None)
            if isinstance(block, list):
                for one in block:
                    if isinstance(one, ast.stmt):
                        yield one
                    todo.append(one)


def class_of(node: ast.ClassDef, bases: list[Value], scope: Scope) -> Class:
    """The class that a definition makes."""
    methods = {one.name: one for one in node.body if isinstance(one, FUNCTIONS)}
    assigned: dict[str, list[tuple[ast.expr, ast.FunctionDef | ast.AsyncFunctionDef]]] = {}
    for method in methods.values():
        if not method.args.args:
            continue
        own = method.args.args[0].arg
        for inner in statements_of(method):
            if isinstance(inner, ast.Assign):
                targets, source = inner.targets, inner.value
            elif isinstance(inner, ast.AnnAssign) and inner.value is not None:
                targets, source = [inner.target], inner.value
            else:
                continue
            for target in targets:
                if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == own:
                    assigned.setdefault(target.attr, []).append((source, method))
    known: list[Class | str] = [
        one if isinstance(one, Class) else one.name if isinstance(one, External) else "?" for one in bases
    ]
    for other in node.body:  # attributes of the class itself
        if isinstance(other, ast.Assign) and len(other.targets) == 1 and isinstance(other.targets[0], ast.Name):
            assigned.setdefault(other.targets[0].id, []).append((other.value, _NOTHING))
    return Class(node, tuple(known), methods, assigned, scope)


def _no_method() -> ast.FunctionDef:
    node = ast.parse("def _(): pass").body[0]
    assert isinstance(node, ast.FunctionDef)
    return node


_NOTHING = _no_method()


def constant(node: ast.expr | None) -> Constant | None:
    """The literal that an expression is, with a sign, or None."""
    if node is None:
        return None
    try:
        return Constant(ast.literal_eval(node))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
