"""Schedules as text: an expression that is parsed and never evaluated."""

from __future__ import annotations

import ast
import inspect
import math
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from stepwell.errors import UsageError, nearest, shown
from stepwell.schedules import cycles, smooth, stairs, warmups
from stepwell.schedules.base import Schedule

# What an expression may name. Functions of the user's own (from_function, product_of) cannot be written down.
NAMES: dict[str, Callable[..., Any]] = {
    "constant": smooth.constant,
    "cooldown": smooth.cooldown,
    "cosine": smooth.cosine,
    "cosine_restarts": cycles.cosine_restarts,
    "cyclic": cycles.cyclic,
    "exponential": smooth.exponential,
    "exponential_to": smooth.exponential_to,
    "inverse_square_root": warmups.inverse_square_root,
    "linear": smooth.linear,
    "multi_step": stairs.multi_step,
    "noam": warmups.noam,
    "one_cycle": cycles.one_cycle,
    "one_cycle_momentum": cycles.one_cycle_momentum,
    "polynomial": smooth.polynomial,
    "stable": smooth.stable,
    "step": stairs.step,
    "trapezoid": warmups.trapezoid,
    "untuned_warmup": warmups.untuned_warmup,
    "warmup": warmups.warmup,
    "wsd": warmups.wsd,
}
METHODS = ("then", "hold", "until", "between", "per_group")
_SHOWN = 200  # of them in a message
_LONGEST = 4000  # characters; an expression of that length is a mistake

_SIGNS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
}


