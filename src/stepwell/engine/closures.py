"""The check of a closure, for all optimizers that take one."""

from __future__ import annotations

from typing import Any

from stepwell.errors import WrongType, shown


def check_closure(owner: str, closure: Any) -> None:
    """Raise WrongType for a closure that cannot be called."""
    if not callable(closure):
        raise WrongType(
            f"{owner}: closure={shown(closure)}; it must be a function that clears the gradients, computes the loss, "
            "calls backward and returns the loss"
        )
