"""The text of a GPU kernel: one Triton program updates one chunk of one tensor of a launch."""

from __future__ import annotations

from dataclasses import dataclass, field

from stepwell.engine import formats, randomness
from stepwell.engine.backends.statements import statements, traced, traced_sums
from stepwell.engine.kernels.gpu_intrinsics import code_arguments
from stepwell.engine.kind import LaunchKind

# Elements per program: whole blocks of every format, and enough loads in flight for one program's warps.
BLOCK = 1024

_POINTERS = {"fp32": "tl.float32", "fp64": "tl.float64", "bf16": "tl.uint16", "fp16": "tl.uint16", "16": "tl.uint16"}


@dataclass
class _Lines:
    addresses: list[str] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)
    random: set[int] = field(default_factory=set)
    code_random: set[int] = field(default_factory=set)


def source(kind: LaunchKind, summing: bool = False) -> str:
    """The kernel of one kind of launch as the text of a module; `summing`: that of the first pass, which only reads."""
    real = "tl.float64" if kind.weights == "fp64" else "tl.float32"
    program = statements(
        traced_sums(kind) if summing else traced(kind),
        number_input=lambda name: _number(kind, name),
        rounded=lambda name: f"{name}.to({real})",
        constant=lambda value: f"tl.full((), {value!r}, tl.float64)",
        functions={"pow": "power"},
        element_functions={"div": "div"},
        number_outputs=() if summing else kind.number_slots,
    )
    lines = _Lines()
    stored = {
        name: value if name in kind.number_slots else f"({value} + tl.zeros([BLOCK], {real}))"
        for name, value in program.stored.items()
    }
    new = dict.fromkeys(("p", *kind.slots), "") | stored  # the first pass stores none of them
    _weights(kind, lines, program.loaded, new["p"])
    _element(lines, "g", kind.gradients, 1, program.loaded.get("g"))
    column = 2
    for consumer, (name, storage, signed) in enumerate(zip(kind.slots, kind.slot_formats, kind.signed, strict=True)):
        if name is None or storage == formats.NUMBER:
            continue
        if storage in ("int8", "int4"):
            _blockwise(lines, name, storage, signed, column, consumer, program.loaded.get(name), new[name])
        else:
            _element(lines, name, storage, column, program.loaded.get(name))
            value = new[name]
            if storage == "bf16" and not summing:
                value = f"bf16_stochastic({value}, {_half_of_random(lines, consumer)})"
            elif storage == "fp16":
                value = f"fp16_of_f32({value})"
            lines.writes.append(_store(name, value))
        column += len(formats.state_names(name, storage))
    if kind.rounding == "split":
        _element(lines, formats.LOW_BITS, "16", column, None)
        column += 1

    width = len(kind.number_slots)
    numbers = [f"tl.store(after + tensor * {width} + {k}, {new[name]})" for k, name in enumerate(kind.number_slots)]
    if summing:
        numbers = []
        lines.random.clear()
        lines.code_random.clear()
        lines.writes = [_partial(stored[name], k, len(kind.sums)) for k, name in enumerate(kind.sums)]
    keys, bits = [], []
    if lines.random:
        keys = ["key = key_of(tl.load(salts + tensor), t.to(tl.int64) * 0x27D4EB2F)"]
        keys += [f"key_{n} = stream(key, {n})" for n in sorted(lines.random)]
        bits = [f"random_{n} = random_bits(key_{n}, random_places)" for n in sorted(lines.random)]
    if lines.code_random:
        turns = f"(t.to(tl.int64) >> {randomness.TURNS}) * 0x27D4EB2F"
        keys.append(f"code_key = key_of(tl.load(salts + tensor), {turns})")
        for n in sorted(lines.code_random):
            keys.append(f"code_key_{n} = stream(code_key, {randomness.CODE_STREAMS + n})")
            bits.append(f"code_random_{n} = random_bits(code_key_{n}, random_places)")

    def indented(text: list[str]) -> str:
        return "\n".join("    " + line for line in text)

    return f'''"""Printed by stepwell from the rule of {kind.rule.__module__}."""

import triton
import triton.language as tl

from stepwell.engine.kernels.gpu_intrinsics import *
from stepwell.engine.kernels.gpu_intrinsics import abs


@triton.jit
def update(tensor, first, end, shift, moved, blocks_int8, blocks_int4, bytes_int4, size, row, addresses, steps, salts,
           rows, factor, before, after, totals, partials, BLOCK: tl.constexpr, MASKED: tl.constexpr,
           ALIGNED: tl.constexpr, ROWS: tl.constexpr):
    t = tl.load(steps + tensor).to(tl.float64)
    places = first + tl.arange(0, BLOCK)
    gradient_places = places + shift if ROWS else places
    random_places = places + moved if ROWS else places
    mask = places < end
{indented(_with_columns(lines.addresses, column))}
{indented(program.numbers + numbers + keys)}
{indented(lines.reads + bits + program.elements + lines.writes)}


@triton.jit
def kernel(chunks, addresses, sizes, groups, steps, salts, rows, factor, found_inf, before, after, totals,
           partials, BLOCK: tl.constexpr, ALIGNED: tl.constexpr, ROWS: tl.constexpr):
    if tl.load(found_inf) == 0:
        chunk = chunks + 8 * tl.program_id(0)
        tensor = tl.load(chunk)
        first = tl.load(chunk + 1) if ROWS else tl.multiple_of(tl.load(chunk + 1), BLOCK)
        end = tl.load(chunk + 2)
        shift = tl.load(chunk + 3)
        moved = tl.load(chunk + 4)
        blocks_int8 = tl.load(chunk + 5) if ROWS else first // 256
        blocks_int4 = tl.load(chunk + 6) if ROWS else first // 128
        bytes_int4 = tl.load(chunk + 7) if ROWS else first // 2
        size = tl.load(sizes + tensor)
        row = tl.load(groups + tensor) * {len(kind.row_names)}
        if first + BLOCK <= end:
            update(tensor, first, end, shift, moved, blocks_int8, blocks_int4, bytes_int4, size, row, addresses, steps,
                   salts, rows, factor, before, after, totals, partials, BLOCK, False, ALIGNED, ROWS)
        else:
            update(tensor, first, end, shift, moved, blocks_int8, blocks_int4, bytes_int4, size, row, addresses, steps,
                   salts, rows, factor, before, after, totals, partials, BLOCK, True, ALIGNED, ROWS)
'''


