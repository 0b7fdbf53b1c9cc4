"""How slots and weights are stored: which bits stand for which number, and what is kept beside them.

Formats of a slot
    fp32, fp64, bf16    one number per element. bf16 is rounded stochastically: a moving average with beta2 = 0.999
                        changes by a thousandth per step, less than half of bf16's last place, and would stand still.
    int8, int4          codes relative to a scale of their block, which is kept as float32 (`<slot>_largest`).

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

Formats of a weight (bf16 and fp16 parameters)
    native              rounded to the nearest.
    stochastic          rounded up or down with the probabilities that give the right mean.
    split               rounded to the nearest, and what was lost is kept in 16 bits: float32 weights in 4 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stepwell.errors import UsageError

DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
BYTES = {"fp64": 8, "fp32": 4, "bf16": 2, "fp16": 2, "int8": 1, "int4": 0.5}

NUMBER = "number"  # not a format of elements: one float64 per tensor (Slot.per)

STATES = ("fp32", "bf16", "int8", "int4")
WEIGHTS = ("native", "stochastic", "split")
ORDER = "order"  # in a checkpoint, of a parameter whose 4-bit codes do not follow its dimensions: `order_of` it
LOW_BITS = "low_bits"  # the slot of `split`
SMALL = 4096  # tensors with fewer elements keep fp32 state under int8 and int4: blocks save nothing there


def format_of(tensor: Tensor, owner: str) -> str:
    """The name of the format of a parameter or gradient, or UsageError naming `owner`."""
    try:
        return NAMES[tensor.dtype]
    except KeyError:
        kind, hint = "integer", "only floating-point tensors are trained"
        if tensor.is_complex():
            kind = "complex"
            hint = (
                "train the two real parts: nn.Parameter(torch.view_as_real(w.detach()).clone()), and "
                "torch.view_as_complex(parameter) in forward"
            )
        elif tensor.is_floating_point():
            kind, hint = "a float of few bits", "keep a float32 or bfloat16 parameter and cast it in forward"
        elif tensor.dtype == torch.bool:
            kind = "boolean"
        elif tensor.is_quantized:
            kind = "quantized"
        raise UsageError(
            f"{owner} is {kind} ({str(tensor.dtype).removeprefix('torch.')}), which is not supported; "
            f"allowed: {', '.join(str(d).removeprefix('torch.') for d in NAMES)}; {hint}"
        ) from None


def working_dtype(weights: str) -> torch.dtype:
    """The precision of the arithmetic: float64 for float64 parameters, float32 for all others."""
    return torch.float64 if weights == "fp64" else torch.float32


def state_format(wanted: str, weights: str, elements: int) -> tuple[str, str | None]:
    """The format a tensor's slots get when `wanted` is asked for, and why it is another one."""
    if weights == "fp64":
        return "fp64", None if wanted == "fp32" else f"state stays fp64 beside float64 parameters, not {wanted}"
    if wanted in ("int8", "int4") and elements < SMALL:
        return "fp32", f"state stays fp32, not {wanted}: fewer than {SMALL:,} elements"
    return wanted, None


def wide(state: str) -> str:
    """The format of a slot that holds weights, where others have the format `state`."""
    return state if state == "fp64" else "fp32"


# The longest memory with which a signed slot keeps its format, as beta. Cosine of the stored with the exact momentum:
# int4 0.96 at 0.9, 0.92 at 0.95, 0.77 at 0.98; int8 0.995 at 0.99, 0.992 at 0.995, 0.974 at 0.9999; bf16 0.997 there.
# From 0.99 on int4 grows without end: what dither adds to a block is a share of what it holds, more than it forgets.
LONGEST = {"int4": 0.9, "int8": 0.995}
WIDER = {"int4": "int8", "int8": "bf16"}


