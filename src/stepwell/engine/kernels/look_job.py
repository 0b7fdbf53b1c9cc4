"""The job of the loop that asks tensors where they lie: what `engine/libtorch.py` writes and `look.py` reads."""

from __future__ import annotations

from enum import IntEnum


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
    FUNCTIONS = 11  # the first `Function`


class Function(IntEnum):
    """The place of each function in the job. Those from IS_DEFINED on are for gradients."""

    DATA_PTR, DTYPE, DEVICE_TYPE, DEVICE_INDEX, DIM, SIZES, STRIDES, STORAGE_SIZE, STORAGE_OFFSET = range(9)
    DELETE, POINTER_OF_CAPSULE, IS_DEFINED, ASSIGN, LAYOUT, IS_NEGATED, GRAD = range(9, 16)
