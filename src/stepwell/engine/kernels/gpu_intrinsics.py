"""What a printed GPU kernel calls: formats, random bits and the operations of `stepwell.ops`, on blocks of elements.

Divisions and square roots are those that round correctly, and kernels are compiled without fused multiply-adds, so
that a GPU computes what the definition computes; a step is bound by memory, and neither costs time.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from stepwell.engine.blocks import CODES


@triton.jit
def div(a, b):
    a, b = a + tl.zeros_like(b), b + tl.zeros_like(a)
    if a.dtype == tl.float64:
        return a / b
    else:
        return tl.div_rn(a, b)


@triton.jit
def sqrt(x):
    if x.dtype == tl.float64:
        return tl.sqrt(x)
    else:
        return tl.sqrt_rn(x)


@triton.jit
def power(a, b):
    """a**b of float64 numbers, a at least 0."""
    result = tl.exp2(b * tl.log2(tl.where(a > 0, a, 1.0)))
    return tl.where(b == 0, 1.0, tl.where(a > 0, result, 0.0))


@triton.jit
def log(x):
    """Of a float64 number."""
    return tl.log(x)


@triton.jit
def sign(x):
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, 0.0)).to(x.dtype)


@triton.jit
def abs(x):
    return tl.abs(x)


@triton.jit
def maximum(a, b):
    return tl.where((a > b) | (a != a), a, b)


@triton.jit
def minimum(a, b):
    return tl.where((a < b) | (a != a), a, b)


@triton.jit
def where(condition, a, b):
    return tl.where(condition, a, b)


@triton.jit
def not_(condition):
    return condition == 0


# 16-bit numbers, taken apart by hand so that the interpreter and the compiler round alike


@triton.jit
def f32_of_bf16(bits):
    return (bits.to(tl.uint32) << 16).to(tl.float32, bitcast=True)


@triton.jit
def bf16_of_f32(value):
    bits = value.to(tl.uint32, bitcast=True)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return tl.where(value != value, 0x7FC0, rounded).to(tl.uint16)


@triton.jit
def bf16_stochastic(value, random):
    bits = value.to(tl.uint32, bitcast=True)
    return ((bits + tl.where(value == value, random, 0)) >> 16).to(tl.uint16)


@triton.jit
def f32_of_fp16(bits):
    return bits.to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def fp16_of_f32(value):
    return value.to(tl.float16).to(tl.uint16, bitcast=True)


@triton.jit
def _power_of_two(value, lowest: tl.constexpr, less: tl.constexpr):
    exponent = (value.to(tl.uint32, bitcast=True) >> 23) & 0xFF
    exponent = tl.where(exponent < lowest, lowest, exponent).to(tl.uint32)
    return ((exponent - less) << 23).to(tl.float32, bitcast=True)


@triton.jit
def fp16_stochastic(value, random):
    shift = (random.to(tl.float32) + 0.5) * 1.52587890625e-05 - 0.5
    return fp16_of_f32(value + shift * _power_of_two(value, 113, 10))


@triton.jit
def join_bf16(high, low):
    signed = low.to(tl.int16, bitcast=True).to(tl.int32).to(tl.uint32, bitcast=True)
    joined = ((high.to(tl.uint32) << 16) + signed).to(tl.float32, bitcast=True)
    return tl.where(joined != joined, f32_of_bf16(high), joined)


@triton.jit
def _bits_of(value):
    """The bits of a float32, those of a quiet NaN for every NaN."""
    return tl.where(value != value, 0x7FC00000, value.to(tl.uint32, bitcast=True)).to(tl.uint32)


@triton.jit
def split_high_bf16(value):
    return ((_bits_of(value) + 0x8000) >> 16).to(tl.uint16)


@triton.jit
def split_low_bf16(value):
    return (_bits_of(value) & 0xFFFF).to(tl.uint16)


@triton.jit
def join_fp16(high, low):
    half = f32_of_fp16(high)
    joined = half + low.to(tl.int16, bitcast=True).to(tl.float32) * _power_of_two(half, 112, 24)
    return tl.where(f32_of_fp16(fp16_of_f32(joined)) == half, joined, half)


@triton.jit
def split_high_fp16(value):
    return fp16_of_f32(value)


@triton.jit
def split_low_fp16(value):
    half = f32_of_fp16(fp16_of_f32(value))
    residual = (value - half) / _power_of_two(half, 112, 24)  # by a power of two: exact
    finite = (residual.to(tl.uint32, bitcast=True) & 0x7FFFFFFF) < 0x7F800000
    residual = tl.where(finite, residual, 0.0)
    # To the nearest, ties to even: adding 1.5 * 2**23 leaves no room for a fraction.
    rounded = ((residual + 12582912.0) - 12582912.0).to(tl.int32)
    return (rounded & 0xFFFF).to(tl.uint16)


# Random bits (randomness.mix)


@triton.jit
def _scatter(x):
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def key_of(salt, turn):
    scattered = _scatter(((salt + turn) & 0xFFFFFFFF).to(tl.uint32)).to(tl.int64)
    return ((scattered + ((salt >> 32) & 0xFFFFFFFF)) & 0xFFFFFFFF).to(tl.uint32)


@triton.jit
def stream(key, number: tl.constexpr):
    return (key.to(tl.int64) + number * 0x165667B1 & 0xFFFFFFFF).to(tl.uint32)


@triton.jit
def _scatter_upper(x):
    return (x ^ (x >> 16)) * 0x846CA68B


@triton.jit
def _scatter_once(x):
    x = _scatter_upper(x)
    return x ^ (x >> 15)


@triton.jit
def random_bits(key, places):
    return _scatter_once(((places.to(tl.int64) * 0x9E3779B1 + key.to(tl.int64)) & 0xFFFFFFFF).to(tl.uint32))


@triton.jit
def low_half(random):
    return random & 0xFFFF


@triton.jit
def high_half(random):
    return random >> 16


@triton.jit
def turned(half, step, TURN: tl.constexpr):
    return (half.to(tl.int64) + step.to(tl.int64) * TURN & 0xFFFF).to(tl.int32)


# Codes (blocks.Blockwise)


@triton.jit
def _back(root, OFFSET: tl.constexpr, SHIFT: tl.constexpr):
    bits = (root.to(tl.int32, bitcast=True) - OFFSET) << SHIFT
    return tl.where(root > 0, bits.to(tl.float32, bitcast=True), 0.0)


@triton.jit
def _dither(scale, places):
    """In [0, 1), times 2**27 (blocks.FRACTION)."""
    key = scale.to(tl.uint32, bitcast=True).to(tl.int64)
    word = _scatter_upper(((places.to(tl.int64) * 0x9E3779B1 + key) & 0xFFFFFFFF).to(tl.uint32))
    return (word >> 5).to(tl.int32)


@triton.jit
def decode(
    bits,
    scale,
    places,
    COUNT: tl.constexpr,
    SHIFT: tl.constexpr,
    OFFSET: tl.constexpr,
    SIGNED: tl.constexpr,
    DITHER: tl.constexpr,
):
    """`places` are those in the block."""
    if DITHER:
        full = (scale.to(tl.int32, bitcast=True) & 1) == 1
        middle = tl.where(full, -14 * 2**26, -15 * 2**26)
        place = ((bits.to(tl.int32) << 27) - _dither(scale, places) + middle).to(tl.float32)
        size = tl.where(full, 1 / 7.5, 1 / 7.0) * 2.0**-27
        value = _back(tl.abs(place) * size, OFFSET, SHIFT) * scale
        value = tl.where(place < 0, -value, value)
        return tl.where((bits == 0) & (full == 0), 0.0, value)
    else:
        value = _back((bits & (COUNT - 1)).to(tl.float32) * (1 / COUNT), OFFSET, SHIFT) * scale
        if SIGNED:
            value = tl.where(bits >= COUNT, -value, value)
        return value


@triton.jit
def encode(
    value,
    scale,
    inverse,
    random,
    places,
    COUNT: tl.constexpr,
    SHIFT: tl.constexpr,
    OFFSET: tl.constexpr,
    SIGNED: tl.constexpr,
    DITHER: tl.constexpr,
):
    y = tl.abs(value) * inverse
    y = tl.where(y < 1, y, 1.0)  # also where it is not a number
    root = ((y.to(tl.int32, bitcast=True) >> SHIFT) + OFFSET).to(tl.float32, bitcast=True)
    negative = value.to(tl.int32, bitcast=True) < 0
    if DITHER:
        full = (scale.to(tl.int32, bitcast=True) & 1) == 1
        moved = (tl.where(negative, -root, root) * (tl.where(full, 7.5, 7.0) * 2.0**27)).to(tl.int32)
        place = (moved + _dither(scale, places) + tl.where(full, 15 * 2**26, 16 * 2**26)) >> 27
        return tl.where((value == 0) & (full == 0), 0, place)
    else:
        if COUNT > 16:
            magnitude = ((root * (COUNT * 65536)).to(tl.int32) + random.to(tl.int32)) >> 16
        else:
            part = random.to(tl.float32) * 1.52587890625e-05
            low = (root * COUNT).to(tl.int32)
            below = _back(low.to(tl.float32) * (1 / COUNT), OFFSET, SHIFT)
            above = _back((low + 1).to(tl.float32) * (1 / COUNT), OFFSET, SHIFT)
            magnitude = tl.where(y - below > part * (above - below), low + 1, low)
        magnitude = tl.where(magnitude > COUNT - 1, COUNT - 1, magnitude)
        if SIGNED:
            magnitude = magnitude | tl.where(negative, COUNT, 0)
        else:
            magnitude = tl.where((magnitude == 0) & (value > 0), 1, magnitude)
        return magnitude


@triton.jit
def scales_of(rows, ROOM: tl.constexpr, SPREAD: tl.constexpr, FEW: tl.constexpr, DITHER: tl.constexpr):
    """The scale of each row and its inverse (blocks.Blockwise.scales)."""
    all_bits = tl.abs(rows).to(tl.int32, bitcast=True)
    bits = tl.where(all_bits < 0x7F800000, all_bits, 0)
    largest = tl.max(bits, axis=1)
    limit = tl.where(largest > SPREAD << 23, largest - (SPREAD << 23), 0)
    far = bits > limit[:, None]
    others = tl.max(tl.where(far, 0, bits), axis=1)
    outliers = tl.sum((far | (all_bits >= 0x7F800000)).to(tl.int32), axis=1)
    top = tl.where((others > 0) & (outliers <= FEW), others, largest)
    if DITHER:
        full = tl.min((rows != 0).to(tl.int32), axis=1)
        scale = (tl.where(top < 253 << 23, top, 253 << 23) & -2) | full
    else:
        power = (top + ROOM) & 0x7F800000
        scale = tl.where(power < 252 << 23, power, 252 << 23) + 0x00800000
    scale = tl.where(top >= 0x00800000, scale, 0).to(tl.float32, bitcast=True)
    one = tl.full(scale.shape, 1.0, tl.float32)
    return scale, tl.where(scale > 0, tl.div_rn(one, tl.where(scale > 0, scale, 1.0)), 0.0)


# Of a chunk: `blocks`, those before it; `first`, its first byte of codes; `size`, the elements from there to the end of
# their line, which may lie inside the chunk.


@triton.jit
def load_int8(
    codes,
    largest_at,
    blocks,
    first,
    size,
    mask,
    BLOCK: tl.constexpr,
    MASKED: tl.constexpr,
    COUNT: tl.constexpr,
    SHIFT: tl.constexpr,
    OFFSET: tl.constexpr,
    SIGNED: tl.constexpr,
    DITHER: tl.constexpr,
):
    places = tl.arange(0, BLOCK)
    if MASKED:
        bits = tl.load(codes + first + places, mask=mask, other=0).to(tl.int32)
        largest = tl.load(largest_at + blocks + places // 256, mask=mask, other=0.0)
    else:
        bits = tl.load(codes + first + places).to(tl.int32)
        largest = tl.load(largest_at + blocks + places // 256)
    return decode(bits, largest, places % 256, COUNT, SHIFT, OFFSET, SIGNED, DITHER)


@triton.jit
def store_int8(
    codes,
    largest_at,
    values,
    random,
    blocks,
    first,
    size,
    mask,
    BLOCK: tl.constexpr,
    MASKED: tl.constexpr,
    COUNT: tl.constexpr,
    SHIFT: tl.constexpr,
    OFFSET: tl.constexpr,
    SIGNED: tl.constexpr,
    DITHER: tl.constexpr,
    ROOM: tl.constexpr,
    SPREAD: tl.constexpr,
    FEW: tl.constexpr,
):
    values = tl.where(mask, values, 0.0) if MASKED else values
    rows = tl.reshape(values, (BLOCK // 256, 256))
    random = tl.reshape(random, (BLOCK // 256, 256))
    scale, inverse = scales_of(rows, ROOM, SPREAD, FEW, DITHER)
    inside = tl.arange(0, 256)[None, :]
    bits = encode(rows, scale[:, None], inverse[:, None], random, inside, COUNT, SHIFT, OFFSET, SIGNED, DITHER)
    bits = tl.reshape(bits, (BLOCK,)).to(tl.uint8)
    here = tl.arange(0, BLOCK // 256)
    if MASKED:
        tl.store(codes + first + tl.arange(0, BLOCK), bits, mask=mask)
        tl.store(largest_at + blocks + here, scale, mask=here * 256 < size)
    else:
        tl.store(codes + first + tl.arange(0, BLOCK), bits)
        tl.store(largest_at + blocks + here, scale)


@triton.jit
def load_int4(
    codes,
    largest_at,
    blocks,
    first,
    size,
    mask,
    BLOCK: tl.constexpr,
    MASKED: tl.constexpr,
    COUNT: tl.constexpr,
    SHIFT: tl.constexpr,
    OFFSET: tl.constexpr,
    SIGNED: tl.constexpr,
    DITHER: tl.constexpr,
):
    here = tl.arange(0, BLOCK // 128)
    inner = tl.arange(0, 64)[None, :]
    places = here[:, None] * 64 + inner
    if MASKED:
        # The last block of a line has another order (blocks.Blockwise._packed).
        is_short = (size - here * 128 < 128)[:, None]
        bytes_ = tl.load(codes + first + places, mask=places < (size + 1) // 2, other=0).to(tl.int32)
        largest = tl.load(largest_at + blocks + here, mask=here * 128 < size, other=0.0)[:, None]
        of_low, of_high = tl.where(is_short, 2 * inner, inner), tl.where(is_short, 2 * inner + 1, inner + 64)
        low = decode(bytes_ & 15, largest, of_low, COUNT, SHIFT, OFFSET, SIGNED, DITHER)
        high = decode(bytes_ >> 4, largest, of_high, COUNT, SHIFT, OFFSET, SIGNED, DITHER)
        pairs = tl.join(low, high)
        whole = tl.reshape(tl.permute(pairs, (0, 2, 1)), (BLOCK // 128, 128))
        return tl.reshape(tl.where(is_short, tl.reshape(pairs, (BLOCK // 128, 128)), whole), (BLOCK,))
    else:
        bytes_ = tl.load(codes + first + places).to(tl.int32)
        largest = tl.load(largest_at + blocks + here)[:, None]
        low = decode(bytes_ & 15, largest, inner, COUNT, SHIFT, OFFSET, SIGNED, DITHER)
        high = decode(bytes_ >> 4, largest, inner + 64, COUNT, SHIFT, OFFSET, SIGNED, DITHER)
        return tl.reshape(tl.permute(tl.join(low, high), (0, 2, 1)), (BLOCK,))


@triton.jit
def store_int4(
    codes,
    largest_at,
    values,
    random,
    blocks,
    first,
    size,
    mask,
    BLOCK: tl.constexpr,
    MASKED: tl.constexpr,
    COUNT: tl.constexpr,
    SHIFT: tl.constexpr,
    OFFSET: tl.constexpr,
    SIGNED: tl.constexpr,
    DITHER: tl.constexpr,
    ROOM: tl.constexpr,
    SPREAD: tl.constexpr,
    FEW: tl.constexpr,
):
    values = tl.where(mask, values, 0.0) if MASKED else values
    scale, inverse = scales_of(tl.reshape(values, (BLOCK // 128, 128)), ROOM, SPREAD, FEW, DITHER)
    halves = tl.permute(tl.reshape(values, (BLOCK // 128, 2, 64)), (0, 2, 1))
    some = tl.permute(tl.reshape(random, (BLOCK // 128, 2, 64)), (0, 2, 1))
    here = tl.arange(0, BLOCK // 128)
    inner, second = tl.arange(0, 64)[None, :, None], tl.arange(0, 2)[None, None, :]
    inside = inner + second * 64
    if MASKED:
        is_short = (size - here * 128 < 128)[:, None, None]
        halves = tl.where(is_short, tl.reshape(values, (BLOCK // 128, 64, 2)), halves)
        some = tl.where(is_short, tl.reshape(random, (BLOCK // 128, 64, 2)), some)
        inside = tl.where(is_short, 2 * inner + second, inside)
    scale3, inverse3 = scale[:, None, None], inverse[:, None, None]
    bits = encode(halves, scale3, inverse3, some, inside, COUNT, SHIFT, OFFSET, SIGNED, DITHER)
    low, high = tl.split(bits)
    bytes_ = (low | (high << 4)).to(tl.uint8)
    places = here[:, None] * 64 + tl.arange(0, 64)[None, :]
    if MASKED:
        tl.store(codes + first + places, bytes_, mask=places < (size + 1) // 2)
        tl.store(largest_at + blocks + here, scale, mask=here * 128 < size)
    else:
        tl.store(codes + first + places, bytes_)
        tl.store(largest_at + blocks + here, scale)


def code_arguments(name: str, signed: bool, storing: bool = False) -> dict[str, Any]:
    """The compile-time arguments of loads and stores."""
    code = CODES[name, signed]
    arguments: dict[str, Any] = {
        "COUNT": code.count,
        "SHIFT": code.shift,
        "OFFSET": code.offset,
        "SIGNED": signed,
        "DITHER": code.dithered,
    }
    return {**arguments, "ROOM": code.room, "SPREAD": code.spread, "FEW": code.few} if storing else arguments
