"""The fields of a schedule: checked, and kept as Python's own numbers and words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from stepwell.arguments import choice, flag, number, whole
from stepwell.errors import UsageError, printable, shown
from stepwell.schedules.base import Schedule


def settle(
    schedule: Schedule, attribute: str, *, owner: str | None = None, name: str | None = None, **bounds: float
) -> None:
    """Check a number of a schedule and keep it as Python's: `repr` is read back by `parse`."""
    value = getattr(schedule, attribute)
    plain = number(owner or type(schedule).__name__, name or attribute, value, **bounds)  # type: ignore[arg-type]
    object.__setattr__(schedule, attribute, plain)


def settle_count(schedule: Schedule, attribute: str) -> None:
    """Check a count of steps of a schedule, at least 1, and keep it as Python's."""
    value = whole(type(schedule).__name__, attribute, getattr(schedule, attribute), least=1)
    object.__setattr__(schedule, attribute, value)


def settle_choice(schedule: Schedule, attribute: str, allowed: Iterable[str]) -> None:
    """Check a word of a schedule and keep it as Python's."""
    value = choice(type(schedule).__name__, attribute, getattr(schedule, attribute), allowed)
    object.__setattr__(schedule, attribute, value)


def settle_flag(schedule: Schedule, attribute: str) -> None:
    """Check a flag of a schedule and keep it as Python's."""
    object.__setattr__(schedule, attribute, flag(type(schedule).__name__, attribute, getattr(schedule, attribute)))


def called(owner: Schedule, function: Callable[[int], Any], step: int) -> float:
    """What a function of the user's gives at a step, as a float, or UsageError for what is no number."""
    try:
        value = function(step)
    except Exception as error:
        said = printable(f"{type(error).__name__}: {error}")[:200]
        raise UsageError(f"{owner} fails at step {step}: {said}") from error
    try:
        if not isinstance(value, (str, bytes)):
            return float(value)
    except OverflowError:
        return math.inf
    except Exception:  # no number
        pass
    raise UsageError(f"{owner} gives {shown(value)} at step {step}; a factor must be a finite number")
