"""Values that lie on a device and are read many at a time: each reading waits for the device."""

from __future__ import annotations

from collections.abc import Callable

import torch

AT_ONCE: tuple[str, ...] = ("cpu",)
MOST = 16  # values that wait at once, and so updates by which a finding may be late


class Unread:
    """Scalars of a device, in the order of the run, and where each of them goes.

    >>> seen = []
    >>> unread = Unread()
    >>> for number in (1.0, 2.0):
    ...     unread.add(torch.tensor(number), seen.append)
    >>> seen, unread.read(), seen
    ([1.0, 2.0], None, [1.0, 2.0])
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[torch.Tensor, Callable[[float], None]]] = []

    def add(self, value: torch.Tensor, sink: Callable[[float], None]) -> None:
        """`value`: a tensor with one element. On the CPU reading it costs nothing, so it is read at once."""
        value = value.detach()
        if value.device.type in AT_ONCE and not self._waiting:
            sink(float(value))
            return
        self._waiting.append((value.float().reshape(()).clone(), sink))  # a loss may be changed in place afterwards
        if len(self._waiting) >= MOST:
            self.read()

    def __len__(self) -> int:
        return len(self._waiting)

    def read(self) -> None:
        """Read all that waits, with one copy from each device."""
        waiting, self._waiting = self._waiting, []
        for device in dict.fromkeys(value.device for value, _ in waiting):
            there = [one for one in waiting if one[0].device == device]
            numbers = torch.stack([value for value, _ in there]).tolist()
            for (_, sink), number in zip(there, numbers, strict=True):
                sink(number)
