"""Where everything lies: the table of addresses that a kernel reads, for the backends that have kernels.

A row per tensor: the parameter, the gradient (0 where there is none), then the tensors of the state. What costs time
here is paid at every step: one look at each parameter and each gradient where both are plain.
"""

from __future__ import annotations

import math
from operator import attrgetter

import numpy as np
import torch
from torch import Tensor

from stepwell.engine import formats
from stepwell.engine.plan import Launch

_dtype_of, _bytes_of = attrgetter("dtype"), attrgetter("nbytes")


class Addresses:
    """The table of one launch, and what a step must know about its gradients."""

    def __init__(self, launch: Launch) -> None:
        tensors = [tensor.detach() for tensor in launch.tensors]
        self.launch = launch
        self.table = np.zeros((len(tensors), 2 + formats.slot_columns(launch.kind)), dtype=np.int64)
        self.sizes = np.array([tensor.numel() for tensor in tensors], dtype=np.int64)
        self.block = max(map(formats.block_of, launch.kind.slot_formats), default=1)
        self.staged: list[tuple[Tensor, Tensor]] = []  # (tensor, copy): those with gaps are updated in a copy
        self.keep: list[tuple[Tensor, Tensor]] = []  # what a kernel reads lives until the next step
        self.rows: dict[int, tuple[Tensor, int]] = {}  # row-sparse: tensor -> (ids of rows, elements per row)
        self.apart: list[int] = []  # row-sparse, with rows that cut blocks of codes: the definition updates them
        self._weights = [tensor.data_ptr() for tensor in tensors]
        # What memory holds of a negated view (the imaginary part of a conjugate) has the other sign.
        self._dense = [torch.empty_like(t).stride() == t.stride() and not t.is_neg() for t in tensors]
        self._contiguous = all(tensor.is_contiguous() and not tensor.is_neg() for tensor in tensors)
        self._bytes = [tensor.nbytes for tensor in tensors]
        self._two_bytes = tensors[0].itemsize == 2  # bf16 and fp16 are told apart by name
        self._dtypes = {tensors[0].dtype}
        self._bound = np.zeros(len(tensors), dtype=bool)
        self._all_bound = False

    def collect(self) -> None:
        """Fill the table for this step. Raises Stale where a parameter is no longer what the plan was made for."""
        launch, table = self.launch, self.table
        tensors, gradients = launch.tensors, launch.gradients
        if not self._all_bound:
            self._bind_state()
        weights = list(map(Tensor.data_ptr, tensors))
        if weights != self._weights:
            launch.check_layout()
            self._weights = weights
        self.staged, self.keep, self.rows, self.apart = [], [], {}, []
        if (
            self._contiguous
            and launch.complete
            and all(map(Tensor.is_contiguous, gradients))
            and not any(map(Tensor.is_neg, gradients))
            and list(map(_bytes_of, gradients)) == self._bytes
            and (not self._two_bytes or set(map(_dtype_of, gradients)) == self._dtypes)
        ):
            table[:, 1] = list(map(Tensor.data_ptr, gradients))
            table[:, 0] = weights
            return
        launch.check_layout()
        for index, (tensor, gradient) in enumerate(zip(tensors, gradients, strict=True)):
            if gradient is None:
                table[index, 1] = 0
                continue
            like = tensor.detach()
            if not self._dense[index]:
                like = torch.empty_like(like).copy_(like)
                self.staged.append((tensor.detach(), like))
            table[index, 0], table[index, 1] = like.data_ptr(), self._gradient(index, like)

    @property
    def has_rows(self) -> bool:
        """Whether some gradient is row-sparse: the division of the work is then that of this step alone."""
        return bool(self.rows or self.apart)

    def _gradient(self, index: int, like: Tensor) -> int:
        """The address of a gradient in the layout and dtype of its parameter."""
        gradient = self.launch.gradients[index]
        if gradient.is_sparse or gradient.shape != like.shape:
            gradient = self.launch.gradient_of(index)  # with its rows in order, or an error
        if gradient.is_sparse:
            values, length = gradient.values().to(like.dtype).contiguous(), math.prod(gradient.shape[1:])
            if length % self.block:
                self.apart.append(index)
            else:
                self.rows[index] = (gradient.indices()[0], length)
            self.keep.append((like, values))
            return values.data_ptr() or -1  # one without rows counts as a step, and has no address
        if gradient.dtype != like.dtype or gradient.stride() != like.stride() or gradient.is_neg():
            gradient = torch.empty_like(like).copy_(gradient)
        self.keep.append((like, gradient))
        return gradient.data_ptr()

    def _bind_state(self) -> None:
        for index in np.flatnonzero(self.launch.started & ~self._bound).tolist():
            addresses = [tensor.data_ptr() for tensor in self.launch.slot_tensors(index)]
            self.table[index, 2 : 2 + len(addresses)] = addresses
            self._bound[index] = True
        self._all_bound = bool(self._bound.all())
