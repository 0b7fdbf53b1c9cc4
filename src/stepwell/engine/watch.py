"""Detects that an optimizer's plan is out of date: replaced state, or a changed parameter."""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stepwell.engine.plan import Plan


class Stale(Exception):
    """Raised when a parameter's device, dtype, shape or strides changed since planning; the optimizer replans."""


class Kept:
    """The plan that an optimizer keeps from step to step, or None."""

    plan: Plan | None = None


class Watched(defaultdict[Any, Any]):
    """A dict that drops the plan when an entry is replaced. So a plan does not check the entries at every step, and
    replaced tensors are freed.

    The reference to the owner of the plan is weak, because a plan refers to these dicts, and a reference cycle is not
    freed immediately.
    """

    def __init__(self, content: Mapping[Any, Any], kept: Kept, default: Any = None) -> None:
        super().__init__(default, content)
        self._kept = weakref.ref(kept)

    def is_of(self, kept: Kept) -> bool:
        """Whether changes of this dict drop that plan."""
        return self._kept() is kept

    def _drop(self) -> None:
        kept = self._kept()
        if kept is not None:
            kept.plan = None

    def __setitem__(self, key: Any, value: Any) -> None:
        self._drop()
        super().__setitem__(key, value)

    def __delitem__(self, key: Any) -> None:
        self._drop()
        super().__delitem__(key)

    def clear(self) -> None:
        self._drop()
        super().clear()

    def pop(self, *args: Any) -> Any:
        self._drop()
        return super().pop(*args)

    def popitem(self) -> Any:
        self._drop()
        return super().popitem()

    def setdefault(self, *args: Any) -> Any:
        self._drop()
        return super().setdefault(*args)

    def update(self, *args: Any, **kwargs: Any) -> None:
        self._drop()
        super().update(*args, **kwargs)

    def __ior__(self, other: Any) -> Any:  # type: ignore[misc]  # `|` makes a plain dict, which is right
        self._drop()
        return super().__ior__(other)

    def __reduce__(self) -> Any:  # copies and pickles are plain: they belong to no plan yet
        return (dict, (dict(self),))
