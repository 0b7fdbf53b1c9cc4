"""The only functions that an update rule may call.

A rule is written once and runs on every backend. The functions accept tensors (in the `eager` backend, the definition),
Python numbers (a factor such as `1 - beta1**t`), and symbols, with which the engine traces a rule to print a kernel
(`engine/trace.py`). Symbols implement `apply_op`; this module needs nothing else of them.
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
    kind = next((type(arg) for arg in args if isinstance(arg, float)), float)  # also one that divides by zero
    return kind(of_numbers(*args))


def _like(tensor: torch.Tensor, value: Value) -> torch.Tensor:
    """`value` as a tensor like `tensor`, for a torch function that does not accept Python numbers."""
    return value if isinstance(value, torch.Tensor) else torch.full_like(tensor, value)


def _correctly_rounded_sqrt(x: torch.Tensor) -> torch.Tensor:
    # torch.sqrt on a CPU calls a vector library that is one unit in the last place off for a fifth of all float32
    # values (torch 2.13, MKL). The processor's own square root is exact, and so are kernels; the definition too.
    if x.device.type != "cpu" or type(x) not in (torch.Tensor, torch.nn.Parameter):
        return torch.sqrt(x)  # a subclass may keep its numbers where NumPy cannot read them
    result = torch.empty_like(x)
    with np.errstate(invalid="ignore"):
        np.sqrt(x.numpy(), out=result.numpy())
    return result


def sqrt(x: Value) -> Value:
    """Square root, correctly rounded; NaN for negative values, also for a Python number."""
    return _op("sqrt", _correctly_rounded_sqrt, lambda v: math.sqrt(v) if v >= 0 else math.nan, x)


def sign(x: Value) -> Value:
    """-1, 0 or 1."""
    return _op("sign", torch.sign, lambda v: float((v > 0) - (v < 0)), x)


def abs(x: Value) -> Value:
    """Magnitude."""
    return _op("abs", torch.abs, math.fabs, x)


def maximum(a: Value, b: Value) -> Value:
    """The elementwise maximum; NaN if either value is NaN."""
    return _op("maximum", torch.maximum, lambda v, w: v if v > w or v != v else w, a, b)


def minimum(a: Value, b: Value) -> Value:
    """The elementwise minimum; NaN if either value is NaN."""
    return _op("minimum", torch.minimum, lambda v, w: v if v < w or v != v else w, a, b)


def where(condition: Value, a: Value, b: Value) -> Value:
    """`a` where the condition is true, else `b`. Both are computed: the value that is not selected may be NaN.

    If the condition is on elements, at least one of `a` and `b` must be an element, since a plain number has no dtype.
    """
    if isinstance(condition, bool):
        chosen, other = (a, b) if condition else (b, a)
        return _like(other, chosen) if isinstance(other, torch.Tensor) else chosen
    if isinstance(condition, torch.Tensor):
        assert isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor), (
            "where() on elements needs an element as a or b"
        )
        return torch.where(condition, a, b)
    return condition.apply_op("where", (condition, a, b))


def log(x: Value) -> Value:
    """Natural logarithm of a number (not of an element: libraries round it differently); -inf at zero."""
    return _op("log", torch.log, lambda v: math.log(v) if v > 0 else -math.inf, x)


# What follows is made of the above and holds for every kind of value.


def lerp(a: Value, b: Value, weight: Value) -> Value:
    """From `a` towards `b`: (1 - weight) * a + weight * b."""
    # weight * (b - a) overflows where b is huge. (1 - weight) * a forgets at another rate than asked for: 1 - 0.001 in
    # float32 is off by 1e-8, so an average of squares settles 1.3e-5 beside the true one (beta 0.9999: 1.4e-4).
    return a + (weight * b - weight * a)


def lerp_square(a: Value, x: Value, weight: Value) -> Value:
    """`lerp(a, x * x, weight)`. Finite if weight * x * x is finite, even if x * x is not, as in torch's optimizers."""
    # An average that overflowed (gradients above 5e20 with beta 0.999) stays infinite, and the element at rest: inf -
    # inf would be NaN, and the weight with it. Costs nothing in fp32 and bf16, 4 % of a step with int8 state.
    return where(a - a == 0, a + (weight * x * x - weight * a), a)


