"""What a printed CPU kernel calls: memory access by address, and the operations of `stepwell.ops` on scalars.

Loads and stores say to LLVM that the arrays of one kernel (parameter, gradient, slots) do not overlap: each array has
an alias scope of its own. Without it the loop vectoriser compares all pairs of addresses at run time, and gives up
beyond four arrays (measured: a kernel over five arrays went from scalar code to the memory limit).
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

ARRAYS = 12  # parameter, gradient and slots of one kernel

_IR = {"fp32": ir.FloatType(), "fp64": ir.DoubleType(), "bf16": ir.IntType(16), "fp16": ir.IntType(16)}
_NUMBA = {"fp32": types.float32, "fp64": types.float64, "bf16": types.uint16, "fp16": types.uint16}


def _mark(builder: Any, access: Any, scope: int) -> None:
    module = builder.module
    domain = module.add_metadata([ir.MetaDataString(module, "stepwell")])
    scopes = [module.add_metadata([ir.MetaDataString(module, f"stepwell.array{i}"), domain]) for i in range(ARRAYS)]
    access.set_metadata("alias.scope", module.add_metadata([scopes[scope]]))
    access.set_metadata("noalias", module.add_metadata([s for i, s in enumerate(scopes) if i != scope]))


def _raw_load(storage: str, scope: int) -> Any:
    element, width = _IR[storage], 2 if storage in ("bf16", "fp16") else 4 if storage == "fp32" else 8

    @intrinsic
    def load(typing_context: Any, address: Any, index: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = builder.inttoptr(args[0], element.as_pointer())
            value = builder.load(builder.gep(pointer, [args[1]]), align=width)
            _mark(builder, value, scope)
            return value

        return _NUMBA[storage](types.int64, types.int64), codegen

    return load


def _raw_store(storage: str, scope: int) -> Any:
    element, width = _IR[storage], 2 if storage in ("bf16", "fp16") else 4 if storage == "fp32" else 8

    @intrinsic
    def store(typing_context: Any, address: Any, index: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = builder.inttoptr(args[0], element.as_pointer())
            _mark(builder, builder.store(args[2], builder.gep(pointer, [args[1]]), align=width), scope)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, _NUMBA[storage]), codegen

    return store


@intrinsic
def select(typing_context: Any, condition: Any, a: Any, b: Any) -> Any:
    """a if condition else b, without a branch."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(args[0], args[1], args[2])

    return a(types.boolean, a, a), codegen


@intrinsic
def _f32_of_bits(typing_context: Any, bits: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.uint32), codegen


@intrinsic
def _bits_of_f32(typing_context: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.uint32(types.float32), codegen


@intrinsic
def _f32_of_bf16(typing_context: Any, bits: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = builder.zext(args[0], ir.IntType(32))
        return builder.bitcast(builder.shl(wide, ir.Constant(ir.IntType(32), 16)), ir.FloatType())

    return types.float32(types.uint16), codegen


@intrinsic
def _bf16_of_f32(typing_context: Any, value: Any) -> Any:
    """Round to the nearest, ties to even; NaN stays NaN. Written in 32-bit integers, which Numba would widen."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word, half = ir.IntType(32), ir.IntType(16)
        bits = builder.bitcast(args[0], word)
        odd = builder.and_(builder.lshr(bits, ir.Constant(word, 16)), ir.Constant(word, 1))
        rounded = builder.add(builder.add(bits, ir.Constant(word, 0x7FFF)), odd)
        high = builder.trunc(builder.lshr(rounded, ir.Constant(word, 16)), half)
        is_nan = builder.fcmp_unordered("uno", args[0], args[0])
        return builder.select(is_nan, ir.Constant(half, 0x7FC0), high)

    return types.uint16(types.float32), codegen


@intrinsic
def _f32_of_fp16(typing_context: Any, bits: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), codegen


@intrinsic
def _fp16_of_f32(typing_context: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(builder.fptrunc(args[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), codegen


def _load(storage: str, scope: int) -> Any:
    raw = _raw_load(storage, scope)
    if storage in ("fp32", "fp64"):
        return raw
    widen = _f32_of_bf16 if storage == "bf16" else _f32_of_fp16
    return njit(lambda address, index: widen(raw(address, index)))


def _store(storage: str, scope: int) -> Any:
    raw = _raw_store(storage, scope)
    if storage in ("fp32", "fp64"):
        return raw
    narrow = _bf16_of_f32 if storage == "bf16" else _fp16_of_f32
    return njit(lambda address, index, value: raw(address, index, narrow(value)))


LOAD = {(storage, scope): _load(storage, scope) for storage in _IR for scope in range(ARRAYS)}
STORE = {(storage, scope): _store(storage, scope) for storage in _IR for scope in range(ARRAYS)}


@njit(error_model="numpy")
def sqrt(x: Any) -> Any:
    return math.sqrt(x)


@njit
def sign(x: Any) -> Any:
    one = type(x)(1)
    zero = type(x)(0)
    return select(x > zero, one, select(x < zero, -one, zero))


@njit
def abs(x: Any) -> Any:
    return math.fabs(x)


@njit
def maximum(a: Any, b: Any) -> Any:
    return select((a > b) | (a != a), a, b)


@njit
def minimum(a: Any, b: Any) -> Any:
    return select((a < b) | (a != a), a, b)


@njit
def atan2(y: Any, x: Any) -> Any:
    return math.atan2(y, x)


@njit
def where(condition: Any, a: Any, b: Any) -> Any:
    return select(condition, a, b)
