"""The addresses of tensors, read from each tensor in the step that uses the address.

A kernel uses addresses, and a user may assign `.data`, move a tensor into shared memory, resize its storage or
transpose it. So before a kernel runs, the address of every tensor is read, and it is checked that the tensor has the
dtype, device, shape and strides that the kernel was made for, and that its storage contains all of its elements.

The questions are asked through libtorch's C functions (`aoti_torch_get_data_ptr` and its like, the interface that
torch keeps stable for code compiled outside of it), by one compiled loop over all tensors: 20 ns for a tensor, where
the same questions from Python take 700 ns. Where a build of torch lacks them, Python asks.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

SAME, OTHER_LAYOUT, OUT_OF_STORAGE = 0, 1, 2  # what `Pointers.read` finds of a tensor

# libtorch's questions about a tensor, in the order in which `_TEXT` has them.
_QUESTIONS = (
    "aoti_torch_get_data_ptr",
    "aoti_torch_get_dtype",
    "aoti_torch_get_device_type",
    "aoti_torch_get_device_index",
    "aoti_torch_get_dim",
    "aoti_torch_get_sizes",
    "aoti_torch_get_strides",
    "aoti_torch_get_storage_size",
    "aoti_torch_get_storage_offset",
    "aoti_torch_delete_tensor_object",
)

# Words of the job: 0 tensors, 1 handles, 2 whether these are PyCapsules of handles, which are to be deleted, 3 layouts,
# 4 where the layout of each tensor begins, 5 addresses (written), 6 what was found (written), 7 a word to answer in, at
# last how many are not `SAME`, 8 PyCapsule_GetPointer, 9 and following the questions.
# A layout: bytes from the first element to past the last, bytes of an element, dtype, device type, device index,
# dimensions, sizes, strides.
_TEXT = '''"""Printed by stepwell: asks tensors where they lie (engine/pointers.py)."""

from stepwell.engine.kernels.cpu_intrinsics import ask, job_word, load_word, pointer_in, store_word


def kernel(job):
    handles, capsules, layouts, starts = job_word(job, 1), job_word(job, 2), job_word(job, 3), job_word(job, 4)
    addresses, found, answer = job_word(job, 5), job_word(job, 6), job_word(job, 7)
    strange = 0
    for k in range(job_word(job, 0)):
        handle = load_word(handles, k)
        if capsules != 0:
            handle = pointer_in(job_word(job, 8), handle)
        at = load_word(starts, k)
        result, failed = 0, 0
        for question in range(5):  # where it lies, then dtype, device type, device index, dimensions
            store_word(answer, 0, 0)
            failed += ask(job_word(job, 9 + question), handle, answer) != 0
            if question == 0:
                store_word(addresses, k, load_word(answer, 0))
            elif load_word(answer, 0) & 0xFFFFFFFF != load_word(layouts, at + question + 1) & 0xFFFFFFFF:
                result = 1
        if result == 0 and failed == 0:
            dimensions = load_word(layouts, at + 5)
            for question in range(2):  # sizes, strides
                failed += ask(job_word(job, 14 + question), handle, answer) != 0
                for d in range(dimensions if failed == 0 else 0):
                    if load_word(load_word(answer, 0), d) != load_word(layouts, at + 6 + question * dimensions + d):
                        result = 1
        if failed == 0:
            failed += ask(job_word(job, 16), handle, answer) != 0
            size = load_word(answer, 0)
            failed += ask(job_word(job, 17), handle, answer) != 0
            first = load_word(answer, 0) * load_word(layouts, at + 1)
            if result == 0 and load_word(layouts, at) > 0:
                if first + load_word(layouts, at) > size or load_word(addresses, k) == 0:
                    result = 2
        if failed != 0:
            result = 2
        if capsules != 0:
            ask(job_word(job, 18), handle, 0)
        store_word(found, k, result)
        strange += result != 0
    store_word(answer, 0, strange)
'''


class Pointers:
    """The current addresses of tensors with fixed layouts.

    Args:
        like: tensors with the dtypes, devices, shapes and strides that those to be read must have.
        tensors: what `read` looks at; they stay alive as long as this object. None for `read_these`.

    `addresses`, int64, and `found`, int64 (`SAME`, `OTHER_LAYOUT` or `OUT_OF_STORAGE`), have a number for each.
    """

    def __init__(self, like: Sequence[Tensor], tensors: Sequence[Tensor] = ()) -> None:
        self.count = len(like)
        self.tensors = list(tensors)
        self.addresses = np.zeros(self.count, dtype=np.int64)
        self.found = np.zeros(self.count, dtype=np.int64)
        self._seen: np.ndarray | None = None
        self._like = [layout_of(tensor) for tensor in like]
        self._library = _library()
        if self._library is None:
            return
        words = [_words(tensor, self._library) for tensor in like]
        self._layouts = np.array([number for layout in words for number in layout], dtype=np.int64)
        self._starts = np.cumsum([0, *map(len, words)])[:-1].astype(np.int64)
        self._answer = np.zeros(1, dtype=np.int64)
        self._job = np.zeros(9 + len(_QUESTIONS), dtype=np.int64)
        self._job[3:8] = [
            array.ctypes.data for array in (self._layouts, self._starts, self.addresses, self.found, self._answer)
        ]
        self._job[8:] = self._library.functions
        self._job_address = self._job.ctypes.data
        self._handles = _Handles(self.tensors, self._library)

    @property
    def is_compiled(self) -> bool:
        """Whether compiled code reads the addresses; kernels can then use `addresses` immediately."""
        return self._library is not None

    def read(self) -> bool:
        """Look at `tensors`. True if each has its layout and lies inside of its storage."""
        if self._library is None:
            return self._read_from_python(self.tensors)
        self._job[:3] = [self.count, self._handles.addresses.ctypes.data, 0]
        self._library.look(self._job_address)
        return not self._answer[0]

    def has_moved(self) -> bool:
        """Whether an address is another than when this was asked before; True for the first time."""
        if self._seen is not None and np.array_equal(self._seen, self.addresses):
            return False
        self._seen = self.addresses.copy()
        return True

    def read_these(self, tensors: Sequence[Tensor | None]) -> bool:
        """Look at other tensors than in the step before, such as gradients; None has the address 0."""
        if self._library is None:
            return self._read_from_python(tensors)
        present = list(range(self.count))
        given: list[Any] = list(tensors)
        if any(tensor is None for tensor in given):
            present = [k for k, tensor in enumerate(given) if tensor is not None]
            given = [given[k] for k in present]
            starts, addresses, found = (
                self._starts[present],
                np.zeros(len(given), np.int64),
                np.zeros(len(given), np.int64),
            )
        else:
            starts, addresses, found = self._starts, self.addresses, self.found
        capsules = self._library.allocate(given)
        handles = np.array(list(map(id, capsules)), dtype=np.int64)
        self._job[:3] = [len(given), handles.ctypes.data, 1]
        self._job[4:7] = [starts.ctypes.data, addresses.ctypes.data, found.ctypes.data]
        self._library.look(self._job_address)
        if addresses is not self.addresses:
            self._job[4:7] = [self._starts.ctypes.data, self.addresses.ctypes.data, self.found.ctypes.data]
            self.addresses[:], self.found[:] = 0, SAME
            self.addresses[present], self.found[present] = addresses, found
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


class _Handles:
    """What libtorch's C functions know tensors by; each keeps its tensor alive until this object goes."""

    def __init__(self, tensors: list[Tensor], library: _Library) -> None:
        self._library = library
        capsules = library.allocate(tensors)
        self.addresses = np.array([library.pointer(capsule, None) for capsule in capsules], dtype=np.int64)

    def __del__(self) -> None:
        for handle in getattr(self, "addresses", np.zeros(0, np.int64)).tolist():
            self._library.delete(handle)


