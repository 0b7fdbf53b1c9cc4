"""Parameters that lie in the same memory: a step would move them twice, in any order, so they are refused."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from stepwell.errors import UsageError


@dataclass(frozen=True)
class _Span:
    """The bytes from the first to the last of a tensor; there may be gaps that are not its own."""

    device: str
    first: int
    end: int
    name: str
    tensor: Tensor

    @property
    def has_gaps(self) -> bool:
        return self.end - self.first > self.tensor.nbytes


def refuse_overlaps(named: Iterable[tuple[str, Tensor]]) -> None:
    """Raise UsageError where two tensors share memory, or two elements of one.

    Slices that interleave (the even and the odd columns of a matrix) share none.
    """
    spans = [_span(name, tensor) for name, tensor in named if tensor.device.type != "meta"]
    spans.sort(key=lambda span: (span.device, span.first, span.end))
    begun: list[_Span] = []  # those before that reach as far as this one
    for span in spans:
        begun = [other for other in begun if other.device == span.device and other.end > span.first]
        for other in begun:
            if _meet(span, other):
                raise UsageError(
                    f"the parameters {other.name!r} and {span.name!r} share memory, so a step would move it twice; "
                    "make them one parameter, or clone one of them"
                )
        if not _is_spaced(span.tensor) and int(_marks(span, span.first, span.end).sum()) < span.tensor.nbytes:
            raise UsageError(
                f"elements of {span.name!r} share memory (strides {span.tensor.stride()}: it was expanded), so a step "
                "would move it more than once; clone it"
            )
        begun.append(span)


def _span(name: str, tensor: Tensor) -> _Span:
    reach = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return _Span(str(tensor.device), tensor.data_ptr(), tensor.data_ptr() + reach * tensor.itemsize, name, tensor)


def _meet(a: _Span, b: _Span) -> bool:
    """Whether two tensors whose spans overlap have a byte in common."""
    if not a.has_gaps and not b.has_gaps:
        return True
    first, end = min(a.first, b.first), max(a.end, b.end)
    return bool((_marks(a, first, end) & _marks(b, first, end)).any())


def _marks(span: _Span, first: int, end: int) -> Tensor:
    """1 for each byte from `first` to `end` that belongs to the tensor, 0 for the others."""
    tensor, size = span.tensor, span.tensor.itemsize
    marks = torch.zeros(end - first, dtype=torch.uint8)
    strides = [stride * size for stride in tensor.stride()]
    marks.as_strided([*tensor.shape, size], [*strides, 1], span.first - first).fill_(1)
    return marks


def _is_spaced(tensor: Tensor) -> bool:
    """Whether each stride steps over all that the smaller ones reach, as in every slice: no element lies on another."""
    reached = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride <= reached:
            return False
        reached += (size - 1) * stride
    return True
