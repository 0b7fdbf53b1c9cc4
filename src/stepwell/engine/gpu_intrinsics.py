"""What a printed GPU kernel calls: formats, random bits and the operations of `stepwell.ops`, on blocks of elements.

Divisions and square roots are those that round correctly, and kernels are compiled without fused multiply-adds, so
that a GPU computes what the definition computes; a step is bound by memory, and neither costs time.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from stepwell.engine.formats import CODES


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
    special = (bits & 0x7F800000) == 0x7F800000
    return tl.where(special, bf16_of_f32(value).to(tl.uint32), (bits + random) >> 16).to(tl.uint16)


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


# Random bits (formats.mix)


@triton.jit
def _scatter(x):
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def key_of(total):
    return _scatter((total & 0xFFFFFFFF).to(tl.uint32))


@triton.jit
def stream(key, number: tl.constexpr):
    return (key.to(tl.int64) + number * 0x165667B1 & 0xFFFFFFFF).to(tl.uint32)


@triton.jit
def random_bits(key, places):
    return _scatter(((places.to(tl.int64) * 0x9E3779B1 + key.to(tl.int64)) & 0xFFFFFFFF).to(tl.uint32))


@triton.jit
def low_half(random):
    return random & 0xFFFF


@triton.jit
def high_half(random):
    return random >> 16


# Codes (formats.Blockwise)


@triton.jit
def decode(
    bits,
    largest,
    TOP: tl.constexpr,
    SHIFT: tl.constexpr,
    OFFSET: tl.constexpr,
    OFFSET_BITS: tl.constexpr,
    SIGNED: tl.constexpr,
):
    magnitude = ((bits & TOP) << SHIFT) + OFFSET_BITS
    value = (magnitude.to(tl.float32, bitcast=True) - OFFSET) * largest
    if SIGNED:
        value = tl.where(bits > TOP, -value, value)
    return value


@triton.jit
def encode(
    value,
    inverse,
    TOP: tl.constexpr,
    SHIFT: tl.constexpr,
    OFFSET: tl.constexpr,
    OFFSET_BITS: tl.constexpr,
    SIGNED: tl.constexpr,
):
    moved = tl.abs(value) * inverse + OFFSET
    shifted = moved.to(tl.int32, bitcast=True) - OFFSET_BITS
    magnitude = (shifted + (1 << (SHIFT - 1))) >> SHIFT
    magnitude = tl.where(magnitude > TOP, TOP, magnitude)
    magnitude = tl.where(magnitude < 0, 0, magnitude)
    if SIGNED:
        magnitude = magnitude | tl.where(value.to(tl.int32, bitcast=True) < 0, TOP + 1, 0)
    else:
        magnitude = tl.where((magnitude == 0) & (value > 0), 1, magnitude)
    return magnitude


@triton.jit
def largest_of(rows):
    """The largest magnitude of each row and its inverse; 0 and 0 below the normal numbers."""
    largest = tl.max(tl.abs(rows), axis=1)
    largest = tl.where(largest >= 1.1754943508222875e-38, largest, 0.0)
    inverse = tl.where(
        largest > 0, tl.div_rn(tl.full(largest.shape, 1.0, tl.float32), tl.where(largest > 0, largest, 1.0)), 0.0
    )
    return largest, inverse


@triton.jit
def load_int8(
    codes,
    largest_at,
    first,
    size,
    mask,
    BLOCK: tl.constexpr,
    MASKED: tl.constexpr,
    TOP: tl.constexpr,
    SHIFT: tl.constexpr,
    OFFSET: tl.constexpr,
    OFFSET_BITS: tl.constexpr,
    SIGNED: tl.constexpr,
):
    places = first + tl.arange(0, BLOCK)
    if MASKED:
        bits = tl.load(codes + places, mask=mask, other=0).to(tl.int32)
        largest = tl.load(largest_at + places // 256, mask=mask, other=0.0)
    else:
        bits = tl.load(codes + places).to(tl.int32)
        largest = tl.load(largest_at + places // 256)
    return decode(bits, largest, TOP, SHIFT, OFFSET, OFFSET_BITS, SIGNED)


@triton.jit
def store_int8(
    codes,
    largest_at,
    values,
    first,
    size,
    mask,
    BLOCK: tl.constexpr,
    MASKED: tl.constexpr,
    TOP: tl.constexpr,
    SHIFT: tl.constexpr,
    OFFSET: tl.constexpr,
    OFFSET_BITS: tl.constexpr,
    SIGNED: tl.constexpr,
):
    values = tl.where(mask, values, 0.0) if MASKED else values
    rows = tl.reshape(values, (BLOCK // 256, 256))
    largest, inverse = largest_of(rows)
    bits = encode(rows, inverse[:, None], TOP, SHIFT, OFFSET, OFFSET_BITS, SIGNED)
    bits = tl.reshape(bits, (BLOCK,)).to(tl.uint8)
    blocks = first // 256 + tl.arange(0, BLOCK // 256)
    if MASKED:
        tl.store(codes + first + tl.arange(0, BLOCK), bits, mask=mask)
        tl.store(largest_at + blocks, largest, mask=blocks * 256 < size)
    else:
        tl.store(codes + first + tl.arange(0, BLOCK), bits)
        tl.store(largest_at + blocks, largest)


@triton.jit
def load_int4(
    codes,
    largest_at,
    first,
    size,
    mask,
    BLOCK: tl.constexpr,
    MASKED: tl.constexpr,
    TOP: tl.constexpr,
    SHIFT: tl.constexpr,
    OFFSET: tl.constexpr,
    OFFSET_BITS: tl.constexpr,
    SIGNED: tl.constexpr,
):
    blocks = first // 128 + tl.arange(0, BLOCK // 128)
    places = blocks[:, None] * 64 + tl.arange(0, 64)[None, :]
    if MASKED:
        inside = blocks * 128 < size
        bytes_ = tl.load(codes + places, mask=inside[:, None], other=0).to(tl.int32)
        largest = tl.load(largest_at + blocks, mask=inside, other=0.0)
    else:
        bytes_ = tl.load(codes + places).to(tl.int32)
        largest = tl.load(largest_at + blocks)
    low = decode(bytes_ & 15, largest[:, None], TOP, SHIFT, OFFSET, OFFSET_BITS, SIGNED)
    high = decode(bytes_ >> 4, largest[:, None], TOP, SHIFT, OFFSET, OFFSET_BITS, SIGNED)
    return tl.reshape(tl.permute(tl.join(low, high), (0, 2, 1)), (BLOCK,))


@triton.jit
def store_int4(
    codes,
    largest_at,
    values,
    first,
    size,
    mask,
    BLOCK: tl.constexpr,
    MASKED: tl.constexpr,
    TOP: tl.constexpr,
    SHIFT: tl.constexpr,
    OFFSET: tl.constexpr,
    OFFSET_BITS: tl.constexpr,
    SIGNED: tl.constexpr,
):
    values = tl.where(mask, values, 0.0) if MASKED else values
    largest, inverse = largest_of(tl.reshape(values, (BLOCK // 128, 128)))
    halves = tl.permute(tl.reshape(values, (BLOCK // 128, 2, 64)), (0, 2, 1))
    bits = encode(halves, inverse[:, None, None], TOP, SHIFT, OFFSET, OFFSET_BITS, SIGNED)
    low, high = tl.split(bits)
    bytes_ = (low | (high << 4)).to(tl.uint8)
    blocks = first // 128 + tl.arange(0, BLOCK // 128)
    places = blocks[:, None] * 64 + tl.arange(0, 64)[None, :]
    if MASKED:
        inside = blocks * 128 < size
        tl.store(codes + places, bytes_, mask=inside[:, None])
        tl.store(largest_at + blocks, largest, mask=inside)
    else:
        tl.store(codes + places, bytes_)
        tl.store(largest_at + blocks, largest)


def code_arguments(name: str, signed: bool) -> dict[str, Any]:
    """The compile-time arguments of `decode` and `encode`."""
    code = CODES[name, signed]
    return {
        "TOP": code.top,
        "SHIFT": code.shift,
        "OFFSET": code.offset,
        "OFFSET_BITS": code.offset_bits,
        "SIGNED": signed,
    }
