"""Calls: of functions and classes of the file, of libraries, and of methods."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from stepwell.lint.analysis import external, methods
from stepwell.lint.analysis.given import Given, followed_not, unknown
from stepwell.lint.analysis.known import LIGHTNING, MAKES, OF_DICTS, TRAINER, is_module, is_optimizer, is_scheduler
from stepwell.lint.analysis.passes import forward
from stepwell.lint.analysis.values import (
    Class,
    External,
    Function,
    Many,
    Method,
    Tensor,
    Thing,
    Value,
)

if TYPE_CHECKING:
    from stepwell.lint.analysis.interpreter import Interpreter


def call(run: Interpreter, node: ast.Call) -> Value:
    """What a call gives; what it does is written down."""
    callee = run.value(node.func)
    owner = run.owner[1] if run.owner[0] is node.func else None  # `owner.name(...)`, computed once
    given = Given(run, node)
    if isinstance(callee, Function):
        return _function(run, node, callee, given)
    if isinstance(callee, Class):
        return made(run, node, callee, given)
    if isinstance(callee, External):
        return external.call(run, node, callee.name, given)
    if isinstance(callee, Method):
        return methods.call(run, node, callee.owner, callee.name, given)
    if isinstance(callee, Thing):
        if (
            callee.kind == "model"
            and callee.parent is not None
            and isinstance(node.func, ast.Attribute)
            and not callee.sure
        ):
            if callee.parent.local is None and (node.func.attr.startswith(MAKES) or node.func.attr in OF_DICTS):
                return unknown(run, node, given, callee.parent)
            # A method of a model from elsewhere, or a part of it: both give something with a graph.
            return forward(
                run, node, callee.parent if callee.parent.kind == "model" else callee, given, name=node.func.attr
            )
        return methods.call_thing(run, node, callee, given)
    if isinstance(callee, (Tensor, Many)) and isinstance(node.func, ast.Attribute):
        return methods.call(run, node, owner, node.func.attr, given)
    if isinstance(node.func, ast.Attribute):
        return methods.call(run, node, owner, node.func.attr, given)
    return unknown(run, node, given)


def _function(run: Interpreter, node: ast.Call, callee: Function, given: Given) -> Value:
    result = run.call(callee, node, given.values, given.hidden)
    if result is None and given.tensors() and id(callee.node) in run.running:
        return followed_not(node, given)
    return result


def made(run: Interpreter, node: ast.Call, cls: Class, given: Given) -> Value:
    """An object of a class of the file."""
    kind = kind_of_class(cls)
    if kind == "data":
        return None
    thing = Thing(kind, "", cls.node.name, node, local=cls)
    models = tuple(one for one in given.things() if one.kind in ("model", "parameters"))
    if kind == "optimizer":
        thing.of = tuple(dict.fromkeys(m for one in models for m in (one.of if one.kind == "parameters" else (one,))))
        thing.whole = False
    elif kind == "scheduler":
        thing.of = tuple(one for one in given.things() if one.kind == "optimizer")
    run.emit("make", node, thing, call=node)
    start = cls.method("__init__")
    if start is not None:
        run.call(Function(start, cls.scope, thing), node, given.values, given.hidden)
    return thing


def kind_of_class(cls: Class) -> str:
    """What objects of a class of the file are."""
    for name in cls.external_bases():
        last = name.rsplit(".", 1)[-1]
        if LIGHTNING.match(name) and last == "LightningModule":
            return "model"
        if (
            name in ("torch.nn.Module", "torch.nn.Sequential", "torch.nn.ModuleList")
            or is_module(name)
            or last in ("Module", "PreTrainedModel")
        ):
            return "model"
        if is_optimizer(name) or last == "Optimizer":
            return "optimizer"
        if is_scheduler(name) or last in ("LRScheduler", "_LRScheduler"):
            return "scheduler"
        if last in ("Dataset", "IterableDataset", "Sampler"):
            return "data"
        if last in ("DataLoader",):
            return "loader"
        if TRAINER.match(name):
            return "instance"
        if name.startswith("torch.nn.") or "Net" in last or "Model" in last:
            return "model"
    if "forward" in cls.methods and "?" in cls.external_bases():
        return "model"
    return "instance"
