"""The text of a CPU kernel: loads, the traced rule, stores, for one kind of launch."""

from __future__ import annotations

from dataclasses import dataclass, field

from stepwell.engine import formats, randomness
from stepwell.engine.backends.cpu_job import Piece, Word
from stepwell.engine.backends.statements import Statements, statements, traced, traced_sums
from stepwell.engine.kind import LaunchKind
from stepwell.engine.trace import Trace


@dataclass
class _Lines:
    """What the arrays contribute to the places of a kernel."""

    bindings: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)  # what a piece says of its blocks
    addresses: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    random: set[int] = field(default_factory=set)  # the words of random bits that the loop over elements makes
    code_words: set[int] = field(default_factory=set)  # those of encoders, which wait in a buffer as the values do
    sums: list[str] = field(default_factory=list)
    buffers: int = 0


# Elements that are added up in any order, so in vectors, before the sum goes to the total. In float64: which order LLVM
# takes depends on the kernel, and with sums in float32 LARS with split weights differed from fp32 in the last bits of a
# few elements. LARS over 8 million elements takes as long either way.
SUMMED = 2048


def source(kind: LaunchKind) -> str:
    """The kernel that updates, of one kind of launch, as the text of a Python module."""
    program = _statements(kind, traced(kind), kind.number_slots)
    lines = _Lines()
    columns = _arrays(kind, lines, program, program.stored)
    return _kernel(kind, lines, program, columns)


def sums_source(kind: LaunchKind) -> str:
    """The kernel that only reads, and adds up what the rule asks for, per piece: the first of two passes."""
    program = _statements(kind, traced_sums(kind), ())
    lines = _Lines()
    columns = _arrays(kind, lines, program, None)
    lines.sums = [program.stored[name] for name in kind.sums]
    return _kernel(kind, lines, program, columns)


def _statements(kind: LaunchKind, program: Trace, number_outputs: tuple[str, ...]) -> Statements:
    real = "float64" if kind.weights == "fp64" else "float32"
    return statements(
        program,
        number_input=lambda name: _number(kind, name),
        rounded=lambda name: f"{real}({name})",
        number_outputs=number_outputs,
    )


def _arrays(kind: LaunchKind, lines: _Lines, program: Statements, stored: dict[str, str] | None) -> int:
    """The lines of all arrays; nothing is written where `stored` is None. Returns the columns of the table."""
    block = _block(kind)
    _weights(kind, lines, None if stored is None else stored["p"])
    _element(lines, "g", kind.gradients, 1, first="first_g")
    column = 2
    for consumer, (name, storage, signed) in enumerate(zip(kind.slots, kind.slot_formats, kind.signed, strict=True)):
        if name is None or storage == formats.NUMBER:
            continue
        if storage in ("int8", "int4"):
            new = None if stored is None else stored[name]
            _blockwise(lines, name, storage, signed, column, block, consumer, new)
        else:
            _element(lines, name, storage, column)
            if stored is not None:
                _slot_write(lines, name, storage, column, stored[name], consumer)
        column += len(formats.state_names(name, storage))
    if kind.rounding == "split":
        _raw(lines, formats.LOW_BITS, column)
        column += 1
    storage_of = dict(zip(kind.slots, kind.slot_formats, strict=True))
    for name, variable in program.loaded.items():
        read = _weights_read(kind) if name == "p" else f"load_{name}(at_{name}, i)"
        if storage_of.get(name) == "int8":
            read = f"load_int8_{name}(codes_{name}, i, scale_{name})"
        lines.reads.append(f"{variable} = {read}")
    return column


def _block(kind: LaunchKind) -> int:
    return max(map(formats.block_of, kind.slot_formats), default=1)