class _Library:
    """libtorch's C functions, and the compiled loop that calls them."""

    def __init__(self) -> None:
        from stepwell.engine.kernels.compiled import compiled

        self.allocate = torch._C._aoti.unsafe_alloc_void_ptrs_from_tensors
        self.pointer = ctypes.pythonapi.PyCapsule_GetPointer
        self.pointer.restype, self.pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
        library = ctypes.CDLL(str(_path_of_libtorch()))
        functions = [getattr(library, name) for name in _QUESTIONS]
        self.delete = functions[-1]
        self.delete.argtypes = (ctypes.c_void_p,)
        of = [ctypes.cast(function, ctypes.c_void_p).value for function in (self.pointer, *functions)]
        self.functions = np.array(of, dtype=np.int64)
        # The lock of Python's interpreter is kept meanwhile: PyCapsule_GetPointer needs it.
        self._compiled = compiled(_TEXT)  # while this lives, so does its machine code
        self.look = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(self._compiled.address)
        self._kinds: dict[Any, Any] = {}

    def kind_of(self, tensor: Tensor) -> tuple[int, int, int]:
        """The numbers by which libtorch calls the dtype and the device of a tensor."""
        key = tensor.dtype, tensor.device
        if key not in self._kinds:
            questions = _QUESTIONS[1:4]
            self._kinds[key] = tuple(self.number(question, tensor) for question in questions)
        return self._kinds[key]

    def number(self, question: str, tensor: Tensor) -> int:
        """What libtorch answers to one question about a tensor."""
        (capsule,) = self.allocate([tensor])
        handle, answer = self.pointer(capsule, None), ctypes.c_int64(0)
        function = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p)(
            int(self.functions[1 + _QUESTIONS.index(question)])
        )
        failed = function(handle, ctypes.addressof(answer))
        self.delete(handle)
        if failed:
            raise RuntimeError(f"{question} failed")
        return answer.value


def _words(tensor: Tensor, library: _Library) -> list[int]:
    """The layout of a tensor as the compiled loop compares it."""
    return [reach_of(tensor), tensor.itemsize, *library.kind_of(tensor), tensor.dim(), *tensor.shape, *tensor.stride()]


def _path_of_libtorch() -> Path:
    folder = Path(torch.__file__).parent / "lib"
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib", "torch_cpu.dll"):
        if (folder / name).exists():
            return folder / name
    raise OSError(f"no libtorch_cpu in {folder}")


@cache
def _library() -> _Library | None:
    """libtorch's functions, or None where this build of torch does not have them, or answers another way."""
    try:
        library = _Library()
        probe = torch.arange(6.0)[1:5].view(2, 2).t()
        answers = [library.number(name, probe) for name in ("aoti_torch_get_data_ptr", "aoti_torch_get_dim")]
        offset = library.number("aoti_torch_get_storage_offset", probe)
        size = library.number("aoti_torch_get_storage_size", probe)
        expected = [probe.data_ptr(), 2, 1, 24]
        return library if [*answers, offset, size] == expected else None
    except (AttributeError, OSError, ImportError, RuntimeError, TypeError):
        return None
