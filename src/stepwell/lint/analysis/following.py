"""Calls of functions of the file: their bodies are read where they are called, with what they are given."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from stepwell.lint.analysis import expressions
from stepwell.lint.analysis.attributes import bind_parameters
from stepwell.lint.analysis.events import Call
from stepwell.lint.analysis.phases import mark_parameters
from stepwell.lint.analysis.scope import Scope
from stepwell.lint.analysis.values import Function, Thing, Value, joined, things

if TYPE_CHECKING:
    from stepwell.lint.analysis.interpreter import Interpreter

DEEPEST = 7  # calls inside calls that are followed
SHALLOW = 4  # as far as the last one does nothing but compute


def follow(
    run: Interpreter, function: Function, node: ast.AST, given: dict[str | int, Value], hidden: bool = False
) -> Value:
    """Follow a call. `given`: position or keyword -> value; `hidden`: more is given by * or **."""
    body = function.node
    if isinstance(body, ast.Lambda):
        return _call_lambda(run, function, body, given)
    plain = body not in run.interest
    if id(body) in run.running or len(run.running) >= (SHALLOW if plain else DEEPEST) or run.left <= 0:
        targets = tuple(one for value in (*given.values(), function.owner) for one in things(value))
        run.emit("unknown", node, name=body.name, targets=targets)
        return None
    saved = (
        run.scope, run.frames, run.running, run.no_grad, run.function, run.returned, run.block, run.flags,
        run.autocast,
    )  # fmt: skip
    if not run.quiet:
        run.entered[id(body)] = run.entered.get(id(body), 0) + 1
    run.scope = Scope(function.scope)
    run.frames, run.running = (*run.frames, node), (*run.running, id(body))
    run.function, run.returned = body, []
    call = Call(node, body)
    run.block = call.body
    bind_parameters(run, function, given, hidden)
    mark_parameters(run, function, given, hidden)
    for decorator in body.decorator_list:
        guard = expressions.guard_of(run, decorator)
        if guard:
            run.no_grad = None if guard == "maybe" else guard == "no_grad"
        elif expressions.is_autocast(run, decorator):
            run.autocast = decorator
    run.run(body.body)
    result: Value = None
    for index, value in enumerate(run.returned):
        result = value if index == 0 else joined(result, value)
    (
        run.scope, run.frames, run.running, run.no_grad, run.function, run.returned, run.block, run.flags,
        run.autocast,
    ) = saved  # fmt: skip
    if run.lasts:
        run.no_grad, run.lasts = run.lasting, bool(run.frames)
    if call.body and not run.quiet:
        run.block.append(call)
    if run.interest.is_generator(body):
        return Thing("loader", body.name, sure=False)
    return result


def _call_lambda(run: Interpreter, function: Function, body: ast.Lambda, given: dict[str | int, Value]) -> Value:
    if len(run.running) >= DEEPEST or id(body) in run.running:
        return None
    saved = run.scope, run.running
    run.scope, run.running = Scope(function.scope), (*run.running, id(body))
    for index, one in enumerate(body.args.args):
        run.scope.names[one.arg] = given.get(index, given.get(one.arg))
    result = run.value(body.body)
    run.scope, run.running = saved
    return result
