"""libtorch's C functions, through which one compiled loop asks tensors where they lie.

`aoti_torch_get_data_ptr` and its like are the interface that torch keeps stable for code compiled outside of it. A
question to a tensor costs 2 ns there, and 80 ns as an attribute in Python.
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

from stepwell.engine.kernels.look_job import Function

_NAMES = {
    Function.DATA_PTR: "aoti_torch_get_data_ptr",
    Function.DTYPE: "aoti_torch_get_dtype",
    Function.DEVICE_TYPE: "aoti_torch_get_device_type",
    Function.DEVICE_INDEX: "aoti_torch_get_device_index",
    Function.DIM: "aoti_torch_get_dim",
    Function.SIZES: "aoti_torch_get_sizes",
    Function.STRIDES: "aoti_torch_get_strides",
    Function.STORAGE_SIZE: "aoti_torch_get_storage_size",
    Function.STORAGE_OFFSET: "aoti_torch_get_storage_offset",
    Function.DELETE: "aoti_torch_delete_tensor_object",
    Function.IS_DEFINED: "aoti_torch_is_defined",
    Function.ASSIGN: "aoti_torch_assign_tensors",
    Function.LAYOUT: "aoti_torch_get_layout",
    # Functions of C++ that torch's headers declare: bool at::native::is_neg(const at::Tensor&) and
    # const at::Tensor& c10::TensorImpl::grad() const.
    Function.IS_NEGATED: "_ZN2at6native6is_negERKNS_6TensorE",
    Function.GRAD: "_ZNK3c1010TensorImpl4gradEv",
}
_OF_KIND = Function.DTYPE, Function.DEVICE_TYPE, Function.DEVICE_INDEX
_IMPL_BYTES = 4096  # more than a TensorImpl has

# A layout: bytes from the first element to past the last, bytes of an element, dtype, device type, device index,
# dimensions, sizes, strides.
_TEXT = '''"""Printed by stepwell: asks tensors where they lie (engine/libtorch.py)."""

from stepwell.engine.kernels.look import look


def kernel(job):
    look(job)
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
        self.looks_at_gradients = self._has_gradients()
        found = {which: self._address(name) for which, name in _NAMES.items() if self._has(which)}
        found[Function.POINTER_OF_CAPSULE] = ctypes.cast(self.pointer, ctypes.c_void_p).value or 0
        self.functions = np.array([found.get(which, 0) for which in Function], dtype=np.int64)
        self.delete = self._library.aoti_torch_delete_tensor_object
        self.delete.argtypes = (ctypes.c_void_p,)
        # The lock of Python's interpreter is kept meanwhile: PyCapsule_GetPointer needs it.
        self._compiled = compiled(_TEXT)  # while this lives, so does its machine code
        self.look = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(self._compiled.address)
        self._kinds: dict[Any, Any] = {}
        self.strided = self.number(Function.LAYOUT, torch.empty(0)) if self.looks_at_gradients else 0

    def kind_of(self, tensor: Tensor) -> tuple[int, int, int]:
        """The numbers by which libtorch calls the dtype and the device of a tensor."""
        key = tensor.dtype, tensor.device
        if key not in self._kinds:
            self._kinds[key] = tuple(self.number(question, tensor) for question in _OF_KIND)
        return self._kinds[key]

    def number(self, question: Function, tensor: Tensor) -> int:
        """What libtorch answers to one question about a tensor."""
        (capsule,) = self.allocate([tensor])
        handle, answer = self.pointer(capsule, None), ctypes.c_int64(0)
        function = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p)(self._address(_NAMES[question]))
        failed = function(handle, ctypes.addressof(answer))
        self.delete(handle)
        if failed:
            raise RuntimeError(f"{_NAMES[question]} failed")
        return answer.value

    def no_tensor(self) -> Handles:
        """A handle of no tensor."""
        handle = ctypes.c_void_p()
        self._library.aoti_torch_new_uninitialized_tensor(ctypes.byref(handle))
        return Handles(self, [handle.value or 0])

    def _address(self, name: str) -> int:
        return ctypes.cast(getattr(self._library, name), ctypes.c_void_p).value or 0

    def _has(self, which: Function) -> bool:
        return self.looks_at_gradients or which < Function.IS_DEFINED

    def _has_gradients(self) -> bool:
        """Whether this torch has all functions, and `grad()` returns a reference, as it does today.

        It is called for a TensorImpl that is all zeros, which has no gradient. If it ever returns a tensor by its
        value, it takes this address for the place of the result, and returns the address.
        """
        if not all(hasattr(self._library, name) for name in _NAMES.values()):
            return False
        nothing = ctypes.create_string_buffer(_IMPL_BYTES)
        grad = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)(self._address(_NAMES[Function.GRAD]))
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
        questions = Function.DATA_PTR, Function.DIM, Function.STORAGE_OFFSET, Function.STORAGE_SIZE
        answers = [found.number(question, probe) for question in questions]
        return found if answers == [probe.data_ptr(), 2, 1, 24] else None
    except (AttributeError, OSError, ImportError, RuntimeError, TypeError):
        return None
