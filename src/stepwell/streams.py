"""Endless data from passes: one stream for tasks and for the finder, and all of it follows from one seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from stepwell.errors import UsageError


def endless(one_pass: Callable[[int], Iterable[Any]], seed: int, stride: int, empty: str) -> Iterator[Any]:
    """The batches of pass after pass; pass number n is `one_pass(seed + stride * n)`.

    Args:
        one_pass: seed -> the batches of one pass, in the order of that seed.
        seed: of the first pass.
        stride: between the seeds of two passes: a prime far above the number of seeds in use, so that no two
            (seed, pass) pairs meet.
        empty: the refusal, where a pass holds no batch: without it the stream would look for one for ever.

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
