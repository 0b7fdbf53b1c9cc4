"""What all choices stand on: the situation, the nearest published configurations with weights, and the consensus."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TypeVar

from stepwell.advisor.consensus import Line, line_of
from stepwell.advisor.distance import Neighbor, neighbors
from stepwell.advisor.published import Published, kind_of, published
from stepwell.advisor.situation import Situation

T = TypeVar("T", bound=Hashable)

# Two numbers of the method, chosen by leaving out one member of a family at a time (bench/advisor.py): how fast the
# weight of a neighbor falls with its distance, and the distance at which a neighbor weighs as much as the consensus.
# Values from 0.3 to 0.5 and from 0.6 to 0.9 give the same accuracy within two rows of a hundred.
BANDWIDTH, CONSENSUS = 0.4, 0.7
NEAR = 3.0  # a configuration that is farther is "not near": another family, or another task and regime in the family


@dataclass(frozen=True)
class Vote:
    """A value with its share of the weight, and the configurations that have it, nearest first."""

    value: object
    share: float
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Ground:
    """The basis of the choices.

    Attributes:
        situation: what is known. neighbors: published configurations, nearest first. weights: theirs.
        line: the consensus of the situation, or None; `weight` is its weight.
    """

    situation: Situation
    neighbors: tuple[Neighbor, ...]
    weights: tuple[float, ...]
    line: Line | None
    weight: float

    @property
    def nearest(self) -> Neighbor:
        return self.neighbors[0]

    def among(self, kind: str) -> list[tuple[Neighbor, float]]:
        """The neighbors with an optimizer of this kind, nearest first, with weights."""
        return [(n, w) for n, w in zip(self.neighbors, self.weights, strict=True) if n.row.kind == kind]

    def agreed(self, kind: str) -> Line | None:
        """The consensus, if its optimizer is of this kind."""
        return self.line if self.line is not None and kind_of(self.line.optimizer) == kind else None

    def votes(
        self,
        of_row: Callable[[Published], T | None],
        of_line: Callable[[Line], T | None],
        kind: str | None = None,
    ) -> list[Vote]:
        """The values of the neighbors and of the consensus by weight, the heaviest first.

        Neighbors for which the function returns None have no vote. With `kind`, only those with such an optimizer.
        """
        weights: dict[T, float] = {}
        sources: dict[T, list[str]] = {}
        line = self.line if kind is None else self.agreed(kind)
        said = None if line is None else of_line(line)
        if line is not None and said is not None:
            weights[said] = self.weight
            sources[said] = [line.source]
        for neighbor, weight in zip(self.neighbors, self.weights, strict=True):
            value = of_row(neighbor.row) if kind is None or neighbor.row.kind == kind else None
            if value is not None:
                weights[value] = weights.get(value, 0.0) + weight
                sources.setdefault(value, []).append(neighbor.row.id)
        total = sum(weights.values()) or 1.0
        ordered = sorted(weights, key=lambda value: -weights[value])
        return [Vote(value, weights[value] / total, tuple(sources[value][:4])) for value in ordered]


def ground(one: Situation, rows: tuple[Published, ...] | None = None, *, strict: bool = False) -> Ground:
    """The basis of the choices for a situation.

    Args:
        one: the situation.
        rows: the published configurations; by default all of the package.
        strict: leave out a consensus that none of `rows` supports, for an honest judgment of the method.
    """
    rows = published() if rows is None else rows
    found = tuple(neighbors(one, rows))
    least = found[0].distance
    weights = tuple(math.exp(-(neighbor.distance - least) / BANDWIDTH) for neighbor in found)
    line = line_of(one)
    if line is not None and strict:
        from stepwell.advisor.situation import of_published

        if not any(line.fits(of_published(row)) for row in rows):
            line = None
    return Ground(one, found, weights, line, math.exp(-(CONSENSUS - least) / BANDWIDTH) if line is not None else 0.0)


def surety(share: float, distance: float) -> str:
    """How sure a choice is: by the share of the vote and the distance of the nearest configuration.

    >>> surety(0.9, 1.0), surety(0.9, 4.0), surety(0.4, 1.0)
    ('high', 'low', 'low')
    """
    if distance > NEAR or share < 0.45:
        return "low"
    return "high" if share > 0.75 and distance < 2 else "medium"