def _number(kind: LaunchKind, name: str) -> str:
    if name == "t":
        return "t"
    if name == "elements":
        return "size.to(tl.float64)"
    if name in kind.sums:
        return f"tl.load(totals + tensor * {len(kind.sums)} + {kind.sums.index(name)})"
    if name in kind.number_slots:
        return f"tl.load(before + tensor * {len(kind.number_slots)} + {kind.number_slots.index(name)})"
    if name == "gradient_factor":
        return "tl.load(factor).to(tl.float64)"
    return f"tl.load(rows + row + {kind.row_names.index(name)})"


def _partial(value: str, k: int, count: int) -> str:
    return (
        f"tl.store(partials + tl.program_id(0).to(tl.int64) * {count} + {k}, "
        f"tl.sum(tl.where(mask, {value}, 0.0).to(tl.float64), axis=0))"
    )


def _with_columns(addresses: list[str], columns: int) -> list[str]:
    return [line.replace("COLUMNS", str(columns)) for line in addresses]


def _pointer(name: str, column: int, pointee: str) -> list[str]:
    return [
        f"{name} = tl.load(addresses + tensor * COLUMNS + {column}).to(tl.pointer_type({pointee}))",
        f"{name} = tl.multiple_of({name}, 16) if ALIGNED else {name}",
    ]


def _load(name: str) -> str:
    places = "gradient_places" if name == "g" else "places"
    return f"tl.load(at_{name} + {places}, mask=mask) if MASKED else tl.load(at_{name} + {places})"


def _store(name: str, value: str) -> str:
    return f"tl.store(at_{name} + places, {value}, mask=mask) if MASKED else tl.store(at_{name} + places, {value})"


def _element(lines: _Lines, name: str, storage: str, column: int, variable: str | None) -> None:
    lines.addresses += _pointer(f"at_{name}", column, _POINTERS[storage])
    if variable is not None:
        lines.reads.append(f"{variable} = {_load(name)}")
        if storage in ("bf16", "fp16"):
            lines.reads.append(f"{variable} = f32_of_{storage}({variable})")


def _half_of_random(lines: _Lines, consumer: int) -> str:
    lines.random.add(consumer // 2)
    return f"{'high' if consumer % 2 else 'low'}_half(random_{consumer // 2})"


def _weights(kind: LaunchKind, lines: _Lines, loaded: dict[str, str], new: str) -> None:
    variable = loaded.get("p", "p")
    low = formats.LOW_BITS
    if kind.rounding != "split":
        _element(lines, "p", kind.weights, 0, variable)
    else:
        lines.addresses += _pointer("at_p", 0, "tl.uint16")
        lines.reads += [f"high_p = {_load('p')}", f"low_p = {_load(low)}"]
        lines.reads.append(f"{variable} = join_{kind.weights}(high_p, low_p)")
        lines.writes.append(f"new_p = {new}")
        lines.writes.append(_store("p", f"split_high_{kind.weights}(new_p)"))
        lines.writes.append(_store(low, f"split_low_{kind.weights}(new_p)"))
        return
    if kind.rounding == "stochastic":
        new = f"{kind.weights}_stochastic({new}, {_half_of_random(lines, len(kind.slots))})"
    elif kind.weights in ("bf16", "fp16"):
        new = f"{kind.weights}_of_f32({new})"
    lines.writes.append(_store("p", new))


def _blockwise(
    lines: _Lines, name: str, storage: str, signed: bool, column: int, consumer: int, variable: str | None, new: str
) -> None:
    def arguments(storing: bool) -> str:
        return ", ".join(f"{key}={value!r}" for key, value in code_arguments(storage, signed, storing).items())

    before = "blocks_int8, first" if storage == "int8" else "blocks_int4, bytes_int4"
    where = f"{before}, end - first, mask, BLOCK, MASKED"
    lines.addresses += _pointer(f"codes_{name}", column, "tl.uint8")
    lines.addresses += _pointer(f"largest_{name}", column + 1, "tl.float32")
    if variable is not None:
        lines.reads.append(f"{variable} = load_{storage}(codes_{name}, largest_{name}, {where}, {arguments(False)})")
    lines.code_random.add(consumer // 2)
    half = f"{'high' if consumer % 2 else 'low'}_half(code_random_{consumer // 2})"
    random = f"turned({half}, t, TURN={randomness.TURN})"
    lines.writes.append(f"store_{storage}(codes_{name}, largest_{name}, {new}, {random}, {where}, {arguments(True)})")
