"""Checks of arguments: convert an argument to a plain Python value, or raise a UsageError of one line that names it.

Every error message has the same form, "Owner: name=value; it must be ...; do ...":

>>> whole("Step", "accumulate", 1.5, least=1)
Traceback (most recent call last):
stepwell.errors.UsageError: Step: accumulate=1.5; it must be a whole number of at least 1

Accepted as numbers are Python's and NumPy's numbers, fractions, and arrays or tensors without dimensions. Each is
converted to a Python number. A bool, including NumPy's, is a flag and not a number; a str is never read as a number.

Neither torch nor numpy is imported here, so that every room can import this module.
"""

from __future__ import annotations

import math
import numbers
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stepwell.errors import UsageError, closest, shown

MOST = 2**53  # up to here a float counts exactly; no run has so many steps
FINITE = sys.float_info.max
_LONG = 1_000_000  # items of a list that an argument may have; a range can stand for more than memory holds


def refusal(owner: str, name: str, value: Any, must: str, do: str = "") -> UsageError:
    """The error for an argument. `must` continues "it must be"; `do` says what to do, if more is needed."""
    whose = f"{owner}: " if owner else ""
    return UsageError(f"{whose}{name}={shown(value)}; it must be {must}" + (f"; {do}" if do else ""))


def plain_number(value: Any) -> int | float | None:
    """The value as a Python number, or None if it is not a real number. The number may be nan or infinite.

    >>> plain_number(True), plain_number("3"), plain_number(3)
    (None, None, 3)
    """
    try:
        if type(value) is int or type(value) is float:
            return value
        if isinstance(value, bool):
            return None
        if isinstance(value, numbers.Integral):
            return int(value)
        if isinstance(value, numbers.Real):
            return float(value)
        if getattr(value, "ndim", None) == 0 and not isinstance(value, type):  # an array or tensor of one number
            item = value.item()
            return item if type(item) is int or type(item) is float else None
    except Exception:  # numbers of strangers: a fraction beyond all floats, a tensor without values
        return None
    return None


def is_finite_number(value: Any) -> bool:
    """Whether the value is a finite number and not a bool."""
    plain = plain_number(value)
    return plain is not None and abs(plain) <= FINITE


def whole(owner: str, name: str, value: Any, *, least: int = 0, most: int = MOST, do: str = "") -> int:
    """An argument as a whole number. A float is not a whole number, not even 2.0.

    >>> whole("Step", "accumulate", 4, least=1)
    4
    """
    plain = plain_number(value)
    if type(plain) is int and least <= plain <= most:
        return plain
    if most < MOST:
        allowed = f"a whole number from {least} to {most}"
    else:
        allowed = f"a whole number of at least {least}" + (
            ", at most 2^53" if type(plain) is int and plain > MOST else ""
        )
    raise refusal(owner, name, value, allowed, do)


def number(
    owner: str,
    name: str,
    value: Any,
    *,
    least: float = -math.inf,
    most: float = math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    do: str = "",
) -> int | float:
    """An argument as a finite number: least <= value <= most, above < value < below.

    >>> number("cosine", "to", 0.1, least=0), number("ema", "decay", 0.99, least=0, below=1)
    (0.1, 0.99)
    """
    plain = plain_number(value)
    if plain is not None and abs(plain) <= FINITE and least <= plain <= most and above < plain < below:
        return plain
    raise refusal(owner, name, value, _range(least, most, above, below), do)


def fraction(owner: str, name: str, value: Any, *, do: str = "") -> int | float:
    """A number in [0, 1), such as the decay of an average."""
    return number(owner, name, value, least=0, below=1, do=do)


def _range(least: float, most: float, above: float, below: float) -> str:
    low, high = max(least, above), min(most, below)
    if low > -math.inf and high < math.inf:
        return f"in {'(' if above >= least else '['}{low:g}, {high:g}{')' if below <= most else ']'}"
    if low > -math.inf:
        return f"a finite number{' above' if above >= least else ', at least'} {low:g}"
    if high < math.inf:
        return f"a finite number{' below' if below <= most else ', at most'} {high:g}"
    return "a finite number"


