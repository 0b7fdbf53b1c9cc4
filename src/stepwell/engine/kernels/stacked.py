"""Copies equally shaped tensors into a stack and back, by their addresses, and applies a stack of directions.

`torch.stack` and `torch._foreach_copy_` cost 3 us for each tensor, which is as much as the products of a small matrix.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepwell.engine.kernels import threads

_NAMES = {torch.float32: "fp32", torch.float64: "fp64"}
_PIECE = 2**14  # elements that a thread takes at once
_PER_THREAD = 2**15  # elements below which waking a thread costs more than it does
_GATHER, _SCATTER, _APPLY = range(3)

# Words of the job: 0 counts the pieces that are taken, 1 pieces, 2 pieces of a tensor, 3 elements of a tensor, 4 the
# addresses of the tensors, 5 the stack, 6 which of the three, 7 and 8 (float64) the factors of _APPLY.
_TEXT = '''"""Printed by stepwell: stacks of tensors (engine/kernels/stacked.py)."""

from numba import {real} as real

from stepwell.engine.kernels.cpu_intrinsics import LOAD, STORE, job_number, job_word, load_word, next_span

load, store = LOAD[{storage!r}, 0], STORE[{storage!r}, 0]
load_stack, store_stack = LOAD[{storage!r}, 1], STORE[{storage!r}, 1]


def kernel(job):
    pieces, of_tensor, elements = job_word(job, 1), job_word(job, 2), job_word(job, 3)
    addresses, stack, which = job_word(job, 4), job_word(job, 5), job_word(job, 6)
    kept, rate = real(job_number(job, 7)), real(job_number(job, 8))
    while True:
        piece = next_span(job)
        if piece >= pieces:
            break
        tensor = piece // of_tensor
        first = (piece - tensor * of_tensor) * {piece}
        count = min({piece}, elements - first)
        there = load_word(addresses, tensor) + first * {width}
        here = stack + (tensor * elements + first) * {width}
        if which == 0:
            for i in range(count):
                store_stack(here, i, load(there, i))
        elif which == 1:
            for i in range(count):
                store(there, i, load_stack(here, i))
        else:
            for i in range(count):
                store(there, i, load(there, i) * kept - load_stack(here, i) * rate)
'''


def gather(addresses: np.ndarray, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A stack (n, *shape) of the contiguous tensors at n addresses."""
    stack = torch.empty((len(addresses), *shape), dtype=dtype)
    _Job(_GATHER, addresses, stack).run()
    return stack


def scatter(stack: Tensor, addresses: np.ndarray) -> None:
    """Copy each tensor of a contiguous stack to its address."""
    _Job(_SCATTER, addresses, stack).run()


def application(stack: Tensor, addresses: np.ndarray, kept: float, rate: float) -> Any:
    """What does p <- p * kept - rate * direction for the weights at n addresses, with a contiguous stack of directions:
    a function that does so when it is called first, and nothing afterwards."""
    return _Job(_APPLY, addresses, stack, kept, rate).run


class _Job:
    """One call of the kernel; it counts what it has done, so that to run it again does nothing."""

    def __init__(self, which: int, addresses: np.ndarray, stack: Tensor, *factors: float) -> None:
        elements = stack.numel() // max(1, len(addresses))
        self._held = stack, np.ascontiguousarray(addresses, dtype=np.int64)
        of_tensor = -(-elements // _PIECE)
        self._words = np.zeros(9, dtype=np.int64)
        self._words[1:7] = [
            of_tensor * len(addresses), of_tensor, elements, self._held[1].ctypes.data, stack.data_ptr(), which,
        ]  # fmt: skip
        self._words[7:].view(np.float64)[: len(factors)] = factors
        self._threads = max(1, min(torch.get_num_threads(), stack.numel() // _PER_THREAD))
        self._kernel = _kernel(_NAMES[stack.dtype])

    def run(self) -> None:
        threads.run(self._kernel.address, self._words.ctypes.data, self._threads)


@cache
def _kernel(storage: str) -> Any:
    from stepwell.engine.kernels.compiled import compiled

    real, width = ("float32", 4) if storage == "fp32" else ("float64", 8)
    return compiled(_TEXT.format(storage=storage, real=real, width=width, piece=_PIECE))
