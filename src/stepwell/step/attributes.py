"""Attributes that may be set on a Step. A misspelled name, or an argument of the constructor, is refused, because the
Step would never read it."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

from stepwell.errors import UsageError

T = TypeVar("T")


class Attribute(Generic[T]):
    """A settable attribute of a Step that one of its parts holds.

    Args:
        part, name: the part that holds the value, and its attribute there.
        checked: returns the value to set, or raises UsageError.
    """

    def __init__(self, part: str, name: str, checked: Callable[[Any], T]) -> None:
        self._part, self._name, self._checked = part, name, checked

    @overload
    def __get__(self, step: None, owner: type[Any]) -> Attribute[T]: ...

    @overload
    def __get__(self, step: object, owner: type[Any]) -> T: ...

    def __get__(self, step: object | None, owner: type[Any]) -> Attribute[T] | T:
        return self if step is None else getattr(getattr(step, self._part), self._name)

    def __set__(self, step: object, value: T) -> None:
        setattr(getattr(step, self._part), self._name, self._checked(value))


def check_name(step: Any, name: str) -> None:
    """Raise UsageError for an unknown attribute name that resembles an attribute of the Step.

    Any other name is taken as the user's own attribute.
    """
    if name.startswith("_") or name in step.__dict__ or hasattr(type(step), name):
        return
    own = type(step).__name__
    if name in _arguments(type(step)):
        instead = "step.clip = ClipNorm(...)" if name == "clip_norm" else f"a new {own}(..., {name}=...)"
        raise UsageError(
            f"{own}: {name} is an argument of the constructor and is not read again; to change it, use {instead}"
        )
    known = {*(n for n in (*dir(type(step)), *step.__dict__) if not n.startswith("_")), *_arguments(type(step))}
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.75)
    if close:
        raise UsageError(f"{own}: setting {name} would have no effect; did you mean {close[0]!r}?")


def _arguments(cls: type[Any]) -> frozenset[str]:
    return frozenset(inspect.signature(cls).parameters)
