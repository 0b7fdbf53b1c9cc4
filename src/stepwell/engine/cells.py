"""Numbers of one per tensor (the step count, Prodigy's d) side by side for a kernel, each also an entry of the state.

`optimizer.state[p]["step"]` is a view of one element. A user may give the entry other memory (`.data`, or one in
memory shared with other processes): then the entry stays what it is, and its number is fetched before an update and
brought back after it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepwell.engine.pointers import SAME, Pointers, lies_in_its_storage
from stepwell.errors import UsageError


class Cells:
    """The numbers `values`, one or several per tensor, with their entries in the state by place in `values`."""

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.inside: dict[int, tuple[str, Tensor]] = {}  # entries that are elements of `values`, with their names
        self.apart: dict[int, tuple[str, Tensor]] = {}  # entries that have memory of their own
        self._pointers: Pointers | None = None
        self._array: np.ndarray | None = None
        self._address = 0

    @property
    def array(self) -> Any:
        """`values` as NumPy's array where they are in the CPU's memory, which `share_memory_()` of an entry moves."""
        if self.values.device.type != "cpu":
            return self.values
        if self._array is None or self.values.data_ptr() != self._address:
            self._array, self._address = self.values.numpy(), self.values.data_ptr()
        return self._array

    def bind(self, place: int, state: Any, name: str, label: str, number: float) -> None:
        """Take `number` as that of one place, and show it in `state`."""
        flat = self.values.view(-1)
        flat[place] = number
        known = state.get(name)
        if isinstance(known, Tensor) and known.is_shared() and _is_cell(known, self.values):
            self.apart[place] = label, known  # other processes count with it
        else:
            entry = flat[place]
            dict.__setitem__(state, name, entry)
            self.inside[place] = label, entry
        self._pointers = None

    def fetch(self) -> None:
        """See which entries have other memory now, and read their numbers."""
        if self._pointers is None:
            entries = [entry for _, entry in self.inside.values()]
            self._places = np.array(list(self.inside), dtype=np.int64)
            self._pointers = Pointers(entries, entries)
        usual = self._pointers.read()
        expected = self.values.data_ptr() + self._places * self.values.itemsize
        if not usual or not np.array_equal(self._pointers.addresses, expected):
            moved = (self._pointers.addresses != expected) | (self._pointers.found != SAME)
            for place in self._places[moved].tolist():
                self.apart[place] = self.inside.pop(place)
            self._pointers = None
        flat = self.values.view(-1)
        for place, (label, entry) in self.apart.items():
            flat[place] = _number_in(label, entry)

    def bring_back(self) -> None:
        """Write the numbers to where their entries lie."""
        flat = self.values.view(-1)
        for place, (_, entry) in self.apart.items():
            entry.detach().fill_(flat[place].item())


def _number_in(label: str, entry: Tensor) -> float:
    """The number of an entry, or UsageError."""
    fits = entry.numel() == 1 and entry.layout == torch.strided and not entry.is_complex()
    number = float(entry) if fits and lies_in_its_storage(entry) else math.nan
    if not math.isfinite(number):
        raise UsageError(f"{label} is no longer one finite number (shape {tuple(entry.shape)}); put one back")
    return number


def _is_cell(entry: Tensor, values: Tensor) -> bool:
    return entry.numel() == 1 and entry.dtype == values.dtype and entry.device == values.device


def zeros(count: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Cells:
    """Cells that are all 0."""
    return Cells(torch.zeros(count, dtype=dtype, device=device))
