"""What a printed CPU kernel calls: memory access by address, formats, and the operations of `stepwell.ops`.

Loads and stores say to LLVM that the arrays of one kernel (parameter, gradient, slots) do not overlap: each array has
an alias scope of its own. Without it the loop vectoriser compares all pairs of addresses at run time, and gives up
beyond four arrays (measured: a kernel over five arrays went from scalar code to the memory limit).

Everything on bits is written in LLVM's 32-bit integers, because Numba widens its own to 64 bits, which halves the
number of elements per vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from stepwell.engine.blocks import CODES, FRACTION, HUGE, TINY, Blockwise
from stepwell.engine.randomness import ELEMENT_FACTOR, TURN

SCOPES = 16  # arrays of one kernel that are told apart
_CODES_SCOPE, _LARGEST_SCOPE, _RANDOM_SCOPE = (
    SCOPES - 1,
    SCOPES - 2,
    SCOPES - 3,
)  # of all slots: each is read and written in loops of its own

_WORD, _HALF, _BYTE, _F32, _F16 = ir.IntType(32), ir.IntType(16), ir.IntType(8), ir.FloatType(), ir.HalfType()
# storage -> its type in LLVM and in Numba, its bytes
_STORED = {
    "fp32": (_F32, types.float32, 4),
    "fp64": (ir.DoubleType(), types.float64, 8),
    "32": (_WORD, types.uint32, 4),
    "16": (_HALF, types.uint16, 2),
    "8": (_BYTE, types.uint8, 1),
}


def _word(value: int) -> Any:
    return ir.Constant(_WORD, value)


def llvm(result: Any, *arguments: Any) -> Callable[[Callable[..., Any]], Any]:
    """Makes a function (builder, *values) -> value into one that kernels can call."""

    def wrap(body: Callable[..., Any]) -> Any:
        signature = result(*arguments)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            value = body(builder, *args)
            return context.get_dummy_value() if value is None else value

        # An intrinsic's arity is read from its signature.
        names = "".join(f", a{i}" for i in range(len(arguments)))
        scope: dict[str, Any] = {"answer": (signature, codegen)}
        exec(f"def typed(context{names}): return answer", scope)
        return intrinsic(scope["typed"])

    return wrap


def _mark(builder: Any, access: Any, scope: int) -> None:
    module = builder.module
    domain = module.add_metadata([ir.MetaDataString(module, "stepwell")])
    scopes = [module.add_metadata([ir.MetaDataString(module, f"stepwell.array{i}"), domain]) for i in range(SCOPES)]
    access.set_metadata("alias.scope", module.add_metadata([scopes[scope]]))
    access.set_metadata("noalias", module.add_metadata([s for i, s in enumerate(scopes) if i != scope]))


def _raw_load(storage: str, scope: int) -> Any:
    element, numba_type, width = _STORED[storage]

    @llvm(numba_type, types.int64, types.int64)
    def load(builder: Any, address: Any, index: Any) -> Any:
        value = builder.load(builder.gep(builder.inttoptr(address, element.as_pointer()), [index]), align=width)
        _mark(builder, value, scope)
        return value

    return load


def _raw_store(storage: str, scope: int) -> Any:
    element, numba_type, width = _STORED[storage]

    @llvm(types.void, types.int64, types.int64, numba_type)
    def store(builder: Any, address: Any, index: Any, value: Any) -> None:
        pointer = builder.gep(builder.inttoptr(address, element.as_pointer()), [index])
        _mark(builder, builder.store(value, pointer, align=width), scope)

    return store


def _scratch(count: int) -> Any:
    @llvm(types.int64)
    def scratch(builder: Any) -> Any:
        """The address of so many float32 numbers that a kernel has while it runs."""
        with builder.goto_entry_block():
            place = builder.alloca(_F32, _word(count))
        place.align = 64
        return builder.ptrtoint(place, ir.IntType(64))

    return scratch


class _Table(dict[Any, Any]):
    """Made on demand: a kernel uses few of them, and each costs an import some time."""

    def __init__(self, make: Callable[..., Any]) -> None:
        super().__init__()
        self.make = make

    def __missing__(self, key: Any) -> Any:
        self[key] = self.make(*key)
        return self[key]


SCRATCH = _Table(_scratch)
RAW_LOAD = _Table(_raw_load)
RAW_STORE = _Table(_raw_store)


@intrinsic
def select(typing_context: Any, condition: Any, a: Any, b: Any) -> Any:
    """a if condition else b, without a branch."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(args[0], args[1], args[2])

    kind = types.unliteral(a)
    return kind(types.boolean, kind, kind), codegen


# The job: what a kernel is told. int64 words (see cpu.py), the first of which counts the spans that are taken.


def _table(element: Any, numba_type: Any) -> Any:
    @llvm(numba_type, types.int64, types.int64)
    def load(builder: Any, address: Any, index: Any) -> Any:
        return builder.load(builder.gep(builder.inttoptr(address, element.as_pointer()), [index]))

    return load


load_word = _table(ir.IntType(64), types.int64)
load_number = _table(ir.DoubleType(), types.float64)
load_count = _table(_F32, types.float32)


