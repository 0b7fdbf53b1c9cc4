"""libtorch's C functions, through which one compiled loop asks tensors where they lie.

`aoti_torch_get_data_ptr` and its like are the interface that torch keeps stable for code compiled outside of it. A
question to a tensor costs 2 ns there, and 80 ns as an attribute in Python.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Kind(IntEnum):
    """What the compiled loop is given, or is to do. An at::Tensor is one word, the address of a TensorImpl, and a
    handle is the address of an at::Tensor."""

    TENSORS = 0  # an at::Tensor each
    CAPSULES = 1  # a PyCapsule of a handle each, which is to be deleted
    PARAMETERS = 2  # an at::Tensor each, whose gradient is looked at, and held
    RELEASE = 3  # let these gradients go


class Word(IntEnum):
    """The words of the job that the compiled loop is told: addresses, but for the counts and numbers."""

    COUNT = 0  # tensors
    KIND = 1
    GIVEN = 2  # a word for each tensor, see `Kind`
    LAYOUTS = 3
    STARTS = 4  # where the layout of each tensor begins
    ADDRESSES = 5  # written
    FOUND = 6  # written: 0, 1 or 2, see `pointers.py`; 3 for a parameter without a gradient
    ANSWER = 7  # a word to answer in; at last, for how many tensors 1 or 2 was found
    HOLDERS = 8  # an at::Tensor for each gradient, which holds it until it is released
    NONE = 9  # the handle of an at::Tensor that is none
    STRIDED = 10  # how libtorch calls the layout of ordinary tensors
    FUNCTIONS = 11  # the first of `_FUNCTIONS`


# In the order in which the loop has them.
_FUNCTIONS = (
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
    "PyCapsule_GetPointer",
)
# For gradients: the last two are functions of C++ which torch's headers declare, by their names in the library.
_OF_GRADIENTS = (
    "aoti_torch_is_defined",
    "aoti_torch_assign_tensors",
    "aoti_torch_get_layout",
    "_ZN2at6native6is_negERKNS_6TensorE",  # bool at::native::is_neg(const at::Tensor&)
    "_ZNK3c1010TensorImpl4gradEv",  # const at::Tensor& c10::TensorImpl::grad() const
)
_IMPL_BYTES = 4096  # more than a TensorImpl has

# A layout: bytes from the first element to past the last, bytes of an element, dtype, device type, device index,
# dimensions, sizes, strides.
#
# After a kernel the caches hold weights and no TensorImpl, so the lines of the tensors that come next are asked for.
# Where the third word of a TensorImpl is no longer its storage, the second request is of no use, and harmless.
_TEXT = f'''"""Printed by stepwell: asks tensors where they lie (engine/libtorch.py)."""

from numba import njit

from stepwell.engine.kernels.cpu_intrinsics import (
    ask, fetch_soon, job_word, load_word, pointer_in, pointer_of, store_word, truth_of
)

AHEAD = 8


@njit
def fetch_tensor(impl):
    for line in range(4):
        fetch_soon(impl + 64 * line)


@njit
def function(job, number):
    return job_word(job, {Word.FUNCTIONS} + number)


@njit
def answer_of(job, number, handle):
    answer = job_word(job, {Word.ANSWER})
    store_word(answer, 0, 0)
    failed = ask(function(job, number), handle, answer) != 0
    return failed, load_word(answer, 0)


@njit
def same_number(a, b):
    return a & 0xFFFFFFFF == b & 0xFFFFFFFF


@njit
def look(job, k, handle):
    layouts, at = job_word(job, {Word.LAYOUTS}), load_word(job_word(job, {Word.STARTS}), k)
    failed, address = answer_of(job, 0, handle)
    store_word(job_word(job, {Word.ADDRESSES}), k, address)
    result = 0
    for question in range(1, 5):  # dtype, device type, device index, dimensions
        fails, number = answer_of(job, question, handle)
        failed |= fails
        if not same_number(number, load_word(layouts, at + question + 1)):
            result = 1
    if result == 0 and not failed:
        dimensions = load_word(layouts, at + 5)
        for question in range(2):  # sizes, strides
            fails, numbers = answer_of(job, 5 + question, handle)
            failed |= fails
            for d in range(0 if fails else dimensions):
                if load_word(numbers, d) != load_word(layouts, at + 6 + question * dimensions + d):
                    result = 1
    if not failed:
        fails, size = answer_of(job, 7, handle)
        failed |= fails
        fails, offset = answer_of(job, 8, handle)
        failed |= fails
        end = offset * load_word(layouts, at + 1) + load_word(layouts, at)
        if result == 0 and load_word(layouts, at) > 0 and (end > size or address == 0):
            result = 2
    return 2 if failed else result


@njit
def look_at_gradient(job, k, given):
    # given: the handle that the parameter has
    holder = job_word(job, {Word.HOLDERS}) + 8 * k
    ask(function(job, 12), given, holder)
    failed, layout = answer_of(job, 13, holder)
    # Some layouts have no address that could be asked for; a negated view has numbers of the other sign.
    if failed or not same_number(layout, job_word(job, {Word.STRIDED})) or truth_of(function(job, 14), holder):
        return 1
    return look(job, k, holder)


def kernel(job):
    kind, count, given = job_word(job, {Word.KIND}), job_word(job, {Word.COUNT}), job_word(job, {Word.GIVEN})
    addresses, found = job_word(job, {Word.ADDRESSES}), job_word(job, {Word.FOUND})
    holders, none = job_word(job, {Word.HOLDERS}), job_word(job, {Word.NONE})
    last, strange = count - 1, 0
    if kind == {Kind.PARAMETERS}:
        for k in range(count):
            fetch_tensor(load_word(given, min(k + AHEAD, last)))
            handle = pointer_of(function(job, 15), load_word(given, k))
            failed, is_defined = answer_of(job, 11, handle)
            store_word(found, k, handle if is_defined & 0xFF != 0 else none)
    for k in range(count):
        later, soon = min(k + AHEAD, last), min(k + AHEAD // 2, last)
        result = 0
        if kind == {Kind.TENSORS}:
            fetch_tensor(load_word(given, later))
            fetch_soon(load_word(load_word(given, soon), 2))
            result = look(job, k, given + 8 * k)
        elif kind == {Kind.CAPSULES}:
            handle = pointer_in(function(job, 10), load_word(given, k))
            result = look(job, k, handle)
            ask(function(job, 9), handle, 0)
        elif kind == {Kind.PARAMETERS}:
            fetch_tensor(load_word(load_word(found, later), 0))
            fetch_soon(load_word(load_word(load_word(found, soon), 0), 2))
            if load_word(found, k) == none:
                store_word(addresses, k, 0)
                result = 3
            else:
                result = look_at_gradient(job, k, load_word(found, k))
        else:
            fetch_soon(load_word(holders, later))
            ask(function(job, 12), none, holders + 8 * k)
        store_word(found, k, result)
        strange += result == 1 or result == 2
    store_word(job_word(job, {Word.ANSWER}), 0, strange)
'''


class Library:
    """The functions, and the compiled loop that calls them.

    Attributes:
        functions: their addresses, int64, for the job.
        looks_at_gradients: whether this build of torch has those for gradients, too.
        strided: libtorch's number of the layout of ordinary tensors; 0 where it does not look at gradients.
    """

    def __init__(self) -> None:
        from stepwell.engine.kernels.compiled import compiled

        self.allocate = torch._C._aoti.unsafe_alloc_void_ptrs_from_tensors
        self.pointer = ctypes.pythonapi.PyCapsule_GetPointer
        self.pointer.restype, self.pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
        self._library = ctypes.CDLL(str(_path_of_libtorch()))
        found = [*map(self._address, _FUNCTIONS[:-1]), ctypes.cast(self.pointer, ctypes.c_void_p).value]
        self.looks_at_gradients = all(hasattr(self._library, name) for name in _OF_GRADIENTS) and self._refers()
        if self.looks_at_gradients:
            found += map(self._address, _OF_GRADIENTS)
        self.functions = np.array(found, dtype=np.int64)
        self.delete = self._library.aoti_torch_delete_tensor_object
        self.delete.argtypes = (ctypes.c_void_p,)
        # The lock of Python's interpreter is kept meanwhile: PyCapsule_GetPointer needs it.
        self._compiled = compiled(_TEXT)  # while this lives, so does its machine code
        self.look = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(self._compiled.address)
        self._kinds: dict[Any, Any] = {}
        self.strided = self.number("aoti_torch_get_layout", torch.empty(0)) if self.looks_at_gradients else 0

    def kind_of(self, tensor: Tensor) -> tuple[int, int, int]:
        """The numbers by which libtorch calls the dtype and the device of a tensor."""
        key = tensor.dtype, tensor.device
        if key not in self._kinds:
            self._kinds[key] = tuple(self.number(question, tensor) for question in _FUNCTIONS[1:4])
        return self._kinds[key]

    def number(self, question: str, tensor: Tensor) -> int:
        """What libtorch answers to one question about a tensor."""
        (capsule,) = self.allocate([tensor])
        handle, answer = self.pointer(capsule, None), ctypes.c_int64(0)
        function = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p)(self._address(question))
        failed = function(handle, ctypes.addressof(answer))
        self.delete(handle)
        if failed:
            raise RuntimeError(f"{question} failed")
        return answer.value

    def no_tensor(self) -> Handles:
        """A handle of no tensor."""
        handle = ctypes.c_void_p()
        self._library.aoti_torch_new_uninitialized_tensor(ctypes.byref(handle))
        return Handles(self, [handle.value or 0])

    def _address(self, name: str) -> int:
        return ctypes.cast(getattr(self._library, name), ctypes.c_void_p).value or 0

    def _refers(self) -> bool:
        """Whether `grad()` returns a reference, as it does today.

        It is called for a TensorImpl that is all zeros, which has no gradient. If it ever returns a tensor by its
        value, it takes this address for the place of the result, and returns the address.
        """
        nothing = ctypes.create_string_buffer(_IMPL_BYTES)
        grad: Callable[..., int | None] = self._library[_OF_GRADIENTS[-1]]
        grad.restype, grad.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_void_p)  # type: ignore[attr-defined]
        at = ctypes.addressof(nothing)
        return grad(at, at) not in (None, at) and nothing.raw == bytes(_IMPL_BYTES)


class Handles:
    """What libtorch's C functions know tensors by; each keeps its tensor alive until this object goes.

    Attributes:
        addresses: the handles, int64.
        tensors: the at::Tensor that each is the address of, one word, int64. A function that takes a handle takes the
            address of such a word as well.
    """

    def __init__(self, library: Library, addresses: Sequence[int]) -> None:
        self._library = library
        self.addresses = np.array(addresses, dtype=np.int64)
        words = [ctypes.c_int64.from_address(handle).value for handle in self.addresses.tolist()]
        self.tensors = np.array(words, dtype=np.int64)

    @classmethod
    def of(cls, library: Library, tensors: list[Tensor]) -> Handles:
        """Those of tensors."""
        return cls(library, [library.pointer(capsule, None) for capsule in library.allocate(tensors)])

    def __del__(self) -> None:
        for handle in getattr(self, "addresses", np.zeros(0, np.int64)).tolist():
            self._library.delete(handle)


def _path_of_libtorch() -> Path:
    folder = Path(torch.__file__).parent / "lib"
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib", "torch_cpu.dll"):
        if (folder / name).exists():
            return folder / name
    raise OSError(f"no libtorch_cpu in {folder}")


@cache
def library() -> Library | None:
    """libtorch's functions, or None where this build of torch does not have them, or answers another way."""
    try:
        found = Library()
        probe = torch.arange(6.0)[1:5].view(2, 2).t()
        answers = [found.number(name, probe) for name in ("aoti_torch_get_data_ptr", "aoti_torch_get_dim")]
        offset = found.number("aoti_torch_get_storage_offset", probe)
        size = found.number("aoti_torch_get_storage_size", probe)
        expected = [probe.data_ptr(), 2, 1, 24]
        return found if [*answers, offset, size] == expected else None
    except (AttributeError, OSError, ImportError, RuntimeError, TypeError):
        return None
