"""What a Step is made of: parts, each of which is saved under a name of its own, checked before anything is changed,
loaded, and put back where another part turns out not to fit.

Lines 1 to 11 of a step call the parts by their own methods, in the order that stands there; what all parts have in
common is how they get into a checkpoint and out of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from stepwell.errors import UsageError

PutBack = Callable[[], None]


class Part(Protocol):
    """A part of a Step that goes into checkpoints."""

    def state_dict(self) -> Any:
        """What a checkpoint holds of the part; tensors in use, not copies. None where the Step has no such part."""

    def check_state(self, state: Any) -> None:
        """Raise UsageError where `load_state_dict` cannot take this, as far as that is known without loading."""

    def load_state_dict(self, state: Any) -> None:
        """Continue from what `state_dict` gave; None for what an earlier version did not save."""

    def kept(self) -> PutBack:
        """A function that makes the part what it is now."""


Parts = Sequence[tuple[str, Part]]


def copy_kept(part: Any) -> PutBack:
    """`kept` of something small: a copy of its state, to be loaded again."""
    state = copy.deepcopy(part.state_dict())
    return lambda: part.load_state_dict(state)


def try_state(name: str, part: Any, state: Any) -> None:
    """Raise UsageError where a copy of something small cannot load the state."""
    in_words(f"'{name}'", copy.deepcopy(part).load_state_dict, state)


def in_words(what: str, act: Callable[..., Any], *given: Any) -> Any:
    """Do it; an error that is not in words for the user becomes one."""
    try:
        return act(*given)
    except (UsageError, Warning):
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise UsageError(
            f"Step: the {what} of the checkpoint does not fit ({type(error).__name__}: {first}); nothing was changed"
        ) from error
