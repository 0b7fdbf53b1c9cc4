"""The length of a schedule, as the user gives it and in steps."""

from __future__ import annotations

import math
from typing import Any

from stepwell.arguments import plain_number, whole
from stepwell.errors import UsageError, shown

# How long a schedule is: steps (int), a fraction of the run (float in (0, 1]), what the other parts leave (None),
# or without end (math.inf).
Length = int | float | None


def length_of(owner: str, value: Any) -> int | float | None:
    """A length as the user gave it: steps, a fraction, or None. Raises UsageError for anything else."""
    if value is None:
        return None
    plain = plain_number(value)
    if type(plain) is float:
        if not 0.0 < plain <= 1.0:
            raise UsageError(
                f"{owner}({shown(value)}): a float is a fraction of the run, in (0, 1]; "
                f"for steps give an int, as {owner}(500)"
            )
        return plain
    return whole(owner, "steps", value, least=1)


def steps_of(owner: object, length: Length, total: int, rest: int, before: float = 0.0) -> int:
    """A length in steps, for a run of `total` steps in which the other parts leave `rest` steps."""
    if length is None:
        return rest
    if isinstance(length, int):
        return length
    steps = _rounded(before + length, total) - _rounded(before, total)
    if steps < 1:
        raise UsageError(f"{owner} of a run of {total} steps is less than one step; give a number of steps")
    return steps


def _rounded(fraction: float, total: int) -> int:
    return math.floor(fraction * total + 0.5)
