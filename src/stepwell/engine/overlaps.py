"""Tensors that share memory: a step would write the memory twice, in any order, so such tensors are refused."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepwell.engine.pointers import has_memory
from stepwell.errors import UsageError

_MOST_WORK: Any = 10**6  # candidates that NumPy tries; its type stubs know of -1 and 0 alone


@dataclass(frozen=True)
class _Span:
    """The bytes from the first to the last byte of a tensor, possibly with gaps."""

    device: str
    first: int
    end: int
    name: str
    tensor: Tensor

    @property
    def has_gaps(self) -> bool:
        return self.end - self.first > self.tensor.nbytes


def refuse_overlaps(named: Iterable[tuple[str, Tensor]]) -> None:
    """Raise UsageError if two tensors, or two elements of a tensor, share memory. Names are as in a message: "'w'".

    Interleaved slices (the even and the odd columns of a matrix) do not share memory.
    """
    spans = [_span(name, tensor) for name, tensor in named if has_memory(tensor) and tensor.numel()]
    spans.sort(key=lambda span: (span.device, span.first, span.end))
    begun: list[_Span] = []  # those before that reach as far as this one
    for span in spans:
        begun = [other for other in begun if other.device == span.device and other.end > span.first]
        for other in begun:
            if _meet(span, other):
                raise UsageError(
                    f"{other.name} and {span.name} share memory, which a step would write twice; "
                    "use one tensor, or clone one of them"
                )
        if not _is_spaced(span.tensor) and int(_marks(span, span.first, span.end).sum()) < span.tensor.nbytes:
            raise UsageError(
                f"elements of {span.name} share memory (strides {span.tensor.stride()}: it was expanded), so a step "
                "would update them more than once; clone the tensor"
            )
        begun.append(span)


def _span(name: str, tensor: Tensor) -> _Span:
    reach = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return _Span(str(tensor.device), tensor.data_ptr(), tensor.data_ptr() + reach * tensor.itemsize, name, tensor)


def _meet(a: _Span, b: _Span) -> bool:
    """Whether two tensors whose spans overlap have a byte in common."""
    if not a.has_gaps and not b.has_gaps:
        return True
    try:  # an exact answer from strides alone; no memory is read, so any device will do
        return bool(np.shares_memory(_as_array(a), _as_array(b), max_work=_MOST_WORK))
    except np.exceptions.TooHardError:  # strides that make it a puzzle; no slice of a tensor does
        return True


def _as_array(span: _Span) -> np.ndarray:
    """A NumPy array over the memory of a tensor."""
    tensor = span.tensor
    described = {
        "version": 3,
        "data": (span.first, True),
        "typestr": f"|V{tensor.itemsize}",
        "shape": tuple(tensor.shape),
        "strides": tuple(stride * tensor.itemsize for stride in tensor.stride()),
    }
    return np.asarray(SimpleNamespace(__array_interface__=described))


def _marks(span: _Span, first: int, end: int) -> Tensor:
    """1 for each byte from `first` to `end` that belongs to the tensor, 0 for the others."""
    tensor, size = span.tensor, span.tensor.itemsize
    marks = torch.zeros(end - first, dtype=torch.uint8)
    strides = [stride * size for stride in tensor.stride()]
    marks.as_strided([*tensor.shape, size], [*strides, 1], span.first - first).fill_(1)
    return marks


def _is_spaced(tensor: Tensor) -> bool:
    """Whether each stride exceeds the extent of all smaller strides, as in every slice: then no elements overlap."""
    reached = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride <= reached:
            return False
        reached += (size - 1) * stride
    return True
