"""The parts of a Step. Each part is saved under its own name. At a load, every part is checked before anything is
changed; if one part then fails to load, the others are restored.

Lines 1 to 11 of a step call the parts' own methods, in that order. The methods for checkpoints are common to all parts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from stepwell.errors import UsageError

PutBack = Callable[[], None]


class Part(Protocol):
    """A part of a Step that is saved in checkpoints."""

    def state_dict(self) -> Any:
        """The state of the part for a checkpoint; tensors in use, not copies. None if the Step has no such part."""

    def check_state(self, state: Any) -> None:
        """Raise UsageError if `load_state_dict` cannot load this state, as far as that is known without loading."""

    def load_state_dict(self, state: Any) -> None:
        """Load the result of `state_dict`; None for a part that an earlier version did not save."""

    def kept(self) -> PutBack:
        """A function that restores the current state of the part."""


Parts = Sequence[tuple[str, Part]]


def copy_kept(part: Any) -> PutBack:
    """`kept` for a small part: a copy of its state, to be loaded again."""
    state = copy.deepcopy(part.state_dict())
    return lambda: part.load_state_dict(state)


def try_state(name: str, part: Any, state: Any) -> None:
    """Raise UsageError if a copy of a small part cannot load the state."""
    in_words(f"'{name}'", copy.deepcopy(part).load_state_dict, state)


def in_words(what: str, act: Callable[..., Any], *given: Any) -> Any:
    """Call `act(*given)`; an error that is not a UsageError becomes one that names the part."""
    try:
        return act(*given)
    except (UsageError, Warning):
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise UsageError(
            f"Step: the {what} of the checkpoint does not fit ({type(error).__name__}: {first}); nothing was changed"
        ) from error
