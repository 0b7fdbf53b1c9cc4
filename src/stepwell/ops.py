"""The only functions that an update rule may call.

A rule is written once and runs on every backend. What these names do depends on what they are given: tensors
(the `eager` backend, the definition), Python numbers (a factor such as `1 - beta1**t`), or the symbols with which
the engine reads a rule before it prints a kernel (`engine/trace.py`). Symbols answer to `apply_op`; nothing here
knows more about them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

Value = Any  # a float, a torch.Tensor, or a symbol: rules do not care which


def _op(name: str, of_tensors: Callable[..., Any], of_numbers: Callable[..., float], *args: Value) -> Value:
    for arg in args:
        if hasattr(arg, "apply_op"):
            return arg.apply_op(name, args)
    for arg in args:
        if isinstance(arg, torch.Tensor):
            return of_tensors(*(_like(arg, other) for other in args))
    return of_numbers(*args)


def _like(tensor: torch.Tensor, value: Value) -> torch.Tensor:
    """`value` as a tensor that can stand beside `tensor` in a torch function that takes no Python numbers."""
    return value if isinstance(value, torch.Tensor) else torch.full_like(tensor, value)


def _correctly_rounded_sqrt(x: torch.Tensor) -> torch.Tensor:
    # torch.sqrt on a CPU calls a vector library that is one unit in the last place off for a fifth of all float32
    # values (torch 2.13, MKL). The processor's own square root is exact, and so are kernels; the definition too.
    if x.device.type != "cpu":
        return torch.sqrt(x)
    result = torch.empty_like(x)
    with np.errstate(invalid="ignore"):
        np.sqrt(x.numpy(), out=result.numpy())
    return result


def sqrt(x: Value) -> Value:
    """Square root, correctly rounded; NaN below zero, also for a number."""
    return _op("sqrt", _correctly_rounded_sqrt, lambda v: math.sqrt(v) if v >= 0 else math.nan, x)


def sign(x: Value) -> Value:
    """-1, 0 or 1."""
    return _op("sign", torch.sign, lambda v: float((v > 0) - (v < 0)), x)


def abs(x: Value) -> Value:
    """Magnitude."""
    return _op("abs", torch.abs, math.fabs, x)


def maximum(a: Value, b: Value) -> Value:
    """The larger of two."""
    return _op("maximum", torch.maximum, max, a, b)


def minimum(a: Value, b: Value) -> Value:
    """The smaller of two."""
    return _op("minimum", torch.minimum, min, a, b)


def where(condition: Value, a: Value, b: Value) -> Value:
    """`a` where the condition holds, else `b`. Both sides are computed: the one not taken may be NaN."""
    if isinstance(condition, bool):
        return a if condition else b
    if isinstance(condition, torch.Tensor):
        return torch.where(condition, a, b)
    return condition.apply_op("where", (condition, a, b))


def atan2(y: Value, x: Value) -> Value:
    """The angle of the point (x, y), in radians."""
    return _op("atan2", torch.atan2, math.atan2, y, x)


# What follows is made of the above and holds for every kind of value.


def lerp(a: Value, b: Value, weight: Value) -> Value:
    """From `a` towards `b`: a + weight * (b - a). A moving average with decay beta is `lerp(average, x, 1 - beta)`."""
    return a + weight * (b - a)


def debias(average: Value, beta: Value, t: Value) -> Value:
    """A moving average that started at zero, corrected for it after `t` steps: average / (1 - beta**t)."""
    return average * (1 / (1 - beta**t))