@llvm(types.void, types.int64, types.int64, types.float64)
def store_number(builder: Any, address: Any, index: Any, value: Any) -> None:
    builder.store(value, builder.gep(builder.inttoptr(address, ir.DoubleType().as_pointer()), [index]))


@intrinsic
def add_in_any_order(typing_context: Any, a: Any, b: Any) -> Any:
    """a + b, where LLVM may add up a loop in vectors."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fadd(args[0], args[1], flags=("reassoc", "nsz"))

    return a(a, a), codegen


def _of_job(element: Any, numba_type: Any) -> Any:
    @llvm(numba_type, types.voidptr, types.int64)
    def load(builder: Any, job: Any, index: Any) -> Any:
        return builder.load(builder.gep(builder.bitcast(job, element.as_pointer()), [index]))

    return load


job_word = _of_job(ir.IntType(64), types.int64)
job_number = _of_job(ir.DoubleType(), types.float64)


@llvm(types.int64, types.voidptr)
def next_span(builder: Any, job: Any) -> Any:
    """Take the next span; whichever thread is free does."""
    word = ir.IntType(64)
    return builder.atomic_rmw("add", builder.bitcast(job, word.as_pointer()), ir.Constant(word, 1), "monotonic")


# Weights and slots of 16 bits


@llvm(types.float32, types.uint16)
def f32_of_bf16(builder: Any, bits: Any) -> Any:
    return builder.bitcast(builder.shl(builder.zext(bits, _WORD), _word(16)), _F32)


@llvm(types.uint16, types.float32)
def bf16_of_f32(builder: Any, value: Any) -> Any:
    """To the nearest, ties to even; NaN stays NaN.

    The choice is made before bits are cut off: vectors of 16-bit numbers would have the condition in 32 bits and narrow
    it, too.
    """
    bits = builder.bitcast(value, _WORD)
    odd = builder.and_(builder.lshr(bits, _word(16)), _word(1))
    rounded = builder.add(builder.add(bits, _word(0x7FFF)), odd)
    bits = builder.select(builder.fcmp_unordered("uno", value, value), _word(0x7FC00000), rounded)
    return builder.trunc(builder.lshr(bits, _word(16)), _HALF)


@llvm(types.uint16, types.float32, types.uint32)
def bf16_stochastic(builder: Any, value: Any, random: Any) -> Any:
    """Up or down: 16 random bits are added and carry with the probability of the bits that are cut off.

    Infinity has none there, and stays what it is. To NaN nothing is added.
    """
    added = builder.select(builder.fcmp_ordered("ord", value, value), random, _word(0))
    return builder.trunc(builder.lshr(builder.add(builder.bitcast(value, _WORD), added), _word(16)), _HALF)


@llvm(types.float32, types.uint16)
def f32_of_fp16(builder: Any, bits: Any) -> Any:
    return builder.fpext(builder.bitcast(bits, _F16), _F32)


@llvm(types.uint16, types.float32)
def fp16_of_f32(builder: Any, value: Any) -> Any:
    return builder.bitcast(builder.fptrunc(value, _F16), _HALF)


def _power_of_two(builder: Any, value: Any, lowest: int, less: int) -> Any:
    """2**(exponent of `value` - less), the exponent (biased) at least `lowest`."""
    exponent = builder.and_(builder.lshr(builder.bitcast(value, _WORD), _word(23)), _word(0xFF))
    exponent = builder.select(builder.icmp_unsigned("<", exponent, _word(lowest)), _word(lowest), exponent)
    return builder.bitcast(builder.shl(builder.sub(exponent, _word(less)), _word(23)), _F32)


@llvm(types.uint16, types.float32, types.uint32)
def fp16_stochastic(builder: Any, value: Any, random: Any) -> Any:
    """Shifted by up to half of the spacing of fp16 numbers, then to the nearest."""
    spacing = _power_of_two(builder, value, 127 - 14, 10)
    uniform = builder.fadd(builder.uitofp(random, _F32), ir.Constant(_F32, 0.5))
    shift = builder.fsub(builder.fmul(uniform, ir.Constant(_F32, 2.0**-16)), ir.Constant(_F32, 0.5))
    moved = builder.fadd(value, builder.fmul(shift, spacing))
    return builder.bitcast(builder.fptrunc(moved, _F16), _HALF)


@llvm(types.float32, types.uint16, types.uint16)
def join_bf16(builder: Any, high: Any, low: Any) -> Any:
    bits = builder.shl(builder.zext(high, _WORD), _word(16))
    joined = builder.bitcast(builder.add(bits, builder.sext(low, _WORD)), _F32)
    return builder.select(builder.fcmp_unordered("uno", joined, joined), builder.bitcast(bits, _F32), joined)


def _bits_of(builder: Any, value: Any) -> Any:
    """The bits of a float32, those of a quiet NaN for every NaN."""
    bits = builder.bitcast(value, _WORD)
    return builder.select(builder.fcmp_unordered("uno", value, value), _word(0x7FC00000), bits)


@llvm(types.uint16, types.float32)
def split_high_bf16(builder: Any, value: Any) -> Any:
    bits = builder.add(_bits_of(builder, value), _word(0x8000))
    return builder.trunc(builder.lshr(bits, _word(16)), _HALF)


@llvm(types.uint16, types.float32)
def split_low_bf16(builder: Any, value: Any) -> Any:
    return builder.trunc(_bits_of(builder, value), _HALF)  # the carry into the high half makes it signed


@llvm(types.float32, types.uint16, types.uint16)
def join_fp16(builder: Any, high: Any, low: Any) -> Any:
    half = builder.fpext(builder.bitcast(high, _F16), _F32)
    unit = _power_of_two(builder, half, 127 - 15, 24)
    joined = builder.fadd(half, builder.fmul(builder.sitofp(low, _F32), unit))
    same = builder.fcmp_ordered("==", builder.fptrunc(joined, _F16), builder.bitcast(high, _F16))
    return builder.select(same, joined, half)


@llvm(types.uint16, types.float32)
def split_low_fp16(builder: Any, value: Any) -> Any:
    half = builder.fpext(builder.fptrunc(value, _F16), _F32)
    residual = builder.fdiv(builder.fsub(value, half), _power_of_two(builder, half, 127 - 15, 24))
    magnitude = builder.and_(builder.bitcast(residual, _WORD), _word(0x7FFFFFFF))
    finite = builder.icmp_unsigned("<", magnitude, _word(0x7F800000))
    residual = builder.select(finite, residual, ir.Constant(_F32, 0.0))
    rint = builder.module.declare_intrinsic("llvm.rint", [_F32])
    return builder.trunc(builder.fptosi(builder.call(rint, [residual]), _WORD), _HALF)


split_high_fp16 = fp16_of_f32


def _compiled(function: Callable[..., Any], *made_of: Any) -> Any:
    """`njit` of a function made for some arguments, under a name that tells them.

    The name becomes a symbol, and machine code of kernels that different processes compiled is linked by symbols when
    it is read from the cache: two functions of one name would be taken for one another (seen once in 200 kernels).
    """
    name = "_".join([function.__name__.strip("<>"), *map(str, made_of)])
    function.__name__ = function.__qualname__ = name
    return njit(error_model="numpy")(function)


def _load(storage: str, scope: int) -> Any:
    if storage in ("fp32", "fp64"):
        return RAW_LOAD[storage, scope]
    raw, widen = RAW_LOAD["16", scope], f32_of_bf16 if storage == "bf16" else f32_of_fp16
    return _compiled(lambda address, index: widen(raw(address, index)), "load", storage, scope)


def _store(storage: str, scope: int) -> Any:
    if storage in ("fp32", "fp64"):
        return RAW_STORE[storage, scope]
    raw, narrow = RAW_STORE["16", scope], bf16_of_f32 if storage == "bf16" else fp16_of_f32
    return _compiled(lambda address, index, value: raw(address, index, narrow(value)), "store", storage, scope)


LOAD = _Table(_load)
STORE = _Table(_store)


# Random bits (randomness.mix, in 32-bit arithmetic)


def _scatter(builder: Any, x: Any) -> Any:
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = builder.mul(builder.xor(x, builder.lshr(x, _word(shift))), _word(factor))
    return builder.xor(x, builder.lshr(x, _word(16)))


def _scatter_once(builder: Any, x: Any) -> Any:
    """randomness.mix_once."""
    x = _scatter_upper(builder, x)
    return builder.xor(x, builder.lshr(x, _word(15)))


def _scatter_upper(builder: Any, x: Any) -> Any:
    """randomness.mix_upper."""
    return builder.mul(builder.xor(x, builder.lshr(x, _word(16))), _word(0x846CA68B))


@llvm(types.uint32, types.int64, types.int64)
def key_of(builder: Any, salt: Any, turn: Any) -> Any:
    """randomness.key_of from `randomness.salts` and what the step adds."""
    scattered = _scatter(builder, builder.trunc(builder.add(salt, turn), _WORD))
    return builder.add(scattered, builder.trunc(builder.lshr(salt, salt.type(32)), _WORD))


@llvm(types.uint32, types.uint32, types.int64)
def unscattered(builder: Any, key: Any, place: Any) -> Any:
    """What is scattered for the element at `place`."""
    return builder.add(builder.mul(builder.trunc(place, _WORD), _word(ELEMENT_FACTOR)), key)


@llvm(types.uint32, types.uint32)
def next_unscattered(builder: Any, word: Any) -> Any:
    """The same for the next element. A loop that counts in it has one addition of 32-bit numbers for each element; one
    that takes it from an index narrows two vectors of 64-bit numbers and multiplies."""
    return builder.add(word, _word(ELEMENT_FACTOR))


@llvm(types.uint32, types.uint32)
def random_bits(builder: Any, word: Any) -> Any:
    """32 random bits from what is `unscattered`."""
    return _scatter_once(builder, word)


@llvm(types.uint32, types.uint32, types.int64)
def stream(builder: Any, key: Any, number: Any) -> Any:
    return builder.add(key, builder.mul(builder.trunc(number, _WORD), _word(0x165667B1)))


@llvm(types.uint32, types.uint32)
def low_half(builder: Any, random: Any) -> Any:
    return builder.and_(random, _word(0xFFFF))


@llvm(types.uint32, types.uint32)
def high_half(builder: Any, random: Any) -> Any:
    return builder.lshr(random, _word(16))


@llvm(types.uint32, types.uint32, types.int64)
def _turned_low(builder: Any, word: Any, step: Any) -> Any:
    """The 16 random bits of randomness.code_bits at a step, from the lower half of a word."""
    turn = builder.mul(builder.trunc(step, _WORD), _word(TURN))
    return builder.and_(builder.add(word, turn), _word(0xFFFF))


@llvm(types.uint32, types.uint32, types.int64)
def _turned_high(builder: Any, word: Any, step: Any) -> Any:
    """The same from the upper half: added there, what is too much is lost without a mask."""
    turn = builder.mul(builder.trunc(step, _WORD), _word(TURN << 16 & 0xFFFFFFFF))
    return builder.lshr(builder.add(word, turn), _word(16))


# Blocks of codes. A block is decoded into a buffer of float32, updated there, and encoded again: the loop over its
# elements is the same as for fp32, and both conversions are loops of their own that stay in the first-level cache.


# While new values are made, the largest magnitude of their block is found, and the least, as bits: LLVM vectorises
# maxima of integers, and leaves those of floats scalar. Whatever else a scale can depend on is rare, and looked at
# afterwards: numbers that are not finite, and few that are far larger than all others.


@llvm(types.uint32)
def no_magnitude(builder: Any) -> Any:
    return _word(0)


@llvm(types.uint32)
def any_magnitude(builder: Any) -> Any:
    """Above all others."""
    return _word(0xFFFFFFFF)


@llvm(types.uint32, types.float32)
def magnitude(builder: Any, value: Any) -> Any:
    """The bits of |x|."""
    return builder.and_(builder.bitcast(value, _WORD), _word(0x7FFFFFFF))


@llvm(types.uint32, types.uint32, types.uint32)
def larger(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.icmp_unsigned(">", a, b), a, b)


@llvm(types.uint32, types.uint32, types.uint32)
def smaller(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.icmp_unsigned("<", a, b), a, b)


@llvm(types.boolean, types.uint32)
def _all_finite(builder: Any, largest: Any) -> Any:
    return builder.icmp_unsigned("<", largest, _word(0x7F800000))


@llvm(types.uint32)
def _largest_finite(builder: Any) -> Any:
    return _word(0x7F7FFFFF)


@llvm(types.boolean, types.uint32, types.uint32)
def _is_above(builder: Any, bits: Any, limit: Any) -> Any:
    return builder.icmp_unsigned(">", bits, limit)


@llvm(types.uint32, types.uint32)
def _not_zero(builder: Any, bits: Any) -> Any:
    """1 or 0."""
    return builder.zext(builder.icmp_unsigned("!=", bits, _word(0)), _WORD)


@llvm(types.uint32, types.uint32, types.uint32)
def _larger_if_not_above(builder: Any, bits: Any, limit: Any) -> Any:
    """`bits`, but 0 where they are above a limit."""
    return builder.select(builder.icmp_unsigned(">", bits, limit), _word(0), bits)


@llvm(types.uint32, types.uint32, types.uint32)
def _is_outlier(builder: Any, bits: Any, limit: Any) -> Any:
    """1 for what is above a limit (which is below infinity) or not a number, else 0."""
    return builder.zext(builder.icmp_unsigned(">", bits, limit), _WORD)


@llvm(types.uint32, types.uint32, types.uint32)
def added(builder: Any, a: Any, b: Any) -> Any:
    return builder.add(a, b)


@llvm(types.uint32, types.uint32, types.uint32)
def _limit_of(builder: Any, largest: Any, spread: Any) -> Any:
    """The bits of the largest / 2**spread; 0 below the normal numbers."""
    less = builder.shl(spread, _word(23))
    above = builder.icmp_unsigned(">", largest, less)
    return builder.select(above, builder.sub(largest, less), _word(0))


@llvm(types.uint32)
def _some(builder: Any) -> Any:
    """More than a few."""
    return _word(0xFFFF)


@llvm(types.float32, *[types.uint32] * 7)
def _scale_of(
    builder: Any, largest: Any, others: Any, outliers: Any, full: Any, few: Any, room: Any, dithered: Any
) -> Any:
    """blocks.Blockwise.scales: `full` is 1 where the block has no zero."""
    without = builder.and_(builder.icmp_unsigned("<=", outliers, few), builder.icmp_unsigned(">", others, _word(0)))
    top = builder.select(without, others, largest)
    itself = builder.or_(builder.and_(_least(builder, top, HUGE), _word(0xFFFFFFFE)), full)
    power = builder.and_(builder.add(top, room), _word(0x7F800000))
    power = _least(builder, builder.add(power, _word(0x00800000)), HUGE)
    normal = builder.icmp_unsigned(">=", top, _word(TINY))
    return builder.bitcast(
        builder.select(normal, builder.select(builder.trunc(dithered, ir.IntType(1)), itself, power), _word(0)), _F32
    )


@llvm(types.float32, types.float32)
def _inverse_of(builder: Any, scale: Any) -> Any:
    """1 / scale; 0 for 0."""
    zero = ir.Constant(_F32, 0.0)
    inverse = builder.fdiv(ir.Constant(_F32, 1.0), scale)
    return builder.select(builder.fcmp_ordered(">", scale, zero), inverse, zero)


def _least(builder: Any, bits: Any, most: int) -> Any:
    return builder.select(builder.icmp_unsigned("<", bits, _word(most)), bits, _word(most))


def _back(builder: Any, code: Blockwise, root: Any, offset: int, may_be_zero: bool = True) -> Any:
    """blocks.Blockwise._back, for an offset. The root of 0 alone has fewer bits than the offset: those of the least
    code and of the least dithered place have more."""
    bits = builder.bitcast(root, _WORD)
    if may_be_zero:
        bits = builder.select(builder.icmp_unsigned(">", bits, _word(offset)), bits, _word(offset))
    return builder.bitcast(builder.shl(builder.sub(bits, _word(offset)), _word(code.shift)), _F32)


def _offset_of_codes(code: Blockwise) -> int:
    """What takes the bits of y to those of its code, a float32: the root's offset and a product with the count, which
    is a power of two."""
    return code.offset + ((code.count.bit_length() - 1) << 23)


def _uniform(builder: Any, random: Any) -> Any:
    return builder.fmul(builder.sitofp(random, _F32), ir.Constant(_F32, 2.0**-16))


def _dither(builder: Any, word: Any) -> Any:
    """blocks.Blockwise._dither of one place, from what is `unscattered` with the bits of the scale."""
    return builder.lshr(_scatter_upper(builder, word), _word(32 - FRACTION))


@llvm(types.uint32, types.float32)
def _dither_key(builder: Any, scale: Any) -> Any:
    return builder.bitcast(scale, _WORD)


def _full(builder: Any, scale: Any) -> Any:
    """Whether a dithered block has no zero."""
    return builder.trunc(builder.bitcast(scale, _WORD), ir.IntType(1))


def _either(builder: Any, condition: Any, a: float, b: float) -> Any:
    return builder.select(condition, ir.Constant(_F32, a), ir.Constant(_F32, b))


def _with_sign_of(builder: Any, magnitude: Any, value: Any) -> Any:
    sign = builder.and_(builder.bitcast(value, _WORD), _word(0x80000000))
    return builder.bitcast(builder.or_(builder.bitcast(magnitude, _WORD), sign), _F32)


def _decode_one(name: str, signed: bool) -> Any:
    code = CODES[name, signed]

    @llvm(types.float32, types.uint32, types.float32)
    def decode(builder: Any, bits: Any, scale: Any) -> Any:
        magnitude = builder.and_(bits, _word(code.count - 1))
        value = builder.fmul(_back(builder, code, builder.sitofp(magnitude, _F32), _offset_of_codes(code)), scale)
        if code.signed:
            sign = builder.shl(builder.and_(bits, _word(code.count)), _word(32 - code.bits))
            value = builder.bitcast(builder.xor(builder.bitcast(value, _WORD), sign), _F32)
        return value

    @llvm(types.float32, types.uint32, types.float32, types.uint32)
    def decode_dithered(builder: Any, bits: Any, scale: Any, word: Any) -> Any:
        u, full = _dither(builder, word), _full(builder, scale)
        # code - 8 + (1 or 1/2) - u, times 2**FRACTION.
        middle = builder.select(full, _word(-14 << FRACTION - 1), _word(-15 << FRACTION - 1))
        place = builder.add(builder.sub(builder.shl(bits, _word(FRACTION)), u), middle)
        sign = builder.and_(place, _word(0x80000000))
        size = builder.bitcast(
            builder.and_(builder.bitcast(builder.sitofp(place, _F32), _WORD), _word(0x7FFFFFFF)), _F32
        )
        factors = (float(np.float32(x)) * 2.0**-FRACTION for x in (1 / 7.5, 1 / 7))
        size = builder.fmul(size, _either(builder, full, *factors))
        value = builder.bitcast(builder.fmul(_back(builder, code, size, code.offset), scale), _WORD)
        zero = builder.select(full, _word(16), _word(0))  # the code of 0: none in a full block
        value = builder.select(builder.icmp_unsigned("==", bits, zero), _word(0), builder.or_(value, sign))
        return builder.bitcast(value, _F32)

    return decode_dithered if code.dithered else decode


def _largest_coded(code: Blockwise) -> float:
    """Of all y, that of the largest code."""
    bits = np.float32(code.count - 1).view(np.int32) - _offset_of_codes(code) << code.shift
    return float(np.int32(bits).view(np.float32))


def _encode_one(name: str, signed: bool) -> Any:
    code = CODES[name, signed]

    def limited(builder: Any, bits: Any, inverse: Any, most: Any) -> Any:
        """|x| / scale, at most `most`; also where it is not a number."""
        y = builder.fmul(builder.bitcast(builder.and_(bits, _word(0x7FFFFFFF)), _F32), inverse)
        return builder.select(builder.fcmp_ordered("<", y, most), y, most)

    def root_of(builder: Any, y: Any, offset: int) -> Any:
        return builder.bitcast(
            builder.add(builder.lshr(builder.bitcast(y, _WORD), _word(code.shift)), _word(offset)), _F32
        )

    @llvm(types.uint32, types.float32, types.float32, types.uint32)
    def encode(builder: Any, value: Any, inverse: Any, random: Any) -> Any:
        bits = builder.bitcast(value, _WORD)
        # Limited to what has the largest code, and not to 1, the code has no limit: it is rounded up by less than 1.
        y = limited(builder, bits, inverse, ir.Constant(_F32, _largest_coded(code)))
        offset = _offset_of_codes(code)
        if code.bits == 8:  # times 2**16, so that random bits are added as they are
            place = builder.fptosi(root_of(builder, y, offset + (16 << 23)), _WORD)
            magnitude = builder.lshr(builder.add(place, random), _word(16))
        else:
            place, part = root_of(builder, y, offset), _uniform(builder, random)
            low = builder.call(builder.module.declare_intrinsic("llvm.trunc", [_F32]), [place])
            high = builder.fadd(low, ir.Constant(_F32, 1.0))
            below, above = _back(builder, code, low, offset), _back(builder, code, high, offset, may_be_zero=False)
            wanted = builder.fmul(part, builder.fsub(above, below))
            nearer = builder.select(builder.fcmp_ordered(">", builder.fsub(y, below), wanted), high, low)
            magnitude = builder.fptosi(nearer, _WORD)
        if code.signed:
            sign = builder.lshr(builder.and_(bits, _word(0x80000000)), _word(32 - code.bits))
            return builder.or_(magnitude, sign)
        # A second moment that is not zero is never stored as zero: it is divided by. Numbers above zero are those whose
        # bits are.
        least = builder.select(builder.icmp_signed("<", bits, _word(1)), bits, _word(1))
        return builder.select(builder.icmp_signed(">", magnitude, least), magnitude, least)

    @llvm(types.uint32, types.float32, types.float32, types.float32, types.uint32)
    def encode_dithered(builder: Any, value: Any, inverse: Any, scale: Any, word: Any) -> Any:
        y = limited(builder, builder.bitcast(value, _WORD), inverse, ir.Constant(_F32, 1.0))
        root, u, full = root_of(builder, y, code.offset), _dither(builder, word), _full(builder, scale)
        size = _either(builder, full, 7.5 * 2.0**FRACTION, 7.0 * 2.0**FRACTION)
        moved = builder.fptosi(builder.fmul(_with_sign_of(builder, root, value), size), _WORD)
        middle = builder.select(full, _word(15 << FRACTION - 1), _word(16 << FRACTION - 1))
        place = builder.lshr(builder.add(builder.add(moved, u), middle), _word(FRACTION))
        # Where there is a zero; unequal to NaN is every number.
        zero = _either(builder, full, math.nan, 0.0)
        return builder.select(builder.fcmp_unordered("une", value, zero), place, _word(0))

    return encode_dithered if code.dithered else encode


@llvm(types.uint8, types.uint32)
def _byte(builder: Any, word: Any) -> Any:
    return builder.trunc(word, _BYTE)


@llvm(types.uint32, types.uint8)
def _widen(builder: Any, byte: Any) -> Any:
    return builder.zext(byte, _WORD)


@llvm(types.uint8, types.uint32, types.uint32)
def _pair(builder: Any, low: Any, high: Any) -> Any:
    return builder.trunc(builder.or_(low, builder.shl(high, _word(4))), _BYTE)


@llvm(types.uint32, types.uint8)
def _low_code(builder: Any, byte: Any) -> Any:
    return builder.and_(builder.zext(byte, _WORD), _word(15))


@llvm(types.uint32, types.uint8)
def _high_code(builder: Any, byte: Any) -> Any:
    return builder.lshr(builder.zext(byte, _WORD), _word(4))


def _decoder(name: str, signed: bool, scope: int) -> Any:
    code = CODES[name, signed]
    decode, store = _decode_one(name, signed), RAW_STORE["fp32", scope]
    load, load_largest = RAW_LOAD["8", _CODES_SCOPE], RAW_LOAD["fp32", _LARGEST_SCOPE]
    block, half = code.block, code.block // 2

    def decode_int4(codes: Any, largest_at: Any, buffer: Any, count: Any) -> None:
        whole = count // block
        for part in range(whole):
            scale, at, first = load_largest(largest_at, part), part * half, part * block
            for i in range(half):
                store(buffer, first + i, decode(_low_code(load(codes, at + i)), scale))
            for i in range(half):
                store(buffer, first + half + i, decode(_high_code(load(codes, at + i)), scale))
        if whole * block < count:  # a short block at the end of a line: see blocks.Blockwise._packed
            scale, at, first = load_largest(largest_at, whole), whole * half, whole * block
            for i in range((count - first + 1) // 2):
                store(buffer, first + 2 * i, decode(_low_code(load(codes, at + i)), scale))
                store(buffer, first + 2 * i + 1, decode(_high_code(load(codes, at + i)), scale))

    def decode_dithered(codes: Any, largest_at: Any, buffer: Any, count: Any) -> None:
        whole = count // block
        for part in range(whole):
            scale, at, first = load_largest(largest_at, part), part * half, part * block
            word = unscattered(_dither_key(scale), 0)
            for i in range(half):
                store(buffer, first + i, decode(_low_code(load(codes, at + i)), scale, word))
                word = next_unscattered(word)
            for i in range(half):
                store(buffer, first + half + i, decode(_high_code(load(codes, at + i)), scale, word))
                word = next_unscattered(word)
        if whole * block < count:
            scale, at, first = load_largest(largest_at, whole), whole * half, whole * block
            word = unscattered(_dither_key(scale), 0)
            for i in range((count - first + 1) // 2):
                there = next_unscattered(word)
                store(buffer, first + 2 * i, decode(_low_code(load(codes, at + i)), scale, word))
                store(buffer, first + 2 * i + 1, decode(_high_code(load(codes, at + i)), scale, there))
                word = next_unscattered(there)

    return _compiled(decode_dithered if code.dithered else decode_int4, signed, scope)


def _loader_int8(signed: bool) -> Any:
    """One element of int8 codes, decoded where it is used: a buffer would cost a store and a load more."""
    # The scope of the codes that the encoder stores, or LLVM may take those stores before these loads.
    decode, load = _decode_one("int8", signed), RAW_LOAD["8", _CODES_SCOPE]
    return _compiled(lambda codes, i, largest: decode(_widen(load(codes, i)), largest), "load_int8", signed)


_SAMPLE = 32  # elements of a block that are looked at before all of them


@llvm(types.void)
def _apart(builder: Any) -> None:
    """Keeps a function a function. Part of the kernel, a loop would find the registers taken by what the kernel needs
    afterwards, and load its constants anew for each vector."""
    builder.function.attributes.add("noinline")


def _scale_found(buffer: Any, count: Any, top: Any, least: Any, spread: Any, few: Any, room: Any, dithered: Any) -> Any:
    """The scale of the values of a block, from the bits of the largest magnitude and of the least, and the properties
    of the code.

    It is one function for all codes, without others inside: Numba optimizes each function again in all that call it,
    and a function for each code took a third of a first step without kernels on disk.
    """
    _apart()
    if not _all_finite(top):
        largest = no_magnitude()
        for i in range(count):
            largest = larger(largest, _larger_if_not_above(magnitude(_load_any(buffer, i)), _largest_finite()))
        top = largest
    others, outliers, limit = no_magnitude(), _some(), _limit_of(top, spread)
    if not _is_above(least, limit):  # else all are above the limit, which are no outliers
        sample = no_magnitude()
        for i in range(min(count, _SAMPLE)):
            sample = added(sample, _is_outlier(magnitude(_load_any(buffer, i)), limit))
        if sample <= few:  # of the rest there may be some, too
            outliers = no_magnitude()
            for i in range(count):
                bits = magnitude(_load_any(buffer, i))
                outliers = added(outliers, _is_outlier(bits, limit))
                others = larger(others, _larger_if_not_above(bits, limit))
    return _scale_of(top, others, outliers, _not_zero(least), few, room, dithered)


_load_any = RAW_LOAD["fp32", 0]
_find_scale = _compiled(_scale_found)


def _encoder(name: str, signed: bool, scope: int, half_of_random: str) -> Any:
    """Takes the values of a block, words of random bits for them, and the bits of their largest magnitude and of the
    least."""
    code = CODES[name, signed]
    encode, load = _encode_one(name, signed), RAW_LOAD["fp32", scope]
    store, store_largest = RAW_STORE["8", _CODES_SCOPE], RAW_STORE["fp32", _LARGEST_SCOPE]
    store_value, load_random = RAW_STORE["fp32", scope], RAW_LOAD["32", _RANDOM_SCOPE]
    taken = _turned_low if half_of_random == "low" else _turned_high
    block, half = code.block, code.block // 2
    spread, few, room, dithered = map(np.uint32, (code.spread, code.few, code.room, code.dithered))

    def encode_int8(
        codes: Any, largest_at: Any, buffer: Any, count: Any, words: Any, step: Any, top: Any, least: Any
    ) -> None:
        _apart()
        scale = _find_scale(buffer, count, top, least, spread, few, room, dithered)
        store_largest(largest_at, 0, scale)
        inverse = _inverse_of(scale)
        for i in range(count):
            random = taken(load_random(words, i), step)
            store(codes, i, _byte(encode(load(buffer, i), inverse, random)))

    def encode_int4(
        codes: Any, largest_at: Any, buffer: Any, count: Any, words: Any, step: Any, top: Any, least: Any
    ) -> None:
        _apart()
        if count < block:  # filled up with zeros, of which an odd number of elements has one beside its last
            least = no_magnitude()
            store_value(buffer, count, types.float32(0))
        scale = _find_scale(buffer, count, top, least, spread, few, room, dithered)
        store_largest(largest_at, 0, scale)
        inverse = _inverse_of(scale)
        if count == block:
            for i in range(half):
                here = taken(load_random(words, i), step)
                there = taken(load_random(words, half + i), step)
                low, high = encode(load(buffer, i), inverse, here), encode(load(buffer, half + i), inverse, there)
                store(codes, i, _pair(low, high))
        else:
            for i in range((count + 1) // 2):
                here = taken(load_random(words, 2 * i), step)
                there = taken(load_random(words, 2 * i + 1), step)
                low, high = encode(load(buffer, 2 * i), inverse, here), encode(load(buffer, 2 * i + 1), inverse, there)
                store(codes, i, _pair(low, high))

    def encode_dithered(
        codes: Any, largest_at: Any, buffer: Any, count: Any, words: Any, step: Any, top: Any, least: Any
    ) -> None:
        _apart()
        if count < block:  # filled up with zeros, of which an odd number of elements has one beside its last
            least = no_magnitude()
            store_value(buffer, count, types.float32(0))
        scale = _find_scale(buffer, count, top, least, spread, few, room, dithered)
        store_largest(largest_at, 0, scale)
        inverse = _inverse_of(scale)
        if count == block:
            here, there = unscattered(_dither_key(scale), 0), unscattered(_dither_key(scale), half)
            for i in range(half):
                low, high = (
                    encode(load(buffer, i), inverse, scale, here),
                    encode(load(buffer, half + i), inverse, scale, there),
                )
                store(codes, i, _pair(low, high))
                here, there = next_unscattered(here), next_unscattered(there)
        else:
            here = unscattered(_dither_key(scale), 0)
            for i in range((count + 1) // 2):
                there = next_unscattered(here)
                low = encode(load(buffer, 2 * i), inverse, scale, here)
                high = encode(load(buffer, 2 * i + 1), inverse, scale, there)
                store(codes, i, _pair(low, high))
                here = next_unscattered(there)

    function = encode_int8 if name == "int8" else encode_dithered if code.dithered else encode_int4
    return _compiled(function, signed, scope, half_of_random)


def _encoder_of_blocks(name: str, signed: bool, scope: int, half_of_random: str) -> Any:
    """The same for the values of several blocks, of int4 beside int8: those of one step of the loop."""
    encode, load, block = (
        ENCODE[name, signed, scope, half_of_random],
        RAW_LOAD["fp32", scope],
        CODES[name, signed].block,
    )
    half = block // 2

    def encode_blocks(codes: Any, largest_at: Any, buffer: Any, count: Any, words: Any, step: Any) -> None:
        for first in range(0, count, block):
            values, here = buffer + first * 4, min(block, count - first)
            top, least = no_magnitude(), any_magnitude()
            for i in range(here):
                bits = magnitude(load(values, i))
                top, least = larger(top, bits), smaller(least, bits)
            part = first // block
            encode(codes + part * half, largest_at + part * 4, values, here, words + first * 4, step, top, least)

    return _compiled(encode_blocks, signed, scope, half_of_random)


DECODE = _Table(_decoder)
LOAD_INT8 = _Table(_loader_int8)
load_largest = RAW_LOAD["fp32", _LARGEST_SCOPE]
store_random = RAW_STORE["32", _RANDOM_SCOPE]
ENCODE = _Table(_encoder)
ENCODE_BLOCKS = _Table(_encoder_of_blocks)


# The operations of stepwell.ops. As functions in Python each would cost a first step without kernels on disk 0.03 s.


def _of_one(body: Callable[..., Any]) -> Any:
    """Makes (builder, x) -> value of the same type into a function for kernels."""

    @intrinsic
    def typed(context: Any, x: Any) -> Any:
        kind = types.unliteral(x)
        return kind(kind), lambda context, builder, signature, args: body(builder, args[0])

    return typed


def _of_two(body: Callable[..., Any]) -> Any:
    """The same of (builder, a, b), with b in the type of a."""

    @intrinsic
    def typed(context: Any, a: Any, b: Any) -> Any:
        kind = types.unliteral(a)
        return kind(kind, kind), lambda context, builder, signature, args: body(builder, *args)

    return typed


def _sign(builder: Any, x: Any) -> Any:
    zero = ir.Constant(x.type, 0.0)
    negative = builder.select(builder.fcmp_ordered("<", x, zero), ir.Constant(x.type, -1.0), zero)
    return builder.select(builder.fcmp_ordered(">", x, zero), ir.Constant(x.type, 1.0), negative)


def _called_by_llvm(name: str) -> Any:
    return _of_one(lambda builder, x: builder.call(builder.module.declare_intrinsic(name, [x.type]), [x]))


def _extreme(how: str) -> Any:
    def body(builder: Any, a: Any, b: Any) -> Any:
        is_nan = builder.fcmp_unordered("uno", a, a)
        return builder.select(builder.or_(builder.fcmp_ordered(how, a, b), is_nan), a, b)

    return _of_two(body)


sqrt, abs, sign = _called_by_llvm("llvm.sqrt"), _called_by_llvm("llvm.fabs"), _of_one(_sign)
maximum, minimum = _extreme(">"), _extreme("<")
not_ = _of_one(lambda builder, condition: builder.not_(condition))
where = select


@njit(error_model="numpy")
def log(x: Any) -> Any:
    """Of a float64 number."""
    return math.log(x)
