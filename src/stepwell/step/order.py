"""The order in which a DataLoader draws samples: recorded during a pass, and drawn again at a resume without loading
the samples."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from stepwell.errors import UsageError


class Order:
    """The indices of the batches of a pass, with a count.

    Args:
        sampler: the sampler or batch sampler that draws the indices.
        skip: how many batches to skip. The sampler draws their indices; the samples are not loaded.
        expected: number and checksum of one batch of the resumed pass.
    """

    def __init__(self, sampler: Any, skip: int = 0, expected: list[int] | None = None) -> None:
        self.sampler, self.skip, self.expected = sampler, skip, expected
        self.number = 0
        self.last: list[int] | None = None  # number and check sum of the newest
        self._inner: Iterator[Any] | None = None

    def __iter__(self) -> Order:
        if self.number:  # the next pass, of workers that stay (torch calls this twice before the first)
            self.skip, self.expected = 0, None
        self._inner, self.number = iter(self.sampler), 0
        return self

    def pass_over(self) -> bool:
        """Draw the skipped indices if the pass has started. Returns whether the pass has started."""
        while self._inner is not None and self.number < self.skip:
            next(self._inner)
            self.number += 1
        return self._inner is not None

    def __next__(self) -> Any:
        self.pass_over()
        assert self._inner is not None
        indices = next(self._inner)
        found = [self.number, zlib.crc32(repr(indices).encode())]
        if self.expected is not None and found[0] == self.expected[0] and found != self.expected:
            raise UsageError(
                "Step: the loader draws another order than in the saved pass; give the generators that "
                "its sampler uses as generators={...} (and its epoch with set_epoch), or start a new pass: "
                "step.batches(loader, resume=False)"
            )
        self.number, self.last = self.number + 1, found
        return indices

    def __len__(self) -> int:
        return max(0, len(self.sampler) - self.skip)

    def __getattr__(self, name: str) -> Any:
        if name == "sampler":  # not there yet: it is being copied
            raise AttributeError(name)
        return getattr(self.sampler, name)


def has_order(loader: Any) -> bool:
    """Whether the loader draws indices, so that a batch can be skipped without loading it.

    Accelerate's loaders claim to be a DataLoader and contain one, so their type is checked.
    """
    return issubclass(type(loader), DataLoader) and not isinstance(loader.dataset, IterableDataset)


def watched(iterator: Any) -> Order | None:
    """Record a pass that has just started, if torch's iterator allows."""
    inner = getattr(iterator, "_sampler_iter", None)
    if inner is None:
        return None
    order = Order(inner)
    order._inner, order.number = inner, getattr(iterator, "_send_idx", 0)  # workers have got their first ones
    iterator._sampler_iter = order
    return order


def begins_workers(loader: Any) -> bool:
    """Whether the next pass starts the workers. Starting draws a seed; persistent workers do not draw it again."""
    return not (has_order(loader) and loader.persistent_workers and loader._iterator is not None)


def prepare(loader: DataLoader[Any], begins: bool) -> None:
    """Bring the workers to their state at the start of the saved pass: about to start (`begins`), or already started by
    an earlier pass."""
    if not loader.persistent_workers:
        return
    if begins:
        loader._iterator = None
    elif loader._iterator is None:
        iter(loader)


def without(loader: DataLoader[Any], skip: int, expected: list[int] | None) -> tuple[Any, Order]:
    """A pass without the first batches, and its order."""
    key = "sampler" if loader.batch_sampler is None else "batch_sampler"
    order = Order(getattr(loader, key), skip, expected)
    if not loader.persistent_workers:
        clone = copy.copy(loader)
        clone.__dict__[key] = order  # DataLoader refuses the assignment
        return iter(clone), order
    before = loader.__dict__[key]
    if loader._iterator is not None:
        loader._iterator._index_sampler = order
    loader.__dict__[key] = order
    try:
        return iter(loader), order
    finally:
        loader.__dict__[key] = before
