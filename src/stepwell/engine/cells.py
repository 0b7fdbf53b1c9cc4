"""Numbers of which each tensor has one (the step count, Prodigy's d): entries of the state, and an array for kernels.

Each entry, such as `optimizer.state[p]["step"]`, is a separate tensor, so that changes by a user (`.data`, shared
memory, a resized storage) affect no other entry. On the CPU, one compiled loop reads the numbers from their entries
before an update and writes them back afterwards. On a GPU that would need a kernel launch for each number, so there the
entries are elements of one tensor, which the kernel reads.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepwell.engine.kernels import threads
from stepwell.engine.pointers import SAME, Pointers, lies_in_its_storage
from stepwell.errors import UsageError

# Words of the job: 0 numbers, 1 their addresses, 2 their places in the array, 3 the array, 4 whether they are brought
# back, 5 bytes of each.
_TEXT = '''"""Printed by stepwell: fetches numbers from where they lie, or brings them back (engine/cells.py)."""

from stepwell.engine.kernels.cpu_intrinsics import RAW_LOAD, RAW_STORE, job_word, load_word

load_32, store_32 = RAW_LOAD["fp32", 0], RAW_STORE["fp32", 1]
load_64, store_64 = RAW_LOAD["fp64", 0], RAW_STORE["fp64", 1]


def kernel(job):
    addresses, places, array = job_word(job, 1), job_word(job, 2), job_word(job, 3)
    back, narrow = job_word(job, 4) != 0, job_word(job, 5) == 4
    for k in range(job_word(job, 0)):
        address, place = load_word(addresses, k), load_word(places, k)
        if narrow and back:
            store_32(address, 0, load_32(array, place))
        elif narrow:
            store_32(array, place, load_32(address, 0))
        elif back:
            store_64(address, 0, load_64(array, place))
        else:
            store_64(array, place, load_64(address, 0))
'''


class Cells:
    """The numbers `values`, one or several per tensor, with their entries in the state by index in `values`."""

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.entries: dict[int, tuple[str, Tensor]] = {}  # by place, with words to call them by
        self.strange: dict[int, tuple[str, Tensor]] = {}  # those of another dtype or device now
        self._in_values = values.device.type != "cpu"
        self._pointers: Pointers | None = None

    @property
    def array(self) -> Any:
        """`values` as NumPy's array where they are in the CPU's memory."""
        return self.values if self._in_values else self.values.numpy()

    def bind(self, place: int, state: Any, name: str, label: str, number: float) -> None:
        """Set the number at one index, and show it in `state`: in the existing entry, if possible."""
        flat = self.values.view(-1)
        flat[place] = number
        known = state.get(name)
        if not self._in_values and isinstance(known, Tensor) and _is_cell(known, self.values):
            entry = known  # other processes may count with it
        else:
            entry = flat[place] if self._in_values else flat[place].clone()
            dict.__setitem__(state, name, entry)
        self.entries[place] = label, entry
        self._pointers = None

    def fetch(self) -> None:
        """Read the numbers of all entries."""
        if self._in_values:
            self._fetch_moved()
            return
        pointers = self._pointers = self._pointers or self._held()
        if not pointers.read():
            for k in np.flatnonzero(pointers.found != SAME).tolist():
                place = self._order[k]
                self.strange[place] = self.entries.pop(place)
            pointers = self._pointers = self._held()
            pointers.read()
        self._copy(back=False)
        self._fetch_strange()

    def bring_back(self) -> None:
        """Write the numbers to their entries."""
        if not self._in_values and self._pointers is not None:
            self._copy(back=True)
        for place, (_, entry) in self.strange.items():
            entry.detach().fill_(self.values.view(-1)[place].item())

    def _held(self) -> Pointers:
        self._order = list(self.entries)
        self._places = np.array(self._order, dtype=np.int64)
        entries = [entry for _, entry in self.entries.values()]
        pointers = Pointers(entries, entries)
        places, array = self._places.ctypes.data, self.values.data_ptr()
        self._job = np.array(
            [len(entries), pointers.addresses.ctypes.data, places, array, 0, self.values.itemsize], dtype=np.int64
        )
        return pointers

    def _copy(self, back: bool) -> None:
        assert self._pointers is not None
        if self._pointers.is_compiled:
            self._job[4] = back
            threads.Function(_copying().address)(self._job.ctypes.data)
            return
        flat = self.values.view(-1)
        for place, (_, entry) in self.entries.items():
            if back:
                entry.detach().fill_(flat[place].item())
            else:
                flat[place] = float(entry)

    def _fetch_moved(self) -> None:
        """On a GPU: read entries that are no longer elements of `values` one by one, which waits for the device."""
        for place, (label, entry) in list(self.entries.items()):
            if entry.data_ptr() != self.values.data_ptr() + place * self.values.itemsize:
                self.strange[place] = label, self.entries.pop(place)[1]
        self._fetch_strange()

    def _fetch_strange(self) -> None:
        flat = self.values.view(-1)
        for place, (label, entry) in self.strange.items():
            flat[place] = _number_in(label, entry)


def _number_in(label: str, entry: Tensor) -> float:
    """The number of an entry, or UsageError."""
    fits = entry.numel() == 1 and entry.layout == torch.strided and not entry.is_complex()
    if not fits or not lies_in_its_storage(entry):
        raise UsageError(
            f"{label} is no longer one number (shape {tuple(entry.shape)}); put a tensor of one number back"
        )
    return float(entry)


def _is_cell(entry: Tensor, values: Tensor) -> bool:
    usual = type(entry) is Tensor and entry.numel() == 1 and entry.layout == torch.strided
    return usual and entry.dtype == values.dtype and entry.device == values.device and lies_in_its_storage(entry)


@cache
def _copying() -> Any:
    from stepwell.engine.kernels.compiled import compiled

    return compiled(_TEXT)


def zeros(count: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Cells:
    """Cells that are all 0."""
    return Cells(torch.zeros(count, dtype=dtype, device=device))
