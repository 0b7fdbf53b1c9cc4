"""Memory that torch did not allocate: NumPy arrays, memory-mapped files, shared memory.

Such memory can be read-only, and a file can be truncated while it is mapped; a kernel that accesses it then crashes the
process. So this memory is looked up in the process's mappings when it is first seen, and before each step its first and
last byte are read by a system call, which returns "bad address" instead. Without a list of mappings (systems other than
Linux) nothing is checked.
"""

from __future__ import annotations

import ctypes
import os
from bisect import bisect_right
from collections.abc import Iterable

from torch import Tensor

from stepwell.engine.pointers import reach_of
from stepwell.errors import UsageError

_AT_ONCE = 512  # bytes read by one call of the system: below what a pipe and one call always take


class Foreign:
    """The tensors, of some labeled tensors, whose memory torch did not allocate. Raises UsageError for read-only
    memory."""

    def __init__(self, labelled: Iterable[tuple[str, Tensor]]) -> None:
        self.ends: list[tuple[str, int]] = []
        found = [
            (label, tensor)
            for label, tensor in labelled
            if tensor.device.type == "cpu" and tensor.numel() and not tensor.untyped_storage().resizable()
        ]
        if not found:
            return
        mappings = _mappings()
        for label, tensor in found:
            first = tensor.data_ptr()
            last = first + reach_of(tensor) - 1
            self.ends += [(label, first), (label, last)]
            if mappings and not (_is_writable(mappings, first) and _is_writable(mappings, last)):
                raise UsageError(
                    f"{label} is in read-only memory (a read-only NumPy array or a file that is mapped "
                    "for reading); replace it by a copy: p.data = p.data.clone()"
                )

    def check(self) -> None:
        """Raise UsageError for memory that is no longer valid: its file was truncated, or it was unmapped."""
        if not self.ends or not hasattr(os, "writev") or not os.path.exists("/proc/self/maps"):
            return
        reading, writing = os.pipe()
        try:
            for start in range(0, len(self.ends), _AT_ONCE):
                part = self.ends[start : start + _AT_ONCE]
                bytes_ = [(ctypes.c_char * 1).from_address(address) for _, address in part]
                read = 0
                while read < len(part):
                    try:
                        count = os.writev(writing, bytes_[read:])
                    except OSError:
                        count = 0
                    if count == 0:
                        raise UsageError(
                            f"{part[read][0]} is in memory that is no longer valid: the mapped file was truncated, or "
                            "the memory was unmapped; replace the tensor"
                        )
                    read += count
                    os.read(reading, count)
        finally:
            os.close(reading)
            os.close(writing)


def _mappings() -> list[tuple[int, int, bool]]:
    """(first address, end, whether it can be written) of the mappings of this process, in order; empty if unknown."""
    try:
        with open("/proc/self/maps") as lines:
            fields = [line.split(maxsplit=2)[:2] for line in lines]
    except OSError:
        return []
    found = []
    for span, rights in fields:
        first, end = span.split("-")
        found.append((int(first, 16), int(end, 16), "w" in rights))
    return found


def _is_writable(mappings: list[tuple[int, int, bool]], address: int) -> bool:
    place = bisect_right(mappings, address, key=lambda mapping: mapping[0]) - 1
    return place >= 0 and address < mappings[place][1] and mappings[place][2]
