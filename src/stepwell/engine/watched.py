"""What tells an optimizer that its plan no longer holds: state that was replaced, or a parameter that changed."""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stepwell.engine.plan import Plan


class Stale(Exception):
    """A tensor is no longer what the plan was made for; the optimizer makes a new plan and goes on."""


class Kept:
    """The plan that an optimizer keeps from step to step, or None."""

    plan: Plan | None = None


class Watched(defaultdict[Any, Any]):
    """A dict that drops the plan when its entries are replaced, so that a plan need not look at them at every step,
    and does not keep what was replaced in memory.

    It refers to what holds the plan weakly: a plan holds dicts like this, and memory in a circle is not freed at once.
    """

    def __init__(self, content: Mapping[Any, Any], kept: Kept, default: Any = None) -> None:
        super().__init__(default, content)
        self._kept = weakref.ref(kept)

    def is_of(self, kept: Kept) -> bool:
        """Whether this is the plan that changes here drop."""
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
