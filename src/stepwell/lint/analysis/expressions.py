"""The value of an expression, and what happens while it is computed."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from stepwell.lint.analysis import calls
from stepwell.lint.analysis.attributes import attribute
from stepwell.lint.analysis.known import (
    GRAD,
    NO_GRAD,
)
from stepwell.lint.analysis.phases import decided
from stepwell.lint.analysis.scope import BUILTINS
from stepwell.lint.analysis.syntax import written
from stepwell.lint.analysis.tensors import computed, detached, parameters_of
from stepwell.lint.analysis.values import (
    Constant,
    External,
    Function,
    Many,
    Tensor,
    Thing,
    Value,
    item_of,
    joined,
    things,
)

if TYPE_CHECKING:
    from stepwell.lint.analysis.interpreter import Interpreter

_OPERATORS = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "/",
    ast.MatMult: "@",
    ast.Pow: "**",
}

_USUAL = {  # names that no import of the file explains: of a cell, or of `import *`
    "torchvision": "torchvision",
    "torch": "torch",
    "nn": "torch.nn",
    "F": "torch.nn.functional",
    "optim": "torch.optim",
    "clip_grad_norm_": "torch.nn.utils.clip_grad_norm_",
    "clip_grad_value_": "torch.nn.utils.clip_grad_value_",
    "GradScaler": "torch.amp.GradScaler",
    "autocast": "torch.amp.autocast",
}


def value(run: Interpreter, node: ast.expr) -> Value:
    """The value of an expression; None where it is not known."""
    visit: Any = _VISIT.get(type(node))
    if visit is not None:
        result: Value = visit(run, node)
        if run.no_grad is True and isinstance(result, Tensor) and result.node is node and result.attached:
            result.attached = False  # computed here, of what has a graph
        return result
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            value(run, child)
    return None


def _constant(run: Interpreter, node: ast.Constant) -> Value:
    return Constant(node.value)


def _name(run: Interpreter, node: ast.Name) -> Value:
    holder = run.scope.holder(node.id)
    if holder is not None:
        return holder.names[node.id]
    if node.id in BUILTINS:
        return External(node.id)
    if node.id in _USUAL:  # of a star import, or in a snippet
        return External(_USUAL[node.id])
    return _guess(run, node.id)


def _guess(run: Interpreter, name: str) -> Value:
    """A name that nothing was seen of: defined elsewhere, or in a way that is not followed."""
    kind = run.kind_of(name)
    if not kind or name in ("opt", "opts") or (name[0].isupper() and len(name) > 2 and not name.isupper()):
        return None  # Net of `from models import *` is a class
    if name.startswith(("build_", "make_", "create_", "get_", "load_", "init_", "define_")):
        return None  # a function that gives one
    made = Thing(kind, name, sure=False, whole=False)
    run.scope.module.names[name] = made
    return made


def _attribute(run: Interpreter, node: ast.Attribute) -> Value:
    owner = value(run, node.value)
    result = attribute(run, owner, node)
    run.owner = (node, owner)
    return result


def _subscript(run: Interpreter, node: ast.Subscript) -> Value:
    owner, index = value(run, node.value), value(run, node.slice)
    if isinstance(owner, Many):
        if isinstance(index, Constant) and index.known:
            if owner.keys is not None and index.value in owner.keys:
                return owner.items[owner.keys.index(index.value)]
            if (
                owner.keys is None
                and isinstance(index.value, int)
                and -len(owner.items) <= index.value < len(owner.items)
            ):
                return owner.items[index.value]
        if owner.member is not None:
            return owner.member
        if owner.items and not isinstance(index, Constant):
            found: Value = owner.items[0]
            for item in owner.items[1:]:
                found = joined(found, item) if type(found) is type(item) else None
            return found
    elif isinstance(owner, External) and owner.name.endswith(".__dict__"):
        return External(f"{owner.name.removesuffix('.__dict__')}.some")
    elif isinstance(owner, Tensor):
        return owner if owner.by == "data" else computed("[]", node, (owner,)) if owner.by != "loss" else owner
    elif isinstance(owner, Thing):
        if owner.kind in ("optimizer", "model", "scheduler", "loader") and not owner.sure:
            phase = isinstance(index, Constant) and index.decides
            key = f"[{index.value!r}]" if isinstance(index, Constant) and phase else f"[{written(node.slice)}]"
            if key not in owner.attributes:
                owner.attributes[key] = Thing(owner.kind, written(node), sure=False, whole=False)
            return owner.attributes[key]
        return owner if owner.kind in ("loader", "model", "parameters") else None
    return None


def _many(run: Interpreter, node: ast.List | ast.Tuple | ast.Set) -> Value:
    items: list[Value] = []
    whole = True
    for one in node.elts:
        if isinstance(one, ast.Starred):
            inner = value(run, one.value)
            if isinstance(inner, Many):
                items += inner.items
                whole = whole and inner.whole
            else:
                items.append(inner)
                whole = whole and isinstance(inner, Thing) and inner.kind == "parameters"
        else:
            items.append(value(run, one))
    return Many(items, whole=whole)


def _dict(run: Interpreter, node: ast.Dict) -> Value:
    keys: list[object] = []
    items: list[Value] = []
    whole = True
    for key, item in zip(node.keys, node.values, strict=True):
        known = value(run, key) if key is not None else None
        whole = whole and isinstance(known, Constant) and known.known
        keys.append(known.value if isinstance(known, Constant) else None)
        items.append(value(run, item))
    return Many(items, keys, whole)


def _operation(run: Interpreter, node: ast.BinOp) -> Value:
    left, right = value(run, node.left), value(run, node.right)
    parts = tuple(one for one in (left, right) if isinstance(one, Tensor))
    if parts:
        return computed(_OPERATORS.get(type(node.op), ""), node, parts)
    if isinstance(node.op, ast.Add) and any(one.kind == "parameters" for one in (*things(left), *things(right))):
        return parameters_of([left, right], node)
    if isinstance(node.op, ast.Add) and isinstance(left, Many) and isinstance(right, Many):
        ragged = left.ragged or right.ragged
        return Many([*left.items, *right.items], whole=left.whole and right.whole, ragged=ragged)
    if isinstance(left, Constant) and isinstance(right, Constant):
        return Constant(known=False)
    return None


def _compare(run: Interpreter, node: ast.Compare) -> Value:
    parts = [value(run, one) for one in (node.left, *node.comparators)]
    holds = decided(run, node)
    if holds is not None:
        return Constant(holds, decides=True)
    return detached(node, by="compare") if any(isinstance(one, Tensor) for one in parts) else None


def _unary(run: Interpreter, node: ast.UnaryOp) -> Value:
    inner = value(run, node.operand)
    if isinstance(node.op, ast.Not) and isinstance(inner, Constant) and inner.decides:
        return Constant(not inner.value, decides=True)
    if isinstance(inner, Tensor):
        return computed("-", node, (inner,)) if isinstance(node.op, ast.USub) else detached(node)
    if (
        isinstance(inner, Constant)
        and inner.known
        and isinstance(node.op, ast.USub)
        and isinstance(inner.value, (int, float))
    ):
        return Constant(-inner.value)
    return None


def _if_expression(run: Interpreter, node: ast.IfExp) -> Value:
    value(run, node.test)
    holds = decided(run, node.test)
    if holds is not None:
        return value(run, node.body if holds else node.orelse)
    one, other = value(run, node.body), value(run, node.orelse)
    for guard in (one, other):
        if isinstance(guard, Thing) and guard.kind == "autocast":
            return guard
    for guard in (one, other):
        if isinstance(guard, Thing) and guard.kind in ("no_grad", "set_grad", "grad"):
            return Thing("set_grad")
    return joined(one, other)


def _bool(run: Interpreter, node: ast.BoolOp) -> Value:
    found: Value = None
    last: Value = None
    for one in node.values:
        last = value(run, one)
        found = joined(found, last)
    if isinstance(node.op, ast.And) and isinstance(last, Thing) and last.kind in ("no_grad", "set_grad", "grad"):
        return last  # with model.eval() and torch.no_grad():
    return found


def _comprehension(run: Interpreter, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> Value:
    before = dict(run.scope.names)
    over: Value = None
    unrolled: list[Value] | None = None
    for generator in node.generators:
        over = value(run, generator.iter)
        item = item_of(over)
        few = over.items if isinstance(over, Many) and over.whole and len(node.generators) == 1 else []
        if 0 < len(few) <= 6 and not isinstance(node, ast.DictComp):
            unrolled = []
            for one in few:
                run.bind(generator.target, one)
                unrolled.append(value(run, node.elt))
            break
        run.bind(generator.target, item)
        for condition in generator.ifs:
            value(run, condition)
    if unrolled is None:
        element = value(run, node.value if isinstance(node, ast.DictComp) else node.elt)
    for name in set(run.scope.names) - set(before):
        del run.scope.names[name]
    run.scope.names.update(before)
    if unrolled is not None:
        return Many(unrolled)
    if isinstance(element, Thing) and element.kind == "parameters":
        return element
    filtered = any(one.ifs for one in node.generators)
    if isinstance(over, Thing) and over.kind == "parameters":
        return Thing("parameters", over.name, of=over.of, whole=over.whole and not filtered)
    return Many([], whole=False, member=element)


def _lambda(run: Interpreter, node: ast.Lambda) -> Value:
    return Function(node, run.scope)


def _text(run: Interpreter, node: ast.JoinedStr) -> Value:
    for child in ast.walk(node):
        if isinstance(child, ast.Call):
            value(run, child)
            break
    return Constant(known=False)


def _call(run: Interpreter, node: ast.Call) -> Value:
    return calls.call(run, node)


def _inner(run: Interpreter, node: ast.Await | ast.Starred) -> Value:
    return value(run, node.value)


def _named(run: Interpreter, node: ast.NamedExpr) -> Value:
    return run._NamedExpr(node)


def is_autocast(run: Interpreter, decorator: ast.expr) -> bool:
    """Whether a decorator runs the whole function under autocast."""
    if not isinstance(decorator, ast.Call) or "autocast" not in written(decorator.func):
        return False
    with run.hushed():
        made = value(run, decorator)
    return isinstance(made, Thing) and made.kind == "autocast" and made.name != "off"


def guard_of(run: Interpreter, decorator: ast.expr) -> str:
    """ "no_grad" or "grad" for a decorator that is one, else ""."""
    target = decorator.func if isinstance(decorator, ast.Call) else decorator
    with run.hushed():
        found = value(run, target) if isinstance(target, (ast.Name, ast.Attribute)) else None
    if isinstance(found, External):
        if found.name in NO_GRAD:
            mode = decorator.keywords[0].value if isinstance(decorator, ast.Call) and decorator.keywords else None
            return "" if isinstance(mode, ast.Constant) and mode.value is False else "no_grad"
        if found.name in GRAD:
            return "grad"
        if found.name.endswith("set_grad_enabled") and isinstance(decorator, ast.Call) and decorator.args:
            return "no_grad" if isinstance(decorator.args[0], ast.Constant) and decorator.args[0].value is False else ""
        if found.name.rsplit(".", 1)[-1] in ("no_grad", "inference_mode"):
            return "no_grad"
    text = written(target)
    return "maybe" if "grad" in text or "eval" in text or "infer" in text else ""


_VISIT = {
    ast.Constant: _constant,
    ast.Name: _name,
    ast.Attribute: _attribute,
    ast.Subscript: _subscript,
    ast.List: _many,
    ast.Tuple: _many,
    ast.Set: _many,
    ast.Dict: _dict,
    ast.BinOp: _operation,
    ast.Compare: _compare,
    ast.UnaryOp: _unary,
    ast.IfExp: _if_expression,
    ast.BoolOp: _bool,
    ast.ListComp: _comprehension,
    ast.SetComp: _comprehension,
    ast.GeneratorExp: _comprehension,
    ast.DictComp: _comprehension,
    ast.Lambda: _lambda,
    ast.JoinedStr: _text,
    ast.Call: _call,
    ast.Await: _inner,
    ast.Starred: _inner,
    ast.NamedExpr: _named,
}