def _kernel(kind: LaunchKind, lines: _Lines, program: Statements, columns: int) -> str:
    block = _block(kind)
    if lines.sums and block == 1:
        block = SUMMED
    width = len(kind.number_slots)
    numbers = [
        f"store_number(job_word(job, {Word.NUMBERS}), tensor * {width} + {k}, {program.stored[name]})"
        for k, name in enumerate(kind.number_slots)
        if not lines.sums
    ]
    keys, bits, places, onward = [], [], [], []
    if lines.random:
        keys = ["key = key_of(load_word(salts, tensor), types.int64(t) * 0x27D4EB2F)"]
        keys += [f"key_{n} = stream(key, {n})" for n in sorted(lines.random)]
        places = [f"place_{n} = unscattered(key_{n}, place + start)" for n in sorted(lines.random)]
        bits = [f"random_{n} = random_bits(place_{n})" for n in sorted(lines.random)]
        onward = [f"place_{n} = next_unscattered(place_{n})" for n in sorted(lines.random)]
    waiting: list[str] = []
    if lines.code_words:
        keys.append(f"code_key = key_of(load_word(salts, tensor), (types.int64(t) >> {randomness.TURNS}) * 0x27D4EB2F)")
        for n in sorted(lines.code_words):
            keys.append(f"code_key_{n} = stream(code_key, {randomness.CODE_STREAMS + n})")
            lines.addresses.append(f"words_{n} = scratch + {lines.buffers * block * 4}")
            lines.buffers += 1
            places.append(f"code_place_{n} = unscattered(code_key_{n}, place + start)")
            waiting.append(f"store_random(words_{n}, i, random_bits(code_place_{n}))")
            onward.append(f"code_place_{n} = next_unscattered(code_place_{n})")
    scratch = []
    if lines.buffers:
        lines.bindings.append(f"scratch_of_kernel = SCRATCH[({lines.buffers * block},)]")
        scratch = ["scratch = scratch_of_kernel()"]
    sums = range(len(lines.sums))
    totals = [f"total_{k} = 0.0" for k in sums]
    before = [f"sum_{k} = 0.0" for k in sums]
    adding = [f"sum_{k} = add_in_any_order(sum_{k}, float64({value}))" for k, value in enumerate(lines.sums)]
    after = [f"total_{k} += sum_{k}" for k in sums]
    keeping = [f"store_number(partials, piece * {len(sums)} + {k}, total_{k})" for k in sums]

    def indented(text: list[str], depth: int) -> str:
        return "\n".join("    " * depth + line for line in text)

    def words(*names: str) -> str:
        return ", ".join(f"job_word(job, {Word[name]})" for name in names)

    def of_piece(*names: str) -> str:
        return ", ".join(f"load_word(pieces, at_piece + {Piece[name]})" for name in names)

    return f'''"""Printed by stepwell from the rule of {kind.rule.__module__}."""

from numba import float32, float64, types

from stepwell.engine.kernels.cpu_intrinsics import *

{indented(lines.bindings, 0)}


def kernel(job):
    spans, pieces, addresses = {words("SPAN_TABLE", "PIECES", "ADDRESSES")}
    steps, salts, rows, gradient_factor = {words("STEPS", "SALTS", "ROWS")}, job_number(job, {Word.FACTOR})
    totals, sizes, partials = {words("TOTALS", "ELEMENTS", "PARTIALS")}
{indented(scratch, 1)}
    known = types.int64(-1)
    while True:
        span = next_span(job)
        if span >= job_word(job, {Word.SPANS}):
            break
        for piece in range(load_word(spans, span), load_word(spans, span + 1)):
            at_piece = {len(Piece)} * piece
            tensor, first = {of_piece("TENSOR", "FIRST")}
            size, row = {of_piece("SIZE", "GROUP")} * {len(kind.row_names)}
            first_g, place = {of_piece("GRADIENT", "PLACE")}
{indented(lines.places, 3)}
            columns = tensor * {columns}
            if tensor != known:  # rows of one tensor have the same numbers
                known, t = tensor, float64(load_count(steps, tensor))
{indented(program.numbers + numbers + keys, 4)}
{indented(totals, 3)}
            for start in range(0, size, {block if block > 1 else "max(size, 1)"}):
                count = {f"min({block}, size - start)" if block > 1 else "size"}
{indented(lines.addresses + lines.before + places + before, 4)}
                for i in range(count):
{indented(lines.reads + bits + program.elements + lines.writes + waiting + onward + adding, 5)}
{indented(lines.after + after, 4)}
{indented(keeping, 3)}
'''


def _number(kind: LaunchKind, name: str) -> str:
    if name == "t":
        return "t"
    if name == "elements":
        return "float64(load_word(sizes, tensor))"
    if name in kind.sums:
        return f"load_number(totals, tensor * {len(kind.sums)} + {kind.sums.index(name)})"
    if name in kind.number_slots:
        place = f"tensor * {len(kind.number_slots)} + {kind.number_slots.index(name)}"
        return f"load_number(job_word(job, {Word.NUMBERS_BEFORE}), {place})"
    return name if name == "gradient_factor" else f"load_number(rows, row + {kind.row_names.index(name)})"


