"""The job: the arguments of a CPU kernel, as words. `cpu.py` writes them, printed kernels read them."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Word(IntEnum):
    """The words of a job: addresses, except for the counts and the factor."""

    TAKEN = 0  # how many spans threads have taken; `next_span` counts the first word
    SPANS = 1  # how many spans there are
    SPAN_TABLE = 2
    PIECES = 3
    ADDRESSES = 4  # the table of addresses: a row per tensor
    STEPS = 5  # the count of the update that is being made, float32 (tensors,)
    SALTS = 6
    ROWS = 7  # the numbers of the groups, float64 (groups, names)
    FACTOR = 8  # what gradients are multiplied by; a float64 itself, no address
    TOTALS = 9  # what the first pass found, float64 (tensors, sums)
    ELEMENTS = 10  # of each tensor, over the mesh
    PARTIALS = 11  # where the first pass writes its sums, float64 (pieces, sums)
    NUMBERS_BEFORE = 12  # slots of one number, float64 (tensors, slots), before the update
    NUMBERS = 13  # the same, after


class Job:
    """The words of one launch."""

    def __init__(self) -> None:
        self._words = np.zeros(len(Word), dtype=np.int64)
        self._numbers = self._words.view(np.float64)
        self.address = self._words.ctypes.data

    def __getitem__(self, word: Word) -> int:
        return int(self._words[word])

    def __setitem__(self, word: Word, value: int) -> None:
        self._words[word] = value

    def set_factor(self, value: float) -> None:
        """The factor of the gradients, the one word that is a float64."""
        self._numbers[Word.FACTOR] = value


class Piece(IntEnum):
    """The columns of the table of pieces: what one turn of a kernel updates, elements of one tensor that lie side by
    side in memory."""

    TENSOR = 0
    FIRST = 1  # element
    SIZE = 2  # elements
    GROUP = 3
    GRADIENT = 4  # the first element in the gradient, which row-sparse ones have elsewhere
    PLACE = 5  # that of the first element in the whole tensor, for random bits
    BLOCKS_INT8 = 6  # blocks of int8 codes before the piece
    BLOCKS_INT4 = 7
    BYTES_INT4 = 8  # bytes of int4 codes before the piece
