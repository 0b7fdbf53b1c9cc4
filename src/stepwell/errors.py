"""Errors for users: one line with the given value, the allowed values and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any

LONGEST = 60  # characters of a value in a message
TRAINING = ("torch", "numpy", "numba")  # the packages of the extra `train`
_NAME = 100  # characters of a name that are compared with the known ones: difflib's time grows with the square


class UsageError(ValueError):
    """An error that a user can fix. Commands print its message without a traceback and exit with code 2.

    The message is one printable line, even if it contains text of a user.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*(a if not isinstance(a, str) or a.isprintable() else printable(a) for a in args))


class WrongType(UsageError, TypeError):
    """An argument of a wrong type, where torch raises a TypeError."""


class MissingExtra(UsageError, ImportError):
    """A package of an optional extra is needed but not installed."""

    def __init__(self, package: str, extra: str, needed_for: str) -> None:
        super().__init__(
            f"{needed_for} needs the package '{package}', which is not installed: pip install 'stepwell[{extra}]'"
        )


def loaded(module: str, name: str = "") -> Any:
    """A module, or the attribute `name` of it; raises MissingExtra where torch, numpy or numba is not installed."""
    try:
        found = import_module(module)
        return getattr(found, name) if name else found
    except ModuleNotFoundError as error:
        if error.name not in TRAINING:
            raise
        raise MissingExtra(error.name, "train", f"{module}.{name}" if name else module) from None


def shown(value: Any, longest: int = LONGEST) -> str:
    """A value for a message: its repr on one line, at most `longest` characters, for any value.

    A tensor or an array is shown by its shape and dtype, a number of thousands of digits by its size. If the repr
    raises, the type is shown. Lone surrogates and control characters are escaped.

    >>> shown("a" * 1000), shown(10**5000)
    ("'aaaaaaaaaaaaaaaaaaaaaaaaaaa...aaaaaaaaaaaaaaaaaaaaaaaaaaaa'", 'an int of 16610 bits')
    """
    try:
        text = _described(value, longest)
    except Exception:  # repr() and the attributes of a stranger's object may raise anything
        text = f"a {type(value).__name__}"
    return _shortened(printable(text), longest)


def _described(value: Any, longest: int) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 8 * longest:
        return f"an int of {value.bit_length()} bits"
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if dtype is not None and isinstance(shape, tuple) and (shape or type(value).__name__ in ("Tensor", "Parameter")):
        return f"a {type(value).__name__} of shape {tuple(shape)}, {dtype}"
    import reprlib

    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = longest
    short.maxlevel = 3
    return short.repr(value)


def _shortened(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    half = (longest - 3) // 2
    return f"{text[:half]}...{text[len(text) - (longest - 3 - half) :]}"


def printable(text: str) -> str:
    """The text on one line; control characters and lone surrogates are escaped.

    >>> printable("two\\nlines \\ud800")
    'two lines \\\\ud800'
    """
    line = " ".join(text.split())
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line)


def nearest(given: Any, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known name if it is similar, then all known names.

    >>> nearest("adamv", ["adam", "adamw", "sgd"])
    "did you mean 'adam'? known: adam, adamw, sgd"
    """
    names = sorted(known)
    close = closest(given, names)
    return f"{f'did you mean {close!r}? ' if close else ''}known: {', '.join(names)}"


def closest(given: Any, known: Iterable[str]) -> str | None:
    """The known name most similar to the given one, or None."""
    if not isinstance(given, str):
        return None
    folded = {name.lower(): name for name in known}
    import difflib

    near = difflib.get_close_matches(given[:_NAME].lower(), folded, n=1, cutoff=0.5)
    return folded[near[0]] if near else None


def unknown(kind: str, given: Any, known: Iterable[str]) -> UsageError:
    """The error for a name that is not in a table."""
    return UsageError(f"unknown {kind} {shown(given)}: {nearest(given, known)}")


def missing(module: str, name: str, known: Iterable[str]) -> AttributeError:
    """The error for a name that a module does not have, with the nearest known name."""
    import difflib

    names = {other.lower().replace("_", ""): other for other in known}
    close = difflib.get_close_matches(name.lower().replace("_", ""), names, n=1, cutoff=0.6)
    hint = f"; did you mean {names[close[0]]!r}?" if close else f"; dir({module}) lists all names"
    return AttributeError(f"module {module!r} has no attribute {name!r}{hint}")