def _element(lines: _Lines, name: str, storage: str, column: int, first: str = "first") -> None:
    """An array with one number per element. A gradient of single rows has another `first`."""
    lines.bindings += [f"load_{name} = LOAD[{storage!r}, {column}]", f"store_{name} = STORE[{storage!r}, {column}]"]
    _address(lines, name, formats.BYTES[storage], column, first)


def _raw(lines: _Lines, name: str, column: int) -> None:
    """An array of 16 bits that the kernel takes apart itself."""
    lines.bindings += [f"load_{name} = RAW_LOAD['16', {column}]", f"store_{name} = RAW_STORE['16', {column}]"]
    _address(lines, name, 2, column)


def _address(lines: _Lines, name: str, width: float, column: int, first: str = "first") -> None:
    lines.addresses.append(f"at_{name} = load_word(addresses, columns + {column}) + ({first} + start) * {width}")


def _half_of_random(lines: _Lines, consumer: int) -> str:
    """16 random bits; two consumers share a word."""
    lines.random.add(consumer // 2)
    return f"{'high' if consumer % 2 else 'low'}_half(random_{consumer // 2})"


def _weights(kind: LaunchKind, lines: _Lines, new: str | None) -> None:
    if kind.rounding == "native":
        _element(lines, "p", kind.weights, 0)
    else:
        _raw(lines, "p", 0)
    if new is None:
        return
    if kind.rounding == "native":
        lines.writes.append(f"store_p(at_p, i, {new})")
    elif kind.rounding == "split":
        lines.writes.append(f"store_p(at_p, i, split_high_{kind.weights}({new}))")
        lines.writes.append(f"store_{formats.LOW_BITS}(at_{formats.LOW_BITS}, i, split_low_{kind.weights}({new}))")
    else:
        bits = _half_of_random(lines, len(kind.slots))
        lines.writes.append(f"store_p(at_p, i, {kind.weights}_stochastic({new}, {bits}))")


def _weights_read(kind: LaunchKind) -> str:
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


def _blockwise(
    lines: _Lines, name: str, storage: str, signed: bool, column: int, block: int, consumer: int, new: str | None
) -> None:
    """An array of codes. New values wait in a buffer of some blocks: their scales must be known to encode them."""
    word, half = consumer // 2, "high" if consumer % 2 else "low"
    arguments = f"{signed}, {column}"
    own, of_blocks = formats.block_of(storage), f"blocks_{storage}"
    encoder = "ENCODE" if own == block else "ENCODE_BLOCKS"
    lines.bindings += [
        f"store_{name} = RAW_STORE['fp32', {column}]",
        f"encode_{name} = {encoder}[{storage!r}, {arguments}, {half!r}]",
    ]
    for variable, word_ in ((of_blocks, f"BLOCKS_{storage.upper()}"), ("bytes_int4", "BYTES_INT4")):
        line = f"{variable} = load_word(pieces, at_piece + {Piece[word_]})"
        if line not in lines.places and (variable == of_blocks or storage == "int4"):
            lines.places.append(line)
    codes = "first + start" if storage == "int8" else "bytes_int4 + start // 2"
    lines.addresses += [
        f"at_{name} = scratch + {lines.buffers * block * 4}",
        f"codes_{name} = load_word(addresses, columns + {column}) + {codes}",
        f"largest_{name} = load_word(addresses, columns + {column + 1}) + ({of_blocks} + start // {own}) * 4",
    ]
    if storage == "int8":
        lines.bindings.append(f"load_int8_{name} = LOAD_INT8[({signed},)]")
        lines.before.append(f"scale_{name} = load_largest(largest_{name}, 0)")
    else:
        lines.bindings += [f"load_{name} = RAW_LOAD['fp32', {column}]", f"decode_{name} = DECODE['int4', {arguments}]"]
        lines.before.append(f"decode_{name}(codes_{name}, largest_{name}, at_{name}, count)")
    lines.buffers += 1
    if new is None:
        return
    lines.code_words.add(word)
    lines.writes.append(f"store_{name}(at_{name}, i, {new})")
    where = f"codes_{name}, largest_{name}, at_{name}, count, words_{word}, types.int64(t)"
    if own == block:  # one per step of the loop, which can look at what it stores
        lines.before.append(f"top_{name}, least_{name} = no_magnitude(), any_magnitude()")
        lines.writes += [
            f"bits_{name} = magnitude({new})",
            f"top_{name} = larger(top_{name}, bits_{name})",
            f"least_{name} = smaller(least_{name}, bits_{name})",
        ]
        where += f", top_{name}, least_{name}"
    lines.after.append(f"encode_{name}({where})")
