"""The fields of a schedule: checked, and stored as Python numbers and strings."""

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
    """Check a number of a schedule and store it as a Python number, so that `parse` reads the `repr` back."""
    value = getattr(schedule, attribute)
    plain = number(owner or type(schedule).__name__, name or attribute, value, **bounds)  # type: ignore[arg-type]
    object.__setattr__(schedule, attribute, plain)


def settle_count(schedule: Schedule, attribute: str) -> None:
    """Check a number of steps, at least 1, and store it as an int."""
    value = whole(type(schedule).__name__, attribute, getattr(schedule, attribute), least=1)
    object.__setattr__(schedule, attribute, value)


def settle_choice(schedule: Schedule, attribute: str, allowed: Iterable[str]) -> None:
    """Check a choice of a schedule and store it as a str."""
    value = choice(type(schedule).__name__, attribute, getattr(schedule, attribute), allowed)
    object.__setattr__(schedule, attribute, value)


def settle_flag(schedule: Schedule, attribute: str) -> None:
    """Check a flag of a schedule and store it as a bool."""
    object.__setattr__(schedule, attribute, flag(type(schedule).__name__, attribute, getattr(schedule, attribute)))


def called(owner: Schedule, function: Callable[[int], Any], step: int) -> float:
    """The value of a user's function at a step, as a float. Raises UsageError if it is not a number."""
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
