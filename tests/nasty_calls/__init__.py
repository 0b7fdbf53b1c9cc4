"""Calls whose arguments are replaced by nasty values: `CALLS` maps a name to (call, arguments that may be replaced).

Each call has good values for all its arguments; `call(**{argument: value})` replaces one. It must end in a result or in
a UsageError of one printable line that names the argument. `outcome` runs one and says what else happened, or nothing.
There is a file for each room; a call that changes an object checks by itself that a refusal left the object unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import below_step, groups, optimizers, step
from .outcome import outcome_of

CALLS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    **below_step.CALLS,
    **optimizers.CALLS,
    **groups.CALLS,
    **step.CALLS,
}
_NAMED = {**optimizers.CALLS, **groups.CALLS, **step.CALLS}  # here a message must name the argument
_USERS_OWN = below_step.USERS_OWN | optimizers.USERS_OWN | step.USERS_OWN
_CODE = ("closure", "compute", "forward", "logits")  # what can be called is, and may raise what it likes
_WORDS = {**optimizers.WORDS, **groups.WORDS, **step.WORDS}  # other words than the argument's name that do


def outcome(name: str, argument: str, value: Any) -> str:
    """What went wrong in one call: an exception that is no UsageError, a message of several lines, a hang; or ''."""
    call, _ = CALLS[name]
    words = (argument, *_WORDS.get((name, argument), ()), *_WORDS.get(argument, ())) if name in _NAMED else ()
    users_own = (name, argument) in _USERS_OWN or ((argument in _CODE or name in _CODE) and callable(value))
    return outcome_of(lambda: call(**{argument: value}), words, users_own)
