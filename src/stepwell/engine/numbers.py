"""Floats that divide as in kernels: 1 / 0 is infinite and 0 / 0 is NaN, while Python's floats raise."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np


class Number(float):
    """A float for the `eager` backend, whose arithmetic, including that of its results, follows IEEE 754.

    >>> float(1 / Number(0.0))
    inf
    """

    __slots__ = ()


def _method(operation: Callable[[Any, Any], Any], reflected: bool) -> Callable[[Number, Any], Any]:
    def method(self: Number, other: Any) -> Any:
        if not isinstance(other, (int, float)):
            return NotImplemented  # a tensor, which knows what to do with a number
        left, right = (float(other), float(self)) if reflected else (float(self), float(other))
        try:
            return Number(operation(left, right))
        except (ZeroDivisionError, OverflowError, TypeError):  # TypeError: a complex number, of a root below zero
            with np.errstate(all="ignore"):
                return Number(operation(np.float64(left), np.float64(right)))

    return method


for _name in ("add", "sub", "mul", "truediv", "pow"):
    for _prefix in ("", "r"):
        setattr(Number, f"__{_prefix}{_name}__", _method(getattr(operator, _name), bool(_prefix)))
setattr(Number, "__neg__", lambda self: Number(-float(self)))  # noqa: B010  # as the others, unseen by type checkers