def parse(text: str) -> Schedule:
    """The schedule that an expression describes.

    The expression has Python syntax: the functions of this package, `.then(...)`, `.hold()`, `.until(n)`,
    `.between(low, high)`, `.per_group({...})`, `*`, and numbers with + - * /. The expression is parsed and never
    evaluated: no other code in it can run.

    >>> parse("warmup(500).then(cosine(9500, to=0.1))")
    warmup(500).then(cosine(9500, to=0.1))

    Raises UsageError for an unknown name, with the nearest known name, and for an argument that does not fit.
    """
    if not isinstance(text, str) or not text.strip():
        raise UsageError("the schedule is empty; write one as in warmup(500).then(cosine(9500, to=0.1))")
    if len(text) > _LONGEST:
        raise UsageError(f"the schedule has {len(text)} characters; at most {_LONGEST} are read")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the text, as an escape that Python does not know
            tree = ast.parse(text.strip(), mode="eval").body
        schedule = _read(tree)
    except SyntaxError as error:
        where = f" at character {error.offset}" if error.offset else ""
        raise UsageError(f"{shown(text, _SHOWN)} is not an expression{where}: {error.msg}") from None
    except (RecursionError, MemoryError, ValueError, TypeError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError("the schedule cannot be read: it is nested too deeply or holds a null character") from None
    if not isinstance(schedule, Schedule):
        raise UsageError(
            f"{shown(text, _SHOWN)} is {_kind(schedule)}, not a schedule; write one as in cosine(9500, to=0.1)"
        )
    return schedule


def _read(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant):
        if isinstance(node.value, (int, float, str, type(None))):
            return node.value
    elif isinstance(node, (ast.List, ast.Tuple)):
        return tuple(_read(item) for item in node.elts)
    elif isinstance(node, ast.Dict) and None not in node.keys:  # None stands for **
        return {_read(key): _read(value) for key, value in zip(node.keys, node.values, strict=True) if key is not None}
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        value = _read(node.operand)
        if _is_number(value):
            return -value if isinstance(node.op, ast.USub) else value
    elif isinstance(node, ast.BinOp) and type(node.op) in _SIGNS:
        return _operation(node)
    elif isinstance(node, ast.Call):
        return _call(node)
    elif isinstance(node, ast.Name):
        _known(node.id)
        raise UsageError(f"'{node.id}' needs its arguments: {_form(node.id)}")
    raise UsageError(
        f"'{ast.unparse(node)}' cannot be used in a schedule; "
        f"use numbers, the schedules' names, {', '.join(METHODS)} and *"
    )


def _operation(node: ast.BinOp) -> Any:
    left, right = _read(node.left), _read(node.right)
    shown = f"'{ast.unparse(node)}'"
    if isinstance(left, Schedule) or isinstance(right, Schedule):
        if not isinstance(node.op, ast.Mult):
            raise UsageError(
                f"{shown}: schedules can only be multiplied; use * for a product, .then(...) for a sequence"
            )
        if not all(isinstance(side, Schedule) or _is_number(side) for side in (left, right)):
            raise UsageError(f"{shown}: a schedule can be multiplied by a number or by another schedule")
        return left * right
    if not (_is_number(left) and _is_number(right)):
        raise UsageError(f"{shown}: + - * / need numbers on both sides")
    if isinstance(node.op, ast.Div) and right == 0:
        raise UsageError(f"{shown}: division by zero")
    try:
        result = _SIGNS[type(node.op)](left, right)
    except OverflowError:
        result = math.inf
    if not abs(result) <= sys.float_info.max:
        raise UsageError(f"{shown} is too large")
    return result


def _call(node: ast.Call) -> Any:
    if isinstance(node.func, ast.Name):
        name, function = node.func.id, _known(node.func.id)
    elif isinstance(node.func, ast.Attribute):
        name = node.func.attr
        owner = _read(node.func.value)
        if not isinstance(owner, Schedule):
            raise UsageError(f"'{ast.unparse(node.func.value)}' is {_kind(owner)}, which has no method .{name}()")
        if name not in METHODS:
            raise UsageError(f"a schedule has no method .{name}(): {nearest(name, METHODS)}")
        function = getattr(owner, name)
    else:
        raise UsageError(f"'{ast.unparse(node.func)}' is not the name of a schedule: {nearest('', NAMES)}")
    arguments, named = [], {}
    for argument in node.args:
        if isinstance(argument, ast.Starred):
            raise UsageError(f"'{ast.unparse(argument)}' cannot be used in a schedule")
        arguments.append(_read(argument))
    for keyword in node.keywords:
        if keyword.arg is None:
            raise UsageError(f"'**{ast.unparse(keyword.value)}' cannot be used in a schedule")
        if keyword.arg in named:
            raise UsageError(f"'{ast.unparse(node)}' gives '{keyword.arg}' twice; give '{keyword.arg}' once")
        named[keyword.arg] = _read(keyword.value)
    _check_arguments(name, function, arguments, named)
    try:
        return function(*arguments, **named)
    except UsageError:
        raise
    except (TypeError, AttributeError) as error:
        raise UsageError(f"{name}: {error}") from None


def _check_arguments(name: str, function: Callable[..., Any], arguments: list[Any], named: Mapping[str, Any]) -> None:
    signature = inspect.signature(function)
    for key in named:
        if key not in signature.parameters:
            raise UsageError(f"{name} has no argument '{key}': {nearest(key, signature.parameters)}")
    try:
        signature.bind(*arguments, **named)
    except TypeError as error:
        raise UsageError(f"{name}: {error}; it is {name}{_arguments(signature)}") from None


def _known(name: str) -> Callable[..., Any]:
    if name not in NAMES:
        raise UsageError(f"unknown schedule '{name}': {nearest(name, NAMES)}")
    return NAMES[name]


def _form(name: str) -> str:
    return f"{name}{_arguments(inspect.signature(NAMES[name]))}"


def _arguments(signature: inspect.Signature) -> str:
    """The signature without annotations."""
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return str(inspect.Signature(plain))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    if value is None:
        return "None"
    return {"int": "a number", "float": "a number", "str": "a text", "tuple": "a list", "dict": "a dict"}.get(
        type(value).__name__, f"a {type(value).__name__}"
    )
