"""Base classes of the families of schedules: with a length, or without an end."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from stepwell.schedules.base import Schedule
from stepwell.schedules.lengths import Length, length_of, steps_of


@dataclass(frozen=True, repr=False)
class Shape(Schedule):
    """A schedule of a given length: steps, a fraction of the run, or the steps that the other parts leave."""

    steps: int | float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", length_of(type(self).__name__, self.steps))

    def _length(self) -> Length:
        return self.steps

    def _resolve(self, total: int, rest: int, before: float = 0.0) -> Schedule:
        return replace(self, steps=steps_of(self, self.steps, total, rest, before))

    @property
    def _n(self) -> int:
        assert isinstance(self.steps, int), self
        return self.steps


class Endless(Schedule):
    """A schedule that never ends."""

    def _length(self) -> Length:
        return math.inf