def flag(owner: str, name: str, value: Any, *, do: str = "") -> bool:
    """True or False, including NumPy's. 0 and 1 are numbers and not flags.

    >>> flag("compare", "prune", True)
    True
    """
    plain = plain_flag(value)
    if isinstance(plain, bool):
        return plain
    raise refusal(owner, name, value, "True or False", do)


def plain_flag(value: Any) -> Any:
    """A NumPy bool as a Python bool; any other value unchanged."""
    kind = type(value)
    return bool(value) if kind.__module__ == "numpy" and kind.__name__ in ("bool", "bool_") else value


def choice(owner: str, name: str, value: Any, allowed: Iterable[str]) -> str:
    """One of the allowed str.

    >>> choice("warmup", "shape", "linaer", ("linear", "cosine"))
    Traceback (most recent call last):
    stepwell.errors.UsageError: warmup: shape='linaer'; it must be one of linear, cosine; did you mean 'linear'?
    """
    words = tuple(allowed)
    if isinstance(value, str) and value in words:
        return str(value)  # NumPy's text is a str, too
    near = closest(value, words)
    raise refusal(owner, name, value, f"one of {', '.join(words)}", f"did you mean {near!r}?" if near else "")


def text(owner: str, name: str, value: Any, must: str = "a nonempty str", *, do: str = "") -> str:
    """A nonempty str that can be written to a file: no lone surrogates, no null characters."""
    if isinstance(value, str) and value.strip() and "\0" not in value and _encodes(value):
        return str(value)
    raise refusal(owner, name, value, must, do)


def path(owner: str, name: str, value: Any, *, do: str = "") -> Path:
    """A valid path: a str or a Path, nonempty, without null characters and lone surrogates."""
    must = "a path, as 'runs/digits' or a pathlib.Path"
    try:
        written = os.fspath(value)
    except Exception:  # a method of the user's own may raise anything
        raise refusal(owner, name, value, must, do) from None
    return Path(text(owner, name, written, must, do=do))


def _encodes(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def sequence(owner: str, name: str, value: Any, must: str, *, do: str = "") -> list[Any]:
    """The items of a list, a tuple or another sequence, including an array of one dimension; a str is not accepted.

    An iterator is refused: it can be read only once, and may never end.
    """
    try:
        if isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray, memoryview)):
            if len(value) > _LONG:
                raise refusal(owner, name, value, f"{must}, of at most {_LONG:,} items", do)
            return list(value)
        if getattr(value, "ndim", None) == 1 and hasattr(value, "tolist"):
            return list(value.tolist())
    except UsageError:
        raise
    except Exception:  # a method of the user's own may raise anything
        raise refusal(owner, name, value, must, do) from None
    raise refusal(owner, name, value, must, do)


def items(owner: str, name: str, value: Any, must: str, *, most: int = _LONG, do: str = "") -> list[Any]:
    """The items of any iterable, including an iterator; a str and a mapping are not accepted.

    An iterable with more than `most` items is refused: it may never end.
    """
    found: list[Any] = []
    try:
        if not isinstance(value, (str, bytes, bytearray, memoryview, Mapping)):
            for item in value:
                found.append(item)
                if len(found) > most:
                    raise refusal(owner, name, value, f"{must}, of at most {most:,} items", do)
            return found
    except UsageError:
        raise
    except Exception:  # what cannot be iterated over; a method of the user's own may raise anything
        raise refusal(owner, name, value, must, do) from None
    raise refusal(owner, name, value, must, do)


def mapping(owner: str, name: str, value: Any, must: str, *, do: str = "") -> dict[Any, Any]:
    """The items of a dict or another mapping."""
    try:
        if isinstance(value, Mapping):
            return dict(value)
    except Exception:  # a method of the user's own may raise anything
        raise refusal(owner, name, value, must, do) from None
    raise refusal(owner, name, value, must, do)


def function(owner: str, name: str, value: Any, form: str, *, do: str = "") -> Callable[..., Any]:
    """A callable. `form` describes its signature, as "model, batch -> scalar loss"."""
    if callable(value):
        return value
    raise refusal(owner, name, value, f"a function: {form}", do)
