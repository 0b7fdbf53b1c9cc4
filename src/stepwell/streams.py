"""Endless streams of batches from passes, for tasks and the finder, determined by one seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from stepwell.errors import UsageError


def endless(one_pass: Callable[[int], Iterable[Any]], seed: int, stride: int, empty: str) -> Iterator[Any]:
    """The batches of successive passes; pass number n is `one_pass(seed + stride * n)`.

    Args:
        one_pass: seed -> the batches of one pass, in the order of that seed.
        seed: the seed of the first pass.
        stride: difference between the seeds of successive passes: a prime far above the number of seeds in use, so that
            no two (seed, pass) pairs coincide.
        empty: the error message for a pass without batches, which would otherwise be an endless loop.

    Raises UsageError with the text `empty`.

    >>> stream = endless(lambda seed: [seed, -seed], 1, 1000, "no batch")
    >>> [next(stream) for _ in range(5)]
    [1, -1, 1001, -1001, 2001]
    """
    number = 0
    while True:
        found = False
        for batch in one_pass(seed + stride * number):
            found = True
            yield batch
        if not found:
            raise UsageError(empty)
        number += 1
