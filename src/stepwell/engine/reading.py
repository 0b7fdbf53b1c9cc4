"""Numbers that are copied from the device to the host, with a wait only when they are read."""

from __future__ import annotations

import torch
from torch import Tensor


class Reading:
    """A few numbers that are copied from the device to the host. Reading waits only for this copy, not for later work
    of the device."""

    def __init__(self, *values: Tensor) -> None:
        self._values = [value.detach().to("cpu", non_blocking=True) for value in values]
        self._event = None
        devices = [value.device for value in values if value.device.type == "cuda"]
        if devices:
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(devices[0]))

    @property
    def waits(self) -> bool:
        """Whether reading may have to wait for a device."""
        return self._event is not None

    def __getitem__(self, place: int) -> float:
        if self._event is not None:
            self._event.synchronize()
        return self._values[place].item()
