"""The table of addresses that a kernel reads, for the backends with kernels.

One row per tensor: the addresses of the parameter, the gradient (0 without a gradient) and the tensors of the state.
All addresses are read from the tensors in the step that uses them (`pointers.py`).
"""

from __future__ import annotations

import math
from itertools import repeat

import numpy as np
import torch
from torch import Tensor

from stepwell.engine import formats
from stepwell.engine.blocks import lines_of
from stepwell.engine.kind import LaunchKind
from stepwell.engine.launch import Launch


class Addresses:
    """The table of one launch."""

    def __init__(self, launch: Launch) -> None:
        tensors = [tensor.detach() for tensor in launch.tensors]
        self.table = np.zeros((len(tensors), 2 + formats.slot_columns(launch.kind)), dtype=np.int64)
        self.sizes = np.array([tensor.numel() for tensor in tensors], dtype=np.int64)
        self._moves = -1  # how often something had moved when the table was filled
        self.is_coded = bool(launch.kind.coded)
        # Tensors whose rows are updated one by one, because blocks end with them or other processes have elements
        # between them: the elements of a row, and how many lie between two.
        found = map(_lines, repeat(launch.kind), tensors, launch.rows_here)
        self.lines = {index: one for index, one in enumerate(found) if one is not None}
        self.staged: list[tuple[Tensor, Tensor]] = []  # (tensor, copy): those with gaps are updated in a copy
        self.keep: list[tuple[Tensor, Tensor]] = []  # what a kernel reads lives until the update is done
        self.rows: dict[int, tuple[Tensor, int]] = {}  # row-sparse: tensor -> (ids of rows, elements per row)
        self.apart: list[int] = []  # row-sparse, with rows that share blocks of codes: the definition updates them

    def collect(self, launch: Launch) -> None:
        """Fill the table for this step, from the addresses that `launch.collect` has just read."""
        table, pointers = self.table, launch.pointers
        assert pointers is not None
        if self._moves != launch.moves:
            table[launch.columns] = pointers.addresses
            self._moves = launch.moves
        self.staged, self.keep, self.rows, self.apart = [], [], {}, []
        if launch.has_taken or launch.gradient_pointers.read_these(launch.gradients):
            table[:, 1] = launch.gradient_pointers.addresses
            return
        for index, (tensor, gradient) in enumerate(zip(launch.tensors, launch.gradients, strict=True)):
            if gradient is None:
                table[index, 1] = 0
                continue
            like = tensor.detach()
            if not launch.gradient_pointers.is_dense[index]:
                like = torch.empty_like(like).copy_(like)
                self.staged.append((tensor.detach(), like))
            table[index, 0], table[index, 1] = like.data_ptr(), self._gradient(launch, index, like)

    def release(self) -> None:
        """Release the gradients of this step."""
        self.staged, self.keep, self.rows = [], [], {}

    def by_line(self, active: np.ndarray) -> dict[int, tuple[int, int]]:
        """The entries of `lines` whose tensors have a dense gradient in this step."""
        return {i: one for i, one in self.lines.items() if active[i] and i not in self.rows and i not in self.apart}

    @property
    def has_rows(self) -> bool:
        """Whether some gradient is row-sparse, so that the division of the work is valid only for this step."""
        return bool(self.rows or self.apart)

    def _gradient(self, launch: Launch, index: int, like: Tensor) -> int:
        """The address of a gradient in the layout and dtype of its parameter."""
        gradient = launch.gradient_of(index)  # with its rows in order, or an error
        if gradient.is_sparse:
            values, length = gradient.values().to(like.dtype).contiguous(), math.prod(gradient.shape[1:])
            if self.is_coded and lines_of(like.shape).length != length:
                self.apart.append(index)
            else:
                self.rows[index] = (gradient.indices()[0], length)
            self.keep.append((like, values))
            return values.data_ptr() or -1  # one without rows counts as a step, and has no address
        if gradient.dtype != like.dtype or gradient.stride() != like.stride() or gradient.is_neg():
            gradient = torch.empty_like(like).copy_(gradient)
        self.keep.append((like, gradient))
        return gradient.data_ptr()


def _lines(kind: LaunchKind, tensor: Tensor, rows_here: tuple[int, int] | None) -> tuple[int, int] | None:
    """See `Addresses.lines`; None for a tensor that is updated as a whole."""
    lines = lines_of(tensor.shape)
    ends_inside = any(lines.length % formats.block_of(name) for name in kind.coded)
    return (lines.length, 0) if rows_here is None and lines.count > 1 and ends_inside else rows_here
