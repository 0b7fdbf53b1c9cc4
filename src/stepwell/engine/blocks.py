"""Codes of 8 and 4 bits, relative to a scale of their block.

An average that is read, changed a little and stored again at every step goes wrong in two ways. Rounded to the nearest,
a change below half a code is lost, and the average stands still. Rounded stochastically, what is stored is right in the
mean, but the rounding of the last 1 / (1 - beta) steps adds up. Codes are made for the second:

    y    = |x| / scale, in [0, 1]
    code = N * root(y), rounded up or down so that the mean of y is right; root is the fourth root in int8 and for
           unsigned int4 (second moments), whose bits are those of a float32 shifted by two: straight lines from one
           power of two to the next, exact both ways, without arithmetic that backends could round differently

Near the largest of a block codes are 1.6 % (255 of them) or 3 % (127) apart, far below further, down to 2**-32; zero is
a code, and an unsigned number is never rounded to it unless it is zero: it is divided by. The scale is a power of two,
so the codes of one step are, but for the least, codes of the next one, too, and a number that has not moved is not
rounded again. The error of a second moment then does not grow with its memory: its root is 4.1 % off at beta2 = 0.999
and 4.3 % at 0.9999 (root mean square of 4,096 alike elements; 4.7 and 5.4 % where gradients in a block differ by a
factor of e; int4 24 and 21 %).

Signed int4 has too few codes for that: its momentum would have a cosine of 0.87 to 0.93 with the exact one at beta 0.9.
It is dithered instead, with half of the error: scale is the largest, and

    code = floor(7 * sign(x) * sqrt(y) + u),   back: (code + 1/2 - u) / 7

with u in [0, 1) made of the bits of the scale and the place in the block, so the reader knows it. One of the 16 codes
is zero. Where a block has none, all are used, with 7.5 for 7 and u - 1/2 for u; the last bit of the scale says so. The
cosine is 0.96.

What is below that is kept wider (`slot_format`): the noise of a momentum of memory 1 / (1 - beta) is that of one step
times the root of half of the memory. bench/formats.py prints all these figures.

A few elements of a block (1 in 64) that are 2**20 times larger than all others (2**40 for second moments), or not
finite, do not count for its scale, and are stored as the largest number it has. One gradient of 1e30 costs one element,
as in float32, and not the block.

Blocks end with the rows of a tensor (`Lines`), so a part of its rows, in another process, has the codes that the whole
has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stepwell.engine.randomness import mix_upper

ONE = 0x3F800000  # the bits of float32's 1

TINY, HUGE = 0x00800000, 253 << 23  # those of the least and the largest scale, whose inverses are normal numbers


FRACTION = 27  # bits of a dithered place behind its point: with 4 of a code, and a sign, it is a number of 32

SHORTEST = 64  # elements of a row that has blocks to itself; a scale costs too much of a shorter one


@dataclass(frozen=True)
class Lines:
    """How blocks lie in a tensor: it is cut into lines of `length` elements, in the order of memory, and the last block
    of each line may be shorter. Codes are (count, `code_bytes`), scales (count, `blocks`)."""

    count: int
    length: int


def lines_of(shape: Sequence[int]) -> Lines:
    """The rows of a tensor, or the whole tensor as one line where its rows are short."""
    length = math.prod(shape[1:])
    return Lines(shape[0], length) if len(shape) > 1 and length >= SHORTEST else Lines(1, math.prod(shape))


@dataclass(frozen=True)
class Blockwise:
    """Codes of `bits` bits relative to a scale of each block of `block` elements (the top of this file).

    Args:
        shift: 1 for codes by the square root, 2 by the fourth root.
        dithered: moved by a number that the scale decides, instead of rounded stochastically.
        spread: of a few elements that are 2**spread times larger than all others, a block does not take its scale.
    """

    bits: int
    signed: bool
    block: int
    shift: int
    dithered: bool = False
    spread: int = 20

    @property
    def count(self) -> int:
        """N: the codes of magnitudes, with zero."""
        return 1 << (self.bits - self.signed)

    @property
    def offset(self) -> int:
        """What the shifted bits of a float32 lack to be those of its root."""
        return ONE - (ONE >> self.shift)

    @property
    def room(self) -> int:
        """Added to the bits of the largest, so that what is above the last code gets the next power of two."""
        return 1 << (23 + self.shift - (self.bits - self.signed) + 1)

    @property
    def few(self) -> int:
        return self.block // 64

    def blocks(self, length: int) -> int:
        """The blocks of a line."""
        return -(-length // self.block)

    def code_bytes(self, length: int) -> int:
        """Those of a line; of an odd one, int4 has half a byte more."""
        return length if self.bits == 8 else -(-length // 2)

    def scales(self, rows: Tensor) -> Tensor:
        """The scale of each row; 0 where all are zero (or below the normal numbers)."""
        bits = rows.abs().view(torch.int32)
        bits = torch.where(bits < 0x7F800000, bits, 0)
        largest = bits.amax(dim=1)
        far = bits > (largest - (self.spread << 23)).clamp(min=0)[:, None]
        others = torch.where(far, 0, bits).amax(dim=1)
        outliers = (far | ~rows.isfinite()).sum(dim=1)
        top = torch.where((others > 0) & (outliers <= self.few), others, largest)
        if self.dithered:
            scale = (top.clamp(max=HUGE) & ~1) | (rows != 0).all(dim=1).to(torch.int32)
        else:
            scale = ((top + self.room) & 0x7F800000).clamp(max=HUGE - 0x00800000) + 0x00800000
        return torch.where(top >= TINY, scale, 0).to(torch.int32).view(torch.float32)

    def could_be(self, scales: Tensor) -> bool:
        """Whether these are scales of such codes: those of other codes (of an older version) would be read as these."""
        bits = scales.to(torch.float32).view(torch.int32)
        return self.dithered or bool(((bits & 0x7FFFFF) == 0).all())

    def encode(self, values: Tensor, random: Tensor | None = None, lines: Lines | None = None) -> tuple[Tensor, Tensor]:
        """Flat float32 values as (codes, uint8 (lines, bytes); scales, float32 (lines, blocks)); one line by default.

        `random` has 16 random bits per element; without it, numbers are rounded to the nearest code.
        """
        lines = lines or Lines(1, values.numel())
        rows = self._rows(values, lines)
        scale = self.scales(rows)
        inverse = torch.where(scale > 0, 1 / scale, 0.0)
        y = rows.abs() * inverse[:, None]
        y = torch.where(y < 1, y, 1.0)  # also where it is not a number
        root = ((y.view(torch.int32) >> self.shift) + self.offset).view(torch.float32)
        if self.dithered:
            full, u = _is_full(scale)[:, None], self._dither(scale)
            size = torch.where(full, 7.5, 7.0) * 2.0**FRACTION
            middle = torch.where(full, 15 << FRACTION - 1, 16 << FRACTION - 1).to(torch.int32)
            moved = (torch.where(rows.signbit(), -root, root) * size).to(torch.int32)
            codes = (moved + u + middle) >> FRACTION
            codes = torch.where((rows == 0) & ~full, 0, codes)
        else:
            half = torch.full_like(rows, 2.0**15)
            added = half if random is None else self._rows(random.to(torch.float32), lines)
            if self.bits == 8:  # between two codes root is a straight line, but for the last four
                magnitude = ((root * (self.count << 16)).to(torch.int32) + added.to(torch.int32)) >> 16
            else:
                part = added * 2.0**-16
                low = (root * self.count).to(torch.int32)
                below, above = self._back(low / self.count), self._back((low + 1) / self.count)
                magnitude = low + (y - below > part * (above - below))
            magnitude = magnitude.clamp(max=self.count - 1)
            if self.signed:
                codes = magnitude | (rows.signbit().to(torch.int32) << (self.bits - 1))
            else:
                codes = torch.where((magnitude == 0) & (rows > 0), 1, magnitude)
        return self._packed(codes, lines), scale.view(lines.count, self.blocks(lines.length))

    def encode_constant(self, value: float, codes: Tensor, lines: Lines) -> Tensor:
        """Fill `codes`, (lines, bytes), with what `encode` gives for elements that are all `value`; returns the scales.

        One block is encoded and repeated. Encoding all of them took 26 times the memory of a tensor's fp32
        state for a moment, in every first step.
        """
        whole, rest = divmod(lines.length, self.block)
        block = self.block * self.bits // 8
        scales = torch.empty(lines.count, self.blocks(lines.length), dtype=torch.float32, device=codes.device)
        if whole:
            one, scale = self.encode(torch.full((self.block,), value, device=codes.device))
            codes[:, : whole * block].unflatten(1, (whole, block)).copy_(one.expand(lines.count, whole, block))
            scales[:, :whole] = scale
        if rest:
            one, scale = self.encode(torch.full((rest,), value, device=codes.device))
            codes[:, whole * block :] = one
            scales[:, whole:] = scale
        return scales

    def decode(self, codes: Tensor, scales: Tensor, lines: Lines) -> Tensor:
        """The flat float32 values of `encode`'s result."""
        rows, scales = self._unpacked(codes, lines), scales.flatten()
        if self.dithered:
            full = _is_full(scales)[:, None]
            middle = torch.where(full, -14 << FRACTION - 1, -15 << FRACTION - 1).to(torch.int32)
            place = ((rows << FRACTION) - self._dither(scales) + middle).to(torch.float32)
            size = torch.where(full, 1 / 7.5, 1 / 7.0) * 2.0**-FRACTION
            values = self._back(place.abs() * size) * scales[:, None]
            values = torch.where((rows == 0) & ~full, 0.0, torch.where(place < 0, -values, values))
        else:
            values = self._back((rows & (self.count - 1)) / self.count) * scales[:, None]
            values = torch.where(rows >= self.count, -values, values)
        width = self.blocks(lines.length) * self.block
        return values.view(lines.count, width)[:, : lines.length].flatten()

    def shrunk(self, codes: Tensor, scales: Tensor, where: Tensor, lines: Lines) -> Tensor:
        """Dithered codes, the next one towards zero for the elements that `where` says."""
        rows = self._unpacked(codes, lines)
        upper = rows >= 8  # at a code of 7.5 on average, so of numbers above zero or almost so
        least = torch.where(_is_full(scales.flatten())[:, None], 0, 1)
        nearer = torch.where(upper, torch.maximum(rows - 1, least), rows + 1)
        return self._packed(torch.where(self._rows(where.float(), lines) > 0, nearer, rows), lines)

    def repacked(self, codes: Tensor, length: int) -> Tensor:
        """The codes of one line of `length` elements, given as they were before blocks ended with rows: a shorter last
        block of int4 was packed like a whole one."""
        rest = length % self.block
        if self.bits == 8 or not rest:
            return codes.view(1, codes.numel())
        half = self.block // 2
        rows = torch.stack([codes.view(-1, half) & 15, codes.view(-1, half) >> 4], dim=1).view(-1, self.block)
        return self._packed(rows, Lines(1, length))

    def _rows(self, values: Tensor, lines: Lines) -> Tensor:
        """A row for each block, the last one of a line filled up with zeros."""
        width = self.blocks(lines.length) * self.block
        padded = torch.zeros(lines.count, width, dtype=torch.float32, device=values.device)
        padded[:, : lines.length] = values.view(lines.count, lines.length)
        return padded.view(-1, self.block)

    def _packed(self, rows: Tensor, lines: Lines) -> Tensor:
        """The bytes of the codes of each line. In a block of int4, element k and element k + block / 2 share a byte; in
        a shorter one, elements 2 k and 2 k + 1, so that it has half as many bytes as elements."""
        if self.bits == 4:
            half, per_line = self.block // 2, self.blocks(lines.length)
            bytes_ = (rows[:, :half] | (rows[:, half:] << 4)).view(lines.count, per_line, half)
            if lines.length % self.block:
                last = rows.view(lines.count, per_line, self.block)[:, -1]
                bytes_[:, -1] = last[:, 0::2] | (last[:, 1::2] << 4)
            rows = bytes_
        width = self.blocks(lines.length) * self.block * self.bits // 8
        return rows.to(torch.uint8).view(lines.count, width)[:, : self.code_bytes(lines.length)].contiguous()

    def _unpacked(self, codes: Tensor, lines: Lines) -> Tensor:
        """The inverse of `_packed`, int32 (blocks, block)."""
        per_line, half = self.blocks(lines.length), self.block // 2
        width = per_line * (self.block if self.bits == 8 else half)
        bytes_ = torch.zeros(lines.count, width, dtype=torch.int32, device=codes.device)
        bytes_[:, : self.code_bytes(lines.length)] = codes.view(lines.count, self.code_bytes(lines.length))
        if self.bits == 8:
            return bytes_.view(-1, self.block)
        bytes_ = bytes_.view(-1, half)
        rows = torch.cat([bytes_ & 15, bytes_ >> 4], dim=1)
        if lines.length % self.block:
            last = rows.view(lines.count, per_line, 2, half)[:, -1]
            rows.view(lines.count, per_line, self.block)[:, -1] = last.transpose(1, 2).flatten(1)
        return rows

    def _back(self, root: Tensor) -> Tensor:
        """The magnitude of which `root` is the root."""
        bits = (root.to(torch.float32).view(torch.int32) - self.offset) << self.shift
        return torch.where(root > 0, bits.view(torch.float32), 0.0)

    def _dither(self, scales: Tensor) -> Tensor:
        """A number in [0, 1) for every element of every block, times 2**FRACTION, int32."""
        place = torch.arange(self.block, dtype=torch.int64, device=scales.device) * 0x9E3779B1
        key = scales.view(torch.int32).to(torch.int64)[:, None]
        return (mix_upper((place + key) & 0xFFFFFFFF) >> (32 - FRACTION)).to(torch.int32)


def _is_full(scales: Tensor) -> Tensor:
    """Whether a dithered block has no zero, and so all 16 codes for other numbers."""
    return (scales.view(torch.int32) & 1) == 1


CODES = {
    ("int8", True): Blockwise(8, True, block=256, shift=2),
    ("int8", False): Blockwise(8, False, block=256, shift=2, spread=40),
    ("int4", True): Blockwise(4, True, block=128, shift=1, dithered=True),
    ("int4", False): Blockwise(4, False, block=128, shift=2, spread=40),
}
