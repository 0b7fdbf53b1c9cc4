"""The addresses of tensors, read from each tensor in the step that uses the address.

A kernel uses addresses, and a user may assign `.data`, move a tensor into shared memory, resize its storage or
transpose it. So before a kernel runs, the address of every tensor is read, and it is checked that the tensor has the
dtype, device, shape and strides that the kernel was made for, and that its storage contains all of its elements.

One compiled loop asks all tensors through libtorch's C functions (`libtorch.py`): 20 ns for a tensor, where the same
questions from Python take 700 ns. Where a build of torch lacks the functions, Python asks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stepwell.engine.kernels.look_job import Kind, Word
from stepwell.engine.libtorch import Handles, Library, library

SAME, OTHER_LAYOUT, OUT_OF_STORAGE = 0, 1, 2  # what `Pointers.read` finds of a tensor


class Pointers:
    """The current addresses of tensors with fixed layouts.

    Args:
        like: tensors with the dtypes, devices, shapes and strides that those to be read must have.
        tensors: what `read` looks at; they stay alive as long as this object.

    `addresses`, int64, and `found`, int64 (`SAME`, `OTHER_LAYOUT` or `OUT_OF_STORAGE`), have a number for each.
    """

    def __init__(self, like: Sequence[Tensor], tensors: Sequence[Tensor] = ()) -> None:
        self.count = len(like)
        self.tensors = list(tensors)
        self.addresses = np.zeros(self.count, dtype=np.int64)
        self.found = np.zeros(self.count, dtype=np.int64)
        self._seen: np.ndarray | None = None
        self._like = [layout_of(tensor) for tensor in like]
        self._library = library()
        if self._library is None:
            return
        words = [_words(tensor, self._library) for tensor in like]
        self._layouts = np.array([number for layout in words for number in layout], dtype=np.int64)
        self._starts = np.cumsum([0, *map(len, words)])[:-1].astype(np.int64)
        self._answer = np.zeros(1, dtype=np.int64)
        functions = self._library.functions
        self._job = np.zeros(Word.FUNCTIONS + len(functions), dtype=np.int64)
        self._job[Word.LAYOUTS : Word.ANSWER + 1] = [
            array.ctypes.data for array in (self._layouts, self._starts, self.addresses, self.found, self._answer)
        ]
        self._job[Word.FUNCTIONS :] = functions
        self._job_address = self._job.ctypes.data
        self._handles = Handles.of(self._library, self.tensors)
        self._tensors_at = self._handles.tensors.ctypes.data

    @property
    def is_compiled(self) -> bool:
        """Whether compiled code reads the addresses; kernels can then use `addresses` immediately."""
        return self._library is not None

    def read(self) -> bool:
        """Look at `tensors`. True if each has its layout and lies inside of its storage."""
        if self._library is None:
            return self._read_from_python(self.tensors)
        return self._look(Kind.TENSORS, self.count, self._tensors_at)

    def has_moved(self) -> bool:
        """Whether an address is another than when this was asked before; True for the first time."""
        if self._seen is not None and np.array_equal(self._seen, self.addresses):
            return False
        self._seen = self.addresses.copy()
        return True

    def _look(self, kind: Kind, count: int, given: int) -> bool:
        """Let the compiled loop look at `count` tensors, given at an address; whether all are as they should be."""
        assert self._library is not None
        self._job[: Word.GIVEN + 1] = [count, kind, given]
        self._library.look(self._job_address)
        return not self._answer[0]

    def _read_from_python(self, tensors: Sequence[Tensor | None]) -> bool:
        for k, tensor in enumerate(tensors):
            self.addresses[k], self.found[k] = 0, SAME
            if tensor is None:
                continue
            if layout_of(tensor) != self._like[k]:
                self.found[k] = OTHER_LAYOUT
            elif not lies_in_its_storage(tensor):
                self.found[k] = OUT_OF_STORAGE
            if self.found[k] != OUT_OF_STORAGE:
                self.addresses[k] = tensor.data_ptr()
        return not self.found.any()


def has_memory(tensor: Tensor) -> bool:
    """Whether a tensor has its own memory that libtorch knows: not a wrapper around others (a quantized tensor, a
    DTensor, a FakeTensor), whose operations are Python's, nor one of a device where addresses mean nothing."""
    return tensor.device.type in ("cpu", "cuda") and not is_wrapper(tensor)


def is_wrapper(tensor: Tensor) -> bool:
    """Whether operations on a tensor are done by Python code of its class (`__torch_dispatch__`)."""
    return bool(torch._C._dispatch_keys(tensor).has(torch._C.DispatchKey.Python))


def layout_of(tensor: Tensor) -> tuple[torch.dtype, torch.device, torch.Size, tuple[int, ...]]:
    """What decides where the elements of a tensor lie, but for the address."""
    return tensor.dtype, tensor.device, tensor.shape, tensor.stride()


def reach_of(tensor: Tensor) -> int:
    """Bytes from the first element of a tensor to past the last."""
    if tensor.numel() == 0:
        return 0
    steps = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (1 + steps) * tensor.itemsize


def lies_in_its_storage(tensor: Tensor) -> bool:
    """Whether the storage of a tensor is there and holds all of its elements."""
    reach = reach_of(tensor)
    if reach == 0:
        return True
    size = tensor.untyped_storage().nbytes()
    return tensor.storage_offset() * tensor.itemsize + reach <= size and tensor.data_ptr() != 0


def _words(tensor: Tensor, library: Library) -> list[int]:
    """The layout of a tensor as the compiled loop compares it."""
    return [reach_of(tensor), tensor.itemsize, *library.kind_of(tensor), tensor.dim(), *tensor.shape, *tensor.stride()]
