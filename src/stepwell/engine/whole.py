"""Rules that know a matrix by its sums: what a rule asks for, and what it is told of the whole matrix.

Such a rule is a generator. It yields `Squares`, and receives their sums over whole matrices, whether a process has a
whole matrix or a part of it:

    of_rows, of_columns, of_p = yield Squares(g, totals=(p,))
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from stepwell.engine.kernels.squares import squares, total_squares

T = TypeVar("T")
Asking = Generator["Squares", list[Tensor], T]  # computes a T, and asks for sums on the way


@dataclass(frozen=True)
class Whole:
    """The whole matrices of a stack, of which this process may have parts.

    Attributes:
        shape: of one whole matrix (..., rows, columns).
        region: which part is here, a slice for each dimension; None for the whole.
    """

    shape: tuple[int, ...]
    region: tuple[slice, ...] | None = None

    @property
    def rows(self) -> int:
        return self.shape[-2]

    @property
    def columns(self) -> int:
        return self.shape[-1]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    def here(self, sides: Tensor) -> Tensor:
        """Of numbers for the rows or columns of whole matrices (n, ..., rows, 1), those of the part that is here."""
        if self.region is None:
            return sides
        found = [slice(None)]
        for length, size, part in zip(sides.shape[1:], self.shape, self.region, strict=True):
            found.append(part if length == size else slice(None))
        return sides[tuple(found)]


@dataclass(frozen=True)
class Squares:
    """What to sum the squares of: of the stack `sides` (n, ..., rows, columns) along each row and each column, and of
    each stack of `totals` over each whole tensor. In float64, so that sums do not depend on how a matrix is cut.

    The answer is a list: for `sides` (n, ..., rows, 1) and (n, ..., 1, columns); for each of `totals` (n, 1, ..., 1).
    """

    sides: Tensor | None = None
    totals: Sequence[Tensor] = ()

    def summed(self, dimensions: int) -> list[set[int]]:
        """Over which dimensions of a tensor each number of the answer is a sum."""
        sides = [] if self.sides is None else [{dimensions - 1}, {dimensions - 2}]
        return [*sides, *[set(range(dimensions))] * len(self.totals)]

    def sums(self) -> list[Tensor]:
        """The sums over what is here."""
        found = [] if self.sides is None else list(squares(self.sides))
        for stack in self.totals:
            found.append(total_squares(stack).sum(dim=tuple(range(1, stack.ndim)), keepdim=True))
        return found


def answered(asking: Asking[T]) -> T:
    """The result of a computation whose matrices are whole here."""
    answer: Any = None
    while True:
        try:
            answer = asking.send(answer).sums()
        except StopIteration as end:
            result: T = end.value
            return result
