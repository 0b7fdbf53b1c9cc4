"""A checksum of a batch. A resumed pass uses the checksum to verify that it draws the same batches as the saved
pass."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch


def digest(batch: Any) -> int:
    """A checksum of the numbers and strings in a batch."""
    total = 0
    for part in _parts(batch):
        total = zlib.crc32(part, total)
    return total


def _parts(value: Any) -> Iterator[bytes]:
    if isinstance(value, torch.Tensor):
        yield f"{value.dtype} {tuple(value.shape)}".encode()
        if value.layout == torch.strided and not value.is_quantized:
            flat = value.detach().reshape(-1)
            flat = flat[:: max(1, flat.numel() // 65_536)]
            yield flat.contiguous().cpu().view(torch.uint8).numpy().tobytes()
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype} {value.shape}".encode()
        if value.dtype.kind != "O":
            yield np.ascontiguousarray(value.reshape(-1)[:: max(1, value.size // 65_536)]).tobytes()
    elif isinstance(value, Mapping):
        for key in value:
            yield repr(key).encode()
            yield from _parts(value[key])
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _parts(item)
    elif isinstance(value, (str, bytes, int, float, bool)) or value is None:
        yield repr(value).encode()
    elif hasattr(value, "__dict__"):
        yield type(value).__name__.encode()
        yield from _parts(vars(value))
    else:
        yield type(value).__name__.encode()
