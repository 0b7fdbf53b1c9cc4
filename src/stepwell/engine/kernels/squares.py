"""Sums of squares over the rows and the columns of matrices, in float64: one pass of a kernel on the CPU.

torch adds up in float32, where the order of the numbers shows, or converts every element to float64 first, which costs
50 times as much. A sum in float64 is the same in float32's precision however a matrix is cut.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepwell.engine.kernels import threads
from stepwell.engine.kernels.installed import has_numba

_NAMES = {torch.float32: "fp32", torch.float64: "fp64"}
_PER_THREAD = 2**15  # elements below which waking a thread costs more than it does

# Words of the job: 0 counts the blocks that are taken, 1 blocks, 2 rows of a block, 3 blocks of a matrix, 4 columns,
# 5 rows of a matrix, 6 elements, 7 sums over rows (written), 8 sums over the columns of each block (written).
_TEXT = '''"""Printed by stepwell: sums of squares over rows and columns (engine/kernels/squares.py)."""

from numba import float64

from stepwell.engine.kernels.cpu_intrinsics import LOAD, RAW_LOAD, RAW_STORE
from stepwell.engine.kernels.cpu_intrinsics import add_in_any_order, job_word, next_span, store_number

load = LOAD[{storage!r}, 0]
load_column, store_column = RAW_LOAD["fp64", 1], RAW_STORE["fp64", 1]


def kernel(job):
    count, columns, of_rows = job_word(job, 2), job_word(job, 4), job_word(job, 7)
    while True:
        block = next_span(job)
        if block >= job_word(job, 1):
            break
        matrix, part = block // job_word(job, 3), block % job_word(job, 3)
        height = job_word(job, 5)
        sums = job_word(job, 8) + block * columns * 8
        for row in range(part * count, min(part * count + count, height)):
            at = job_word(job, 6) + (matrix * height + row) * columns * {width}
            total = 0.0
            for i in range(columns):
                value = float64(load(at, i))
                square = value * value
                total = add_in_any_order(total, square)
                {per_column}
            store_number(of_rows, matrix * height + row, total)
'''


def squares(stack: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of squares of a stack (..., rows, columns) over its columns (..., rows, 1), and over its rows
    (..., 1, columns), float64."""
    if not _by_kernel(stack):
        exact = stack.double().square()
        return exact.sum(dim=-1, keepdim=True), exact.sum(dim=-2, keepdim=True)
    of_rows, of_columns = _sums(stack, of_columns=True)
    *leading, height, columns = stack.shape
    return of_rows.view(*leading, height, 1), of_columns.sum(dim=1).view(*leading, 1, columns)


def total_squares(stack: Tensor) -> Tensor:
    """The sum of squares of each matrix of a stack (..., rows, columns), as (..., 1, 1), float64."""
    if not _by_kernel(stack):
        return stack.double().square().sum(dim=(-2, -1), keepdim=True)
    of_rows, _ = _sums(stack, of_columns=False)
    return of_rows.view(*stack.shape[:-1], 1).sum(dim=-2, keepdim=True)


def _by_kernel(stack: Tensor) -> bool:
    return stack.device.type == "cpu" and stack.is_contiguous() and stack.numel() > 0 and has_numba()


def _sums(stack: Tensor, of_columns: bool) -> tuple[Tensor, Tensor]:
    """The sums over each row (rows,), and over the columns of each block of rows (matrices, blocks, columns)."""
    *leading, height, columns = stack.shape
    count = math.prod(leading)
    workers = max(1, min(torch.get_num_threads(), stack.numel() // _PER_THREAD))
    blocks = 1 if workers == 1 or count >= 2 * workers else min(height, 2 * workers)  # of a matrix
    rows_of_block = -(-height // blocks)
    blocks = -(-height // rows_of_block)
    rows = torch.empty(count * height, dtype=torch.float64)
    sums = torch.zeros((count, blocks, columns) if of_columns else (), dtype=torch.float64)
    words = [0, count * blocks, rows_of_block, blocks, columns, height]
    job = np.array([*words, stack.data_ptr(), rows.data_ptr(), sums.data_ptr()], dtype=np.int64)
    threads.run(_kernel(_NAMES[stack.dtype], of_columns).address, job.ctypes.data, workers)
    return rows, sums


@cache
def _kernel(storage: str, of_columns: bool) -> Any:
    from stepwell.engine.kernels.compiled import compiled

    per_column = "store_column(sums, i, load_column(sums, i) + square)" if of_columns else "pass"
    return compiled(_TEXT.format(storage=storage, width=4 if storage == "fp32" else 8, per_column=per_column))
