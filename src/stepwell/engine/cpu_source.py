"""The text of a CPU kernel: loads, the traced rule, stores, for one kind of launch."""

from __future__ import annotations

from dataclasses import dataclass, field

from stepwell.engine import formats
from stepwell.engine.plan import LaunchKind
from stepwell.engine.statements import statements, traced


@dataclass
class _Lines:
    """What the arrays contribute to the places of a kernel."""

    bindings: list[str] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    random: set[int] = field(default_factory=set)
    buffers: int = 0


def source(kind: LaunchKind) -> str:
    """The kernel of one kind of launch as the text of a Python module."""
    real = "float64" if kind.weights == "fp64" else "float32"
    program = statements(
        traced(kind),
        number_input=lambda name: _number(kind, name),
        rounded=lambda name: f"{real}({name})",
        number_outputs=kind.number_slots,
    )
    block = max(map(formats.block_of, kind.slot_formats), default=1)
    lines = _Lines()
    _weights(kind, lines, program.stored["p"])
    _element(lines, "g", kind.gradients, 1)
    column = 2
    for consumer, (name, storage, signed) in enumerate(zip(kind.slots, kind.slot_formats, kind.signed, strict=True)):
        if name is None or storage == formats.NUMBER:
            continue
        if storage in ("int8", "int4"):
            _blockwise(lines, name, storage, signed, column, block)
            lines.writes.append(f"store_{name}(at_{name}, i, {program.stored[name]})")
        else:
            _element(lines, name, storage, column)
            _slot_write(lines, name, storage, column, program.stored[name], consumer)
        column += len(formats.state_names(name, storage))
    if kind.rounding == "split":
        _raw(lines, formats.LOW_BITS, column)
    for name, variable in program.loaded.items():
        read = _split_read(kind) if name == "p" else f"load_{name}(at_{name}, i)"
        lines.reads.append(f"{variable} = {read}")

    numbers = [f"after[tensor, {k}] = {program.stored[name]}" for k, name in enumerate(kind.number_slots)]
    keys, bits = [], []
    if lines.random:
        keys = ["key = key_of(salts[tensor] + int64(steps[tensor]) * 0x27D4EB2F)"]
        keys += [f"key_{n} = stream(key, {n})" for n in sorted(lines.random)]
        bits = [f"random_{n} = random_bits(key_{n}, first + start + i)" for n in sorted(lines.random)]
    scratch = []
    if lines.buffers:
        scratch = [f"buffers = np.empty({lines.buffers * block}, np.float32)", "scratch = buffers.ctypes.data"]

    def indented(text: list[str], depth: int) -> str:
        return "\n".join("    " * depth + line for line in text)

    return f'''"""Printed by stepwell from the rule of {kind.rule.__module__}."""

import numpy as np
from numba import float32, float64, int64, njit, prange

from stepwell.engine.cpu_intrinsics import *

{indented(lines.bindings, 0)}


@njit(parallel=True, nogil=True, cache=True, error_model="numpy")
def kernel(pieces, spans, addresses, steps, salts, rows, gradient_factor{", before, after" if numbers else ""}):
    for thread in prange(spans.shape[0] - 1):
{indented(scratch, 2)}
        for piece in range(spans[thread], spans[thread + 1]):
            tensor, first, size, row = pieces[piece, 0], pieces[piece, 1], pieces[piece, 2], pieces[piece, 3]
{indented(program.numbers + numbers + keys, 3)}
            for start in range(0, size, {block if block > 1 else "size"}):
                count = {f"min({block}, size - start)" if block > 1 else "size"}
{indented(lines.addresses + lines.before, 4)}
                for i in range(count):
{indented(lines.reads + bits + program.elements + lines.writes, 5)}
{indented(lines.after, 4)}
'''


def _number(kind: LaunchKind, name: str) -> str:
    if name == "t":
        return "float64(steps[tensor])"
    if name in kind.number_slots:
        return f"before[tensor, {kind.number_slots.index(name)}]"
    return name if name == "gradient_factor" else f"rows[row, {kind.row_names.index(name)}]"