def slot_format(per: str, is_wide: bool, state: str, wanted: str, beta: float = 0.0) -> str:
    """The format of one slot (`Slot.per`, `Slot.wide`) where elements have `state` and the group asks for `wanted`.

    `beta` is that of a signed moving average: with a long memory it is kept wider. nan, unknown, is too long for int4.
    """
    if per in ("tensor", "run"):
        return NUMBER
    if per in ("left", "right"):  # as large as the parameter: worth 16 bits, but no blocks
        narrow = state != "fp64" and (wanted == "bf16" or state in LONGEST)
        return "bf16" if narrow and not is_wide else wide(state)
    if is_wide or per != "element":
        return wide(state)
    if state == "int4" and not beta <= LONGEST["int4"]:
        state = WIDER["int4"]
    return WIDER["int8"] if state == "int8" and beta > LONGEST["int8"] else state


def weight_rounding(wanted: str, weights: str) -> str:
    """How the new weights are rounded: `wanted`, or native where nothing is lost."""
    return wanted if weights in ("bf16", "fp16") else "native"


ONE = 0x3F800000  # the bits of float32's 1
TINY, HUGE = 0x00800000, 253 << 23  # those of the least and the largest scale, whose inverses are normal numbers


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

    def blocks(self, elements: int) -> int:
        return -(-elements // self.block)

    def code_bytes(self, elements: int) -> int:
        """int8 has one byte per element; int4 has half a block of bytes for every block begun."""
        return elements if self.bits == 8 else self.blocks(elements) * self.block // 2

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
            scale = (((top + self.room) & 0x7F800000) + 0x00800000).clamp(max=HUGE)
        return torch.where(top >= TINY, scale, 0).to(torch.int32).view(torch.float32)

    def could_be(self, scales: Tensor) -> bool:
        """Whether these are scales of such codes: those of other codes (of an older version) would be read as these."""
        bits = scales.to(torch.float32).view(torch.int32)
        return self.dithered or bool(((bits & 0x7FFFFF) == 0).all())

    def encode(self, values: Tensor, random: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Flat float32 values as (codes, uint8; scales, float32 (blocks,)).

        `random` has 16 random bits per element; without it, numbers are rounded to the nearest code.
        """
        elements = values.numel()
        rows = self._rows(values)
        scale = self.scales(rows)
        inverse = torch.where(scale > 0, 1 / scale, 0.0)
        y = rows.abs() * inverse[:, None]
        y = torch.where(y < 1, y, 1.0)  # also where it is not a number
        root = ((y.view(torch.int32) >> self.shift) + self.offset).view(torch.float32)
        if self.dithered:
            full, u = _is_full(scale)[:, None], self._dither(scale)
            moved = torch.where(rows.signbit(), -root, root) * torch.where(full, 7.5, 7.0) + torch.where(
                full, u - 0.5, u
            )
            codes = (moved + 8).to(torch.int32).clamp(max=15)
            codes = torch.where(full, codes, torch.where(rows == 0, 0, codes.clamp(min=1)))
        else:
            part = 0.5 if random is None else self._rows(random.to(torch.float32)) * 2.0**-16
            if self.bits == 8:  # between two codes root is a straight line, but for the last four
                magnitude = (root * self.count + part).to(torch.int32)
            else:
                low = (root * self.count).to(torch.int32)
                below, above = self._back(low / self.count), self._back((low + 1) / self.count)
                magnitude = low + (y - below > part * (above - below))
            magnitude = magnitude.clamp(max=self.count - 1)
            if self.signed:
                codes = magnitude | (rows.signbit().to(torch.int32) << (self.bits - 1))
            else:
                codes = torch.where((magnitude == 0) & (rows > 0), 1, magnitude)
        if self.bits == 4:  # element k of a block and element k + block / 2 share a byte
            half = self.block // 2
            return (codes[:, :half] | (codes[:, half:] << 4)).to(torch.uint8).flatten(), scale
        return codes.to(torch.uint8).flatten()[:elements], scale

    def encode_constant(self, value: float, elements: int, codes: Tensor) -> Tensor:
        """Fill `codes` with what `encode` gives for elements that are all `value`; returns the scales.

        One block is encoded and repeated. Encoding all of them took 26 times the memory of a tensor's fp32 state for a
        moment, in every first step.
        """
        blocks, rest = divmod(elements, self.block)
        device = codes.device
        scales = torch.empty(self.blocks(elements), dtype=torch.float32, device=device)
        if blocks:
            block, scale = self.encode(torch.full((self.block,), value, device=device))
            codes[: blocks * block.numel()].view(blocks, -1).copy_(block)
            scales[:blocks] = scale
        if rest:
            block, scale = self.encode(torch.full((rest,), value, device=device))
            codes[codes.numel() - block.numel() :] = block
            scales[blocks:] = scale
        return scales

    def decode(self, codes: Tensor, scales: Tensor, elements: int) -> Tensor:
        """The flat float32 values of `encode`'s result."""
        if self.bits == 4:
            bytes_ = codes.view(-1, self.block // 2).to(torch.int32)
            rows = torch.cat([bytes_ & 15, bytes_ >> 4], dim=1)
        else:
            flat = torch.zeros(self.blocks(elements) * self.block, dtype=torch.int32, device=codes.device)
            flat[:elements] = codes
            rows = flat.view(-1, self.block)
        if self.dithered:
            full = _is_full(scales)[:, None]
            place = (rows - 8) + (torch.where(full, 1.0, 0.5) - self._dither(scales))
            values = self._back(place.abs() * torch.where(full, 1 / 7.5, 1 / 7.0)) * scales[:, None]
            values = torch.where((rows == 0) & ~full, 0.0, torch.where(place < 0, -values, values))
        else:
            values = self._back((rows & (self.count - 1)) / self.count) * scales[:, None]
            values = torch.where(rows >= self.count, -values, values)
        return values.flatten()[:elements]

    def shrunk(self, codes: Tensor, scales: Tensor, where: Tensor) -> Tensor:
        """Dithered codes, the next one towards zero for the elements that `where` says."""
        bytes_ = codes.view(-1, self.block // 2).to(torch.int32)
        rows = torch.cat([bytes_ & 15, bytes_ >> 4], dim=1)
        upper = rows >= 8  # at a code of 7.5 on average, so of numbers above zero or almost so
        least = torch.where(_is_full(scales)[:, None], 0, 1)
        nearer = torch.where(upper, torch.maximum(rows - 1, least), rows + 1)
        rows = torch.where(self._rows(where.float()) > 0, nearer, rows)
        half = self.block // 2
        return (rows[:, :half] | (rows[:, half:] << 4)).to(torch.uint8).flatten()

    def _rows(self, values: Tensor) -> Tensor:
        padded = torch.zeros(self.blocks(values.numel()) * self.block, dtype=torch.float32, device=values.device)
        padded[: values.numel()] = values
        return padded.view(-1, self.block)

    def _back(self, root: Tensor) -> Tensor:
        """The magnitude of which `root` is the root."""
        bits = (root.to(torch.float32).view(torch.int32) - self.offset) << self.shift
        return torch.where(root > 0, bits.view(torch.float32), 0.0)

    def _dither(self, scales: Tensor) -> Tensor:
        """A number in [0, 1) for every element of every block."""
        place = torch.arange(self.block, dtype=torch.int64, device=scales.device) * 0x9E3779B1
        key = scales.view(torch.int32).to(torch.int64)[:, None]
        return (mix_once((place + key) & 0xFFFFFFFF) >> 16).to(torch.float32) * 2.0**-16


def _is_full(scales: Tensor) -> Tensor:
    """Whether a dithered block has no zero, and so all 16 codes for other numbers."""
    return (scales.view(torch.int32) & 1) == 1


CODES = {
    ("int8", True): Blockwise(8, True, block=256, shift=2),
    ("int8", False): Blockwise(8, False, block=256, shift=2, spread=40),
    ("int4", True): Blockwise(4, True, block=128, shift=1, dithered=True),
    ("int4", False): Blockwise(4, False, block=128, shift=2, spread=40),
}


def block_of(name: str | None) -> int:
    """Elements per block of a format; 1 where elements are stored one by one."""
    return {"int8": 256, "int4": 128}.get(name or "", 1)


def state_names(slot: str, name: str) -> tuple[str, ...]:
    """The entries of `optimizer.state[p]` that hold one slot."""
    return (slot, f"{slot}_largest") if name in ("int8", "int4") else (slot,)


def slot_columns(kind: Any) -> int:
    """How many tensors hold the state of one parameter in a launch of `kind`."""
    present = zip(kind.slots, kind.slot_formats, strict=True)
    columns = sum(len(state_names(s, storage)) for s, storage in present if s is not None and storage != NUMBER)
    return columns + (kind.rounding == "split")


def flat(tensor: Tensor) -> Tensor:
    """The elements in the order of memory, as a view. The tensor must have no gaps."""
    return tensor.as_strided((tensor.numel(),), (1,))


def order_of(tensor: Tensor) -> tuple[int, ...]:
    """The dimensions in which a tensor varies, the slowest first: how its elements follow one another in memory."""
    stride = torch.empty_like(tensor, device="meta").stride()
    return tuple(sorted((d for d in range(tensor.ndim) if tensor.shape[d] > 1), key=lambda d: -stride[d]))


def stride_of(shape: torch.Size, order: Sequence[int]) -> tuple[int, ...]:
    """The strides of a tensor without gaps of that order."""
    stride, step = [1] * len(shape), 1
    for dimension in reversed(order):
        stride[dimension] = step
        step *= shape[dimension]
    return tuple(stride)


def in_order(values: Tensor, shape: torch.Size, stride: tuple[int, ...]) -> Tensor:
    """Flat values in the order of memory of a tensor with `shape` and `stride`, as such a tensor without gaps."""
    like = torch.empty_like(torch.empty_strided(shape, stride, device="meta"))
    result = torch.empty_strided(shape, like.stride(), dtype=values.dtype, device=values.device)
    flat(result).copy_(values)
    return result


def allocate(name: str, signed: bool, like: Tensor, value: float) -> tuple[Tensor, ...]:
    """The tensors that hold one slot of `like`, every element `value`."""
    if name not in ("int8", "int4"):
        return (torch.full_like(like, value, dtype=DTYPES[name], requires_grad=False),)
    code = CODES[name, signed]
    if name == "int8":
        codes = torch.empty_like(like, dtype=torch.uint8, requires_grad=False)
    else:
        codes = torch.empty(code.code_bytes(like.numel()), dtype=torch.uint8, device=like.device)
    return codes, code.encode_constant(value, like.numel(), flat(codes))


def read(name: str, signed: bool, stored: tuple[Tensor, ...], elements: int, dtype: torch.dtype) -> Tensor:
    """The values of a slot, flat, in the order of memory."""
    if name in ("int8", "int4"):
        return CODES[name, signed].decode(flat(stored[0]), stored[1], elements).to(dtype)
    return flat(stored[0]).to(dtype)


def write(name: str, signed: bool, stored: tuple[Tensor, ...], values: Tensor, random: Tensor | None) -> None:
    """Store flat values; `random`: 16 random bits per element (of codes: `code_bits`), None to round to the nearest."""
    if name in ("int8", "int4"):
        codes, largest = CODES[name, signed].encode(values, random)
        flat(stored[0]).copy_(codes)
        stored[1].copy_(largest)
    elif name == "bf16" and random is not None:
        flat(stored[0]).copy_(round_stochastically(values, random, torch.bfloat16))
    else:
        flat(stored[0]).copy_(values)


def write_blocks(
    name: str, signed: bool, stored: tuple[Tensor, ...], values: Tensor, random: Tensor | None, places: Tensor
) -> None:
    """`write` for codes, of the blocks that hold one of `places` alone.

    Other elements of these blocks are rounded again without having moved. Dithered, they would grow without end: they
    are rounded towards zero instead.
    """
    code, (codes, scales) = CODES[name, signed], stored
    new_codes, new_scales = code.encode(values, random)
    if code.dithered:
        moved = torch.zeros_like(values, dtype=torch.bool)
        moved[places] = True
        grown = (code.decode(new_codes, new_scales, values.numel()).abs() > values.abs()) & ~moved
        new_codes = code.shrunk(new_codes, new_scales, grown)
    touched = torch.zeros(len(scales), dtype=torch.bool, device=scales.device)
    touched[places // code.block] = True
    each = touched.repeat_interleave(code.block * code.bits // 8)[: codes.numel()]
    flat(codes).copy_(torch.where(each, new_codes, flat(codes)))
    scales.copy_(torch.where(touched, new_scales, scales))


def convert(old: dict[str, Tensor], slot: str, signed: bool, like: Tensor, name: str) -> tuple[Tensor, ...]:
    """One slot found in any format (a checkpoint's), in the format `name`; unchanged tensors are kept."""
    elements = like.numel()
    found = found_format(old, slot, elements)
    tensors = tuple(old[key] for key in state_names(slot, found))
    layout = torch.empty_like(like, dtype=tensors[0].dtype, requires_grad=False)
    same_layout = found == "int4" or tensors[0].stride() == layout.stride()
    if found == name and same_layout and all(t.device == like.device for t in tensors):
        return tensors
    tensors = tuple(t.to(like.device) for t in tensors)
    if found != "int4" and not same_layout:
        if found == "int8":  # the blocks follow memory, so another layout has other blocks
            source = torch.empty(tensors[0].shape).as_strided(tensors[0].shape, tensors[0].stride())
            flat(source).copy_(read(found, signed, tensors, elements, torch.float32))
            tensors = (source,)
            found = "fp32"
        tensors = (torch.empty_like(like, dtype=tensors[0].dtype, requires_grad=False).copy_(tensors[0]),)
    result = allocate(name, signed, like, 0.0)
    dtype = torch.float64 if "fp64" in (found, name) else torch.float32
    write(name, signed, result, read(found, signed, tensors, elements, dtype), None)
    return result


def found_format(old: dict[str, Tensor], slot: str, elements: int) -> str:
    if f"{slot}_largest" in old:
        return "int8" if old[slot].numel() == elements else "int4"
    return NAMES[old[slot].dtype]


# Random bits: a function of a seed, the tensor's place, its step and the element's place, the same on every backend.


SEED_FACTOR, PLACE_FACTOR = 0x85EBCA6B, 0xC2B2AE35


def key_of(seed: int, place: int, step: float) -> int:
    """32 bits that differ from tensor to tensor and from step to step."""
    return mix((seed * SEED_FACTOR + place * PLACE_FACTOR + int(step) * 0x27D4EB2F) & 0xFFFFFFFF)


def stream(key: int, number: int) -> int:
    """The key of another, independent sequence of random bits of the same tensor and step."""
    return (key + number * 0x165667B1) & 0xFFFFFFFF


def mix(x: Any) -> Any:
    """Scatter 32 bits: the constants of lowbias32 (C. Wellons, hash-prospector, 2018). For ints and int64 tensors."""
    x = (x ^ (x >> 16)) * 0x7FEB352D & 0xFFFFFFFF
    x = (x ^ (x >> 15)) * 0x846CA68B & 0xFFFFFFFF
    return x ^ (x >> 16)


def mix_once(x: Any) -> Any:
    """Half of `mix`, for codes, whose kernels are bound by arithmetic.

    The factor is the second of the two: the first is almost 2**31, and of a scale that creeps by some ulps a step it
    makes almost the same numbers (over 2,000 steps, the mean of dithered codes is then 0.28 of a code off; 0.08 here,
    as with the whole of `mix`).
    """
    x = (x ^ (x >> 16)) * 0x846CA68B & 0xFFFFFFFF
    return x ^ (x >> 15)


def random_bits(key: int, elements: int, device: torch.device, scatter: Any = mix) -> Tensor:
    """32 random bits per element, int64."""
    place = torch.arange(elements, dtype=torch.int64, device=device)
    return scatter((place * 0x9E3779B1 + key) & 0xFFFFFFFF)


TURN = 40503  # 2**16 times the golden ratio's fraction: multiples of it fill [0, 2**16) evenly, however many there are
TURNS = 10  # after 2**10 steps they begin elsewhere, so that nothing periodic in the gradients stays in step with them
CODE_STREAMS = 64  # streams of 16-bit formats come before


def code_bits(seed: int, place: int, step: float, consumer: int, elements: int, device: torch.device) -> Tensor:
    """16 random bits per element for rounding to codes: over the steps they are spread more evenly than by chance.

    A code changes at one step in hundreds, with the right probability. By chance such changes bunch: the root of a
    second moment is then 4.9 % off, and 4.1 % with even ones.
    """
    key = stream(key_of(seed, place, int(step) >> TURNS), CODE_STREAMS + consumer // 2)
    word = random_bits(key, elements, device, mix_once)
    return ((word >> 16 if consumer % 2 else word) + int(step) * TURN) & 0xFFFF


def round_stochastically(values: Tensor, random: Tensor, dtype: torch.dtype) -> Tensor:
    """Round float32 up or down to `dtype` so that the mean is right; `random` has 16 bits per element."""
    if dtype == torch.bfloat16:
        # Adding 16 random bits carries into the kept half with just the probability of the lost half.
        bits = (values.view(torch.int32).to(torch.int64) & 0xFFFFFFFF) + random
        rounded = (bits >> 16) & 0xFFFF
        result = torch.where(rounded >= 0x8000, rounded - 0x10000, rounded).to(torch.int16).view(torch.bfloat16)
        return torch.where(values.isfinite(), result, values.to(torch.bfloat16))
    # fp16: a uniform shift by up to half of the spacing of fp16 numbers (subnormal ones too), then to the nearest.
    exponent = ((values.view(torch.int32) >> 23) & 0xFF).clamp(min=127 - 14)
    spacing = ((exponent - 10) << 23).view(torch.float32)
    shift = (random.to(torch.float32) + 0.5) * 2.0**-16 - 0.5
    return (values + shift * spacing).to(torch.float16)


def join(high: Tensor, low: Tensor) -> Tensor:
    """The float32 that a bf16 or fp16 number and its int16 low bits stand for.

    Whoever writes a weight from outside (a pruning mask, `clamp_`, `copy_`) writes the high half alone. The low bits
    that lie there belong to the number before. They are at most half a unit in the last place of the new number, and
    the step goes on from there, but for two cases, in which they count as 0: the sum is no number although the high
    half is one (0 and negative low bits), or it does not round to the high half (an fp16 weight from the subnormal
    numbers, whose low bits are wider).
    """
    whole = high.to(torch.float32)
    if high.dtype == torch.bfloat16:
        joined = ((high.view(torch.int16).to(torch.int32) << 16) + low.to(torch.int32)).view(torch.float32)
        return torch.where(joined.isnan(), whole, joined)
    joined = whole + low.to(torch.float32) * _residual_unit(whole)
    return torch.where(joined.to(torch.float16) == high, joined, whole)


def split(values: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """float32 as (rounded to the nearest, int16 low bits). `join` gives it back exactly; NaN as some NaN.

    bf16: always. fp16 has fewer exponents: exactly for 2**-16 <= |x| <= 65504, to 2**-40 below.
    """
    if dtype == torch.bfloat16:
        bits = values.view(torch.int32).to(torch.int64)
        bits = torch.where(values.isnan(), 0x7FC00000, bits)  # the GPU's NaN, all ones, would round up to -0
        high = (bits + 0x8000) >> 16  # half is rounded up, so that the low bits always fit
        low = bits - (high << 16)
        return high.to(torch.int16).view(torch.bfloat16), low.to(torch.int16)
    half = values.to(torch.float16)
    residual = (values - half.to(torch.float32)) / _residual_unit(half.to(torch.float32))
    return half, torch.where(residual.isfinite(), residual, 0.0).round().to(torch.int16)


def _residual_unit(half: Tensor) -> Tensor:
    """Half of float32's last place beside an fp16 number, at least 2**-39; a power of two."""
    exponent = ((half.view(torch.int32) >> 23) & 0xFF).clamp(min=127 - 15)
    return ((exponent - 24) << 23).view(torch.float32)
