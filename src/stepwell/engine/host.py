"""State in the memory of the CPU for parameters on a GPU (`state_device="cpu"`).

The update takes place on the CPU, where the state is, on a copy of the weights. For each float32 element 8 bytes travel
there (the gradient, and the weight, which anybody may have changed) and 4 bytes back, over a bus that is 20 to 50 times
as slow as a GPU's memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stepwell.engine.pointers import layout_of
from stepwell.engine.watch import Stale


def is_apart(tensor: Tensor) -> bool:
    """Whether a parameter is elsewhere than in the memory of the CPU."""
    return tensor.device.type not in ("cpu", "meta")


def copy_of(tensor: Tensor) -> Tensor:
    """A tensor without values in the memory of the CPU, for the copy of a parameter."""
    return torch.empty_like(tensor.detach(), device="cpu", pin_memory=tensor.device.type == "cuda")


class Host:
    """The copies of the parameters of one launch.

    Args:
        owners: the parameters.
        copies: what the launch updates.
    """

    def __init__(self, owners: Sequence[Tensor], copies: Sequence[Tensor]) -> None:
        self._owners, self._copies = owners, copies
        self._layouts = [layout_of(owner) for owner in owners]
        self._gradients: dict[int, Tensor] = {}

    def fetch(self, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Copies of the gradients; the copies of their parameters get the current weights. Raises Stale where a
        parameter has another dtype, device or layout than when this was made."""
        if [layout_of(owner) for owner in self._owners] != self._layouts:
            raise Stale
        found: list[Tensor | None] = []
        for index, (owner, copy, gradient) in enumerate(zip(self._owners, self._copies, gradients, strict=True)):
            if gradient is None:
                found.append(None)
                continue
            copy.copy_(owner.detach(), non_blocking=True)
            found.append(gradient.cpu() if gradient.is_sparse else self._gradient(index, gradient))
        self._wait()
        return found

    def deliver(self, indices: Sequence[int]) -> None:
        """Copy new weights back."""
        for index in indices:
            self._owners[index].detach().copy_(self._copies[index], non_blocking=True)

    def _gradient(self, index: int, gradient: Tensor) -> Tensor:
        held = self._gradients.get(index)
        if held is None or held.dtype != gradient.dtype or held.stride() != gradient.stride():
            held = self._gradients[index] = copy_of(gradient)
        return held.copy_(gradient.detach(), non_blocking=True)

    def _wait(self) -> None:
        """Until the copies are made. (Earlier ones to the device are then made, too.)"""
        device: Any = self._owners[0].device
        if device.type == "cuda":
            torch.cuda.current_stream(device).synchronize()
        elif device.type != "cpu":
            torch.accelerator.synchronize(device)