def _element(lines: _Lines, name: str, storage: str, column: int) -> None:
    """An array with one number per element."""
    lines.bindings += [f"load_{name} = LOAD[{storage!r}, {column}]", f"store_{name} = STORE[{storage!r}, {column}]"]
    _address(lines, name, formats.BYTES[storage], column)


def _raw(lines: _Lines, name: str, column: int) -> None:
    """An array of 16 bits that the kernel takes apart itself."""
    lines.bindings += [f"load_{name} = RAW_LOAD['16', {column}]", f"store_{name} = RAW_STORE['16', {column}]"]
    _address(lines, name, 2, column)


def _address(lines: _Lines, name: str, width: float, column: int) -> None:
    lines.addresses.append(f"at_{name} = addresses[tensor, {column}] + (first + start) * {width}")


def _half_of_random(lines: _Lines, consumer: int) -> str:
    """16 random bits; two consumers share a word."""
    lines.random.add(consumer // 2)
    return f"{'high' if consumer % 2 else 'low'}_half(random_{consumer // 2})"


def _weights(kind: LaunchKind, lines: _Lines, new: str) -> None:
    if kind.rounding == "native":
        _element(lines, "p", kind.weights, 0)
        lines.writes.append(f"store_p(at_p, i, {new})")
        return
    _raw(lines, "p", 0)
    if kind.rounding == "split":
        lines.writes.append(f"store_p(at_p, i, split_high_{kind.weights}({new}))")
        lines.writes.append(f"store_{formats.LOW_BITS}(at_{formats.LOW_BITS}, i, split_low_{kind.weights}({new}))")
    else:
        bits = _half_of_random(lines, len(kind.slots))
        lines.writes.append(f"store_p(at_p, i, {kind.weights}_stochastic({new}, {bits}))")


def _split_read(kind: LaunchKind) -> str:
    if kind.rounding == "native":
        return "load_p(at_p, i)"
    if kind.rounding == "stochastic":
        return f"f32_of_{kind.weights}(load_p(at_p, i))"
    return f"join_{kind.weights}(load_p(at_p, i), load_{formats.LOW_BITS}(at_{formats.LOW_BITS}, i))"


def _slot_write(lines: _Lines, name: str, storage: str, column: int, new: str, consumer: int) -> None:
    if storage != "bf16":
        lines.writes.append(f"store_{name}(at_{name}, i, {new})")
        return
    lines.bindings.append(f"store_raw_{name} = RAW_STORE['16', {column}]")
    bits = _half_of_random(lines, consumer)
    lines.writes.append(f"store_raw_{name}(at_{name}, i, bf16_stochastic({new}, {bits}))")


def _blockwise(lines: _Lines, name: str, storage: str, signed: bool, column: int, block: int) -> None:
    """An array of codes: its block is decoded into a buffer, updated there, and encoded again."""
    lines.bindings += [
        f"load_{name} = RAW_LOAD['fp32', {column}]",
        f"store_{name} = RAW_STORE['fp32', {column}]",
        f"decode_{name} = DECODE[{storage!r}, {signed}, {column}]",
        f"encode_{name} = ENCODE[{storage!r}, {signed}, {column}]",
    ]
    codes = "(first + start)" if storage == "int8" else "(first + start) // 2"
    lines.addresses += [
        f"at_{name} = scratch + {lines.buffers * block * 4}",
        f"codes_{name} = addresses[tensor, {column}] + {codes}",
        f"largest_{name} = addresses[tensor, {column + 1}] + (first + start) // {block} * 4",
    ]
    lines.before.append(f"decode_{name}(codes_{name}, largest_{name}, at_{name}, count)")
    lines.after.append(f"encode_{name}(codes_{name}, largest_{name}, at_{name}, count)")
    lines.buffers += 1
