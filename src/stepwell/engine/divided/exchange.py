"""Parts of many tensors to their owners, and back, each in one all-to-all.

A message from one process to another is bytes: the parts of all pieces that it is about, one after the other, so that
tensors of any dtype go together. Both sides know the pieces, and so the sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from stepwell.engine.divided.division import Region, elements_of, sizes_of

_ALIGNED = 8  # bytes: parts of any dtype begin at a multiple of it


@dataclass(frozen=True)
class Piece:
    """A tensor with an owner, and the region of each process.

    Attributes:
        owner: the number of a process in the group.
        shape, dtype: of the whole tensor.
        regions: by process.
    """

    owner: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    regions: tuple[Region, ...]

    def bytes_of(self, rank: int) -> int:
        return elements_of(self.regions[rank]) * self.dtype.itemsize

    def room(self, rank: int) -> int:
        """The bytes of a part in a message."""
        return -(-self.bytes_of(rank) // _ALIGNED) * _ALIGNED

    def part(self, buffer: Tensor, offset: int, rank: int) -> Tensor:
        """The part of a process, as a view of a buffer of bytes."""
        view = buffer[offset : offset + self.bytes_of(rank)].view(self.dtype)
        return view.view(sizes_of(self.regions[rank]))


class Arriving:
    """A message on its way; `wait` returns the bytes. What is sent stays alive until then."""

    def __init__(self, received: Tensor, sent: Tensor, work: Any) -> None:
        self._received, self._sent, self._work = received, sent, work

    def wait(self) -> Tensor:
        if self._work is not None:
            self._work.wait()
        return self._received


def to_owners(group: Any, rank: int, size: int, pieces: Sequence[Piece], parts: Sequence[Tensor]) -> Arriving:
    """Send the part that is here of each piece to its owner. Every process of the group calls this."""
    sizes = _by_owner(rank, size, pieces)
    buffer = torch.empty(sum(sizes), dtype=torch.uint8, device=_device(parts))
    starts = _starts(sizes)
    for piece, part in zip(pieces, parts, strict=True):
        if part.numel():
            piece.part(buffer, starts[piece.owner], rank).copy_(part)
        starts[piece.owner] += piece.room(rank)
    mine = [piece for piece in pieces if piece.owner == rank]
    return _sent(group, buffer, sizes, [sum(piece.room(other) for piece in mine) for other in range(size)])


def at_owner(rank: int, size: int, pieces: Sequence[Piece], received: Tensor) -> list[Tensor]:
    """The whole tensors of the pieces that this process owns, from what the others have sent."""
    mine = [piece for piece in pieces if piece.owner == rank]
    wholes = [torch.empty(piece.shape, dtype=piece.dtype, device=received.device) for piece in mine]
    offset = 0
    for other in range(size):
        for piece, whole in zip(mine, wholes, strict=True):
            if elements_of(piece.regions[other]):
                whole[piece.regions[other]] = piece.part(received, offset, other)
            offset += piece.room(other)
    return wholes


def from_owners(
    group: Any, rank: int, size: int, pieces: Sequence[Piece], wholes: Sequence[Tensor], device: torch.device
) -> Arriving:
    """Send each process its part of the pieces that this process owns. `wholes` are these, in the order of `pieces`."""
    mine = [piece for piece in pieces if piece.owner == rank]
    sizes = [sum(piece.room(other) for piece in mine) for other in range(size)]
    buffer = torch.empty(sum(sizes), dtype=torch.uint8, device=device)
    offset = 0
    for other in range(size):
        for piece, whole in zip(mine, wholes, strict=True):
            if elements_of(piece.regions[other]):
                piece.part(buffer, offset, other).copy_(whole[piece.regions[other]])
            offset += piece.room(other)
    return _sent(group, buffer, sizes, _by_owner(rank, size, pieces))


def parts_here(rank: int, size: int, pieces: Sequence[Piece], received: Tensor) -> list[Tensor]:
    """The part that is here of every piece, as views of what the owners have sent."""
    starts = _starts(_by_owner(rank, size, pieces))
    parts = []
    for piece in pieces:
        parts.append(piece.part(received, starts[piece.owner], rank))
        starts[piece.owner] += piece.room(rank)
    return parts


def _sent(group: Any, buffer: Tensor, sizes: list[int], arriving: list[int]) -> Arriving:
    received = torch.empty(sum(arriving), dtype=torch.uint8, device=buffer.device)
    work = torch.distributed.all_to_all_single(received, buffer, arriving, sizes, group=group, async_op=True)
    return Arriving(received, buffer, work)


def _by_owner(rank: int, size: int, pieces: Sequence[Piece]) -> list[int]:
    """The bytes that go from a process to each owner, and come back."""
    sizes = [0] * size
    for piece in pieces:
        sizes[piece.owner] += piece.room(rank)
    return sizes


def _starts(sizes: Sequence[int]) -> list[int]:
    return list(accumulate(sizes, initial=0))[:-1]


def _device(parts: Sequence[Tensor]) -> torch.device:
    return parts[0].device if parts else torch.device("cpu")


def whole_region(shape: Sequence[int]) -> Region:
    """The region that is everything."""
    return tuple(slice(0, length) for length in shape)