def ema(average: Value, x: Value, beta: Value) -> Value:
    """A moving average with decay beta, after one more `x`: beta * average + (1 - beta) * x."""
    return lerp(average, x, 1 - beta)


def ema_square(average: Value, x: Value, beta: Value) -> Value:
    """A moving average of squares, after one more `x`: beta * average + (1 - beta) * x * x (see `lerp_square`)."""
    return lerp_square(average, x, 1 - beta)


def debias(average: Value, beta: Value, t: Value) -> Value:
    """A moving average after `t` steps, corrected for its start at zero: average / (1 - beta**t)."""
    return average * (1 / (1 - beta**t))


def clamp(x: Value, low: Value, high: Value) -> Value:
    """`x` limited to [low, high]."""
    return minimum(maximum(x, low), high)


# S. L. Moshier, Cephes, 1984 to 2000. atan(x) = x + x**3 * P(x**2) / Q(x**2) for |x| <= 0.66, to 2e-16 (atan.c); in
# float32 x + x**3 * P(x**2) for |x| <= tan(pi / 8), to 1e-7 (atanf.c): a division and half of the products less.
_ATAN_P = (
    -8.750608600031904122785e-1, -1.615753718733365076637e1, -7.500855792314704667340e1,
    -1.228866684490136173410e2, -6.485021904942025371773e1,
)  # fmt: skip
_ATAN_Q = (
    1.0, 2.485846490142306297962e1, 1.650270098316988542046e2, 4.328810604912902668951e2,
    4.853903996359136964868e2, 1.945506571482613964425e2,
)  # fmt: skip
_ATANF_P = (8.05374449538e-2, -1.38776856032e-1, 1.99777106478e-1, -3.33329491539e-1)
_LOST_OF_HALF_PI = 6.123233995736765886e-17  # pi / 2 is this much more than the nearest float64


def atan2(y: Value, x: Value) -> Value:
    """The angle of the point (x, y) in radians, 0 for (0, 0); signs of zeros and NaN are ignored.

    Computed by basic arithmetic, so that every backend computes the same bits and loops are vectorized.
    """
    double = _is_double(y, x)
    rise, run = abs(y), abs(x)
    longer, shorter = maximum(rise, run), minimum(rise, run)
    steep = (1.5 if double else 1 + math.sqrt(2)) * shorter > longer
    # shorter / longer from 0 to 2/3 or tan(pi / 8); above, with atan(slope) = pi/4 + atan(u), (slope - 1) / (slope + 1)
    below = where(steep, longer + shorter, longer)
    u = where(steep, shorter - longer, shorter) / where(below == 0, below + 1, below)
    square = u * u
    if double:
        series = _polynomial(square, _ATAN_P) / _polynomial(square, _ATAN_Q)
    else:
        series = _polynomial(square, _ATANF_P)
    angle = u + u * (square * series)
    if double:  # what the nearest numbers to multiples of pi have lost
        angle = where(steep, (angle + _LOST_OF_HALF_PI / 2) + math.pi / 4, angle)
        angle = where(rise > run, (_LOST_OF_HALF_PI - angle) + math.pi / 2, angle)
        angle = where(x < 0, (2 * _LOST_OF_HALF_PI - angle) + math.pi, angle)
    else:
        angle = where(steep, angle + math.pi / 4, angle)
        angle = where(rise > run, math.pi / 2 - angle, angle)
        angle = where(x < 0, math.pi - angle, angle)
    return where(y < 0, -angle, angle)


def _is_double(*values: Value) -> bool:
    """Whether a rule computes in float64: with float64 elements, or only with numbers."""
    elements = [v for v in values if isinstance(v, torch.Tensor) or hasattr(v, "apply_op")]
    return all(v.dtype == torch.float64 if isinstance(v, torch.Tensor) else v.is_double for v in elements)


def _polynomial(x: Value, coefficients: tuple[float, ...]) -> Value:
    """Horner's scheme, the highest power first."""
    result: Value = coefficients[0]
    for coefficient in coefficients[1:]:
        result = result * x + coefficient
    return result
