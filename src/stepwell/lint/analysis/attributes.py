"""Attributes of objects, and the parameters of functions: what they are where nothing was assigned before our eyes."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from stepwell.lint.analysis.known import full_name, is_model_method, kind_of_name
from stepwell.lint.analysis.scope import Scope
from stepwell.lint.analysis.syntax import written
from stepwell.lint.analysis.tensors import computed, detached
from stepwell.lint.analysis.values import (
    Class,
    Constant,
    External,
    Function,
    Many,
    Method,
    Tensor,
    Thing,
    Value,
    joined,
)

if TYPE_CHECKING:
    from stepwell.lint.analysis.interpreter import Interpreter


def attribute(run: Interpreter, owner: Value, node: ast.Attribute) -> Value:
    name = node.attr
    if isinstance(owner, External):
        return External(full_name(f"{owner.name}.{name}"))
    if isinstance(owner, Class):
        method = owner.method(name)
        return Function(method, owner.scope) if method is not None else None
    if isinstance(owner, Tensor):
        if name == "data" and any(part.by == "packed" for part in owner.history()):
            return owner  # no `data` of a tensor: a PackedSequence has its values there, with their graph
        if name in ("data", "grad"):
            return detached(node, owner)
        if name in ("shape", "device", "dtype", "requires_grad", "ndim", "is_cuda"):
            return Constant(known=False)
        if name == "loss":
            return Tensor(owner.attached, "loss", (owner,), owner.models, node)
        return computed(name, node, (owner,))
    if isinstance(owner, Thing):
        return _attribute_of_thing(run, owner, node)
    if isinstance(owner, Many) and owner.keys is not None and name in owner.keys:
        return owner.items[owner.keys.index(name)]
    if isinstance(owner, Many):
        return Method(owner, name)
    return _unknown_attribute(run, node)


def _unknown_attribute(run: Interpreter, node: ast.Attribute) -> Value:
    """`trainer.optimizer` of a trainer from elsewhere: the same thing wherever the text is the same."""
    text = written(node)
    kind = run.kind_of(node.attr)
    if (
        not kind
        or not text.replace(".", "").replace("_", "").isalnum()
        or text.split(".")[0] in ("args", "cfg", "config", "opt", "hparams")
    ):
        return None
    module = run.scope.module.names
    if text not in module:
        module[text] = Thing(kind, text, sure=False, whole=False)
    return module[text]


def _attribute_of_thing(run: Interpreter, owner: Thing, node: ast.Attribute) -> Value:
    name = node.attr
    before = owner.attributes.get(name)
    later = isinstance(before, Constant) and before.value is None and kind_of_name(name) != ""  # None until it is set
    if before is not None and not later:  # one of which nothing is known is as good as its name
        return before
    if owner.local is not None:
        method = owner.local.method(name)
        if method is not None:
            function = Function(method, owner.local.scope, owner)
            if any(
                isinstance(one, ast.Name) and one.id in ("property", "cached_property") for one in method.decorator_list
            ):
                with run.hushed():
                    return run.call(function, node, {})
            return function
        found = assigned(run, owner, name)
        if found is not None:
            owner.attributes[name] = found
            return found
    if owner.kind == "model":
        if name == "module":
            return owner
        if name in ("optimizers", "lr_schedulers"):  # methods of a LightningModule
            return Method(owner, name)
        if is_model_method(name) or kind_of_name(name) not in ("", "model"):
            if kind_of_name(name) and not is_model_method(name):
                return _remember(owner, name, node, parent=False)
            return Method(owner, name)
        if owner.local is not None and owner.local.external_bases() - {"torch.nn.Module"}:
            return _remember(owner, name, node, parent=True) if kind_of_name(name) == "model" else Method(owner, name)
        return _remember(owner, name, node, parent=True)
    if owner.kind == "optimizer" and name in ("optimizer", "_optimizer", "optim", "base_optimizer"):
        return owner
    if owner.kind in ("instance", "") and run.kind_of(name):
        return _remember(owner, name, node, parent=False)
    if name in owner.attributes:
        return None  # assigned before our eyes, and unknown
    return Method(owner, name)


def _remember(owner: Thing, name: str, node: ast.Attribute, parent: bool) -> Thing:
    """An attribute that nothing was seen of, from now on the same thing."""
    kind = kind_of_name(name) or "model"
    made = Thing(
        kind,
        written(node),
        sure=False,
        whole=False,
        parent=owner if parent or (kind == "model" and owner.kind == "model") else None,
    )
    owner.attributes[name] = made
    return made


def assigned(run: Interpreter, owner: Thing, name: str) -> Value:
    """What some method of the class assigns to an attribute, where the object was not made before our eyes."""
    if owner.local is None or len(run.running) > 4:
        return None
    found: Value = None
    for one in owner.local.lineage():
        if isinstance(one, str):
            continue
        for source, method in one.assigned.get(name, ())[:3]:
            if id(source) in run.running:
                continue
            saved = run.scope, run.running
            run.scope, run.running = Scope(one.scope), (*run.running, id(source))
            bind_parameters(run, Function(method, one.scope, owner), {}, True)
            with run.hushed():
                result = run.value(source)
                if result is None and isinstance(source, ast.Call) and run.kind_of(name):
                    result = run._guessed(ast.Name(name), source)
            run.scope, run.running = saved
            if isinstance(result, Thing) and not result.name:
                result.name = f"self.{name}"
            found = joined(found, result)
    return found


def bind_parameters(run: Interpreter, function: Function, given: dict[str | int, Value], hidden: bool) -> None:
    """Give the parameters of a function their values: what was given, the default, or what the name suggests."""
    arguments = function.node.args
    names = [one.arg for one in (*arguments.posonlyargs, *arguments.args)]
    defaults: dict[str, ast.expr] = dict(zip(reversed(names), reversed(arguments.defaults), strict=False))
    defaults |= {
        one.arg: default for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if default
    }
    shift = 0
    if function.owner is not None and names and not _is_static(function.node):
        by_class = any(written(one) == "classmethod" for one in getattr(function.node, "decorator_list", ()))
        run.scope.names[names[0]] = function.owner.local if by_class else function.owner
        names, shift = names[1:], 0
    for index, name in enumerate([*names, *(one.arg for one in arguments.kwonlyargs)]):
        result = given.get(name, given.get(index + shift) if index < len(names) else None)
        if result is None and (name in given or index in given or hidden or name not in defaults):
            result = weak(run, function, name)
        elif result is None:
            with run.hushed():
                result = run.value(defaults[name])
            if isinstance(result, Constant) and result.value is None and not given:
                result = weak(run, function, name) or result  # of a function that nobody calls here
        run.scope.names[name] = result
    if arguments.vararg:
        rest = [given[i] for i in range(len(names), len(names) + 20) if i in given]
        run.scope.names[arguments.vararg.arg] = Many(rest, whole=not hidden)
    if arguments.kwarg:
        run.scope.names[arguments.kwarg.arg] = Many([], [], whole=False)


def weak(run: Interpreter, function: Function, name: str) -> Value:
    """What a parameter is by its name; the same each time."""
    kind = run.kind_of(name)
    if not kind:
        return None
    key = f"{id(function.node)} {name}"
    module = run.scope.module.names
    if key not in module:
        module[key] = Thing(kind, name, sure=False, whole=False)
    return module[key]


def _is_static(node: ast.AST) -> bool:
    return any(isinstance(one, ast.Name) and one.id == "staticmethod" for one in getattr(node, "decorator_list", ()))
