"""The models may be called again, and nothing of it stays: buffers and random numbers are put back bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from stepwell.doctor.processes import alone


@contextmanager
def untouched(models: Sequence[nn.Module]) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Gives (buffer, its value at the start), for one call after another from the same buffers."""
    rng, devices = torch.get_rng_state(), device_rng()
    buffers = [(buffer, buffer.detach().clone()) for model in models for buffer in model.buffers()]
    try:
        with alone():
            yield buffers
    finally:
        put_back(buffers)
        torch.set_rng_state(rng)
        set_device_rng(devices)


def put_back(buffers: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
    with torch.no_grad():
        for buffer, value in buffers:
            buffer.copy_(value)


def device_rng() -> Any:
    """The states of the generators of all GPUs, or None where none is in use."""
    return torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else None


def set_device_rng(state: Any) -> None:
    if state is not None:
        torch.cuda.set_rng_state_all(state)
