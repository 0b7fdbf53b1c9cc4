"""The addresses of gradients, which are other tensors in each step.

The gradient of a parameter as an object of Python costs 50 ns, and 100 ns more where a backward pass has just made it.
So compiled code asks libtorch for it (`c10::TensorImpl::grad`), where parameters and gradients are ordinary; gradients
that somebody has as objects (parts of a DTensor's) are looked at as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from operator import attrgetter, is_
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepwell.engine.kernels.look_job import Kind, Word
from stepwell.engine.libtorch import Handles
from stepwell.engine.pointers import SAME, Pointers, has_memory

_ABSENT = 3  # what is found of a parameter without a gradient
_layout_of = attrgetter("layout")


class GradientPointers(Pointers):
    """The current addresses of the gradients of some parameters, as far as they lie in memory as their parameters do.

    Args:
        owners: the parameters.
        tensors: what is updated of them: themselves, or the local parts of DTensors.

    Attributes:
        is_dense: for each tensor whether it has no gaps, so that a gradient of its layout is what a backward pass
            makes.
        addresses: those of the gradients, int64; 0 without a gradient.
    """

    def __init__(self, owners: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
        tensors = [tensor.detach() for tensor in tensors]
        # What memory holds of a negated view (the imaginary part of a conjugate) has the other sign.
        self.is_dense = [torch.empty_like(t, device="meta").stride() == t.stride() and not t.is_neg() for t in tensors]
        self._all_dense = all(self.is_dense)
        dense = zip(tensors, self.is_dense, strict=True)
        super().__init__([tensor if is_dense else torch.empty_like(tensor) for tensor, is_dense in dense], owners)
        self._can_take = (
            self._library is not None
            and self._library.looks_at_gradients
            and self._all_dense
            and all(map(has_memory, owners))
            and all(map(_is_plain, owners))
        )
        self._none: Handles | None = None
        self._holds = False

    def take(self) -> np.ndarray | None:
        """Look up the gradients, and keep them alive until `release`.

        Returns whether each parameter has one, bool. None where a gradient is unusual (sparse, of another dtype or
        layout), or parameters are: then nothing is kept.
        """
        if not self._can_take:
            return None
        library, job = self._library, self._job
        assert library is not None
        if self._none is None:
            self._none = library.no_tensor()
            self._holders = np.repeat(self._none.tensors, self.count)
            none = self._none.addresses[0]
            job[[Word.HOLDERS, Word.NONE, Word.STRIDED]] = self._holders.ctypes.data, none, library.strided
        self._holds = True
        self._look(Kind.PARAMETERS, self.count, self._tensors_at)
        if self._answer[0]:
            self.release()
            return None
        return self.found != _ABSENT

    def release(self) -> None:
        """Let go of the gradients."""
        if self._holds:
            self._look(Kind.RELEASE, self.count, self._tensors_at)
            self._holds = False

    def __del__(self) -> None:
        if hasattr(self, "_holds"):
            self.release()

    def read_these(self, gradients: Sequence[Tensor | None]) -> bool:
        """Look at gradients that the caller has. True if all lie in memory as their parameters do."""
        present = [gradient for gradient in gradients if gradient is not None]
        usual = self._all_dense and all(map(is_, map(_layout_of, present), repeat(torch.strided)))
        return usual and self._read_these(gradients, present) and not any(map(Tensor.is_neg, present))

    def _read_these(self, gradients: Sequence[Tensor | None], present: list[Tensor]) -> bool:
        if self._library is None:
            return self._read_from_python(gradients)
        job = self._job
        capsules = self._library.allocate(present)
        handles = np.array(list(map(id, capsules)), dtype=np.int64)
        if len(present) == self.count:
            return self._look(Kind.CAPSULES, self.count, handles.ctypes.data)
        places = [place for place, gradient in enumerate(gradients) if gradient is not None]
        starts, addresses = self._starts[places], np.zeros(len(places), np.int64)
        found = np.zeros(len(places), np.int64)
        own = job[Word.STARTS : Word.ANSWER].copy()
        job[Word.STARTS : Word.ANSWER] = [starts.ctypes.data, addresses.ctypes.data, found.ctypes.data]
        result = self._look(Kind.CAPSULES, len(places), handles.ctypes.data)
        job[Word.STARTS : Word.ANSWER] = own
        self.addresses[:], self.found[:] = 0, SAME
        self.addresses[places], self.found[places] = addresses, found
        return result


def _is_plain(owner: Tensor) -> bool:
    """Whether the `grad` of a parameter is torch's, and no code of a subclass is asked for it."""
    kind, usual = type(owner), torch._C._disabled_torch_function_impl  # that of Parameter
    asks_nobody = kind.__torch_function__ is usual or _function_of(kind) == _function_of(Tensor)
    return kind.grad is Tensor.grad and asks_nobody


def _function_of(kind: Any) -> Any:
    """The function behind the class method `__torch_function__`."""
    return getattr(kind.__torch_function__, "__func__", None)
