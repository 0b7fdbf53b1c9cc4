"""Slots of matrix rules in few bits, decoded and encoded by kernels on the CPU: bit for bit as `formats.read` and
`formats.write` do, which need twenty passes of torch over every element.

A matrix rule works on stacks in float32, so its slots are converted before and after it, and nothing is fused.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepwell.engine import formats, memory_order, randomness
from stepwell.engine.blocks import CODES, Lines
from stepwell.engine.kernels import threads
from stepwell.engine.kernels.installed import has_numba
from stepwell.errors import UsageError

_BLOCKS = 32  # that a thread takes at once
_PER_THREAD = 2**14  # elements below which waking a thread costs more than it does

# Words of the job: 0 counts the spans that are taken, 1 spans, 2 the blocks of all tensors, 3 values (float32), 4 a
# table with three words for each tensor, 5 the blocks of a tensor, 6 its elements, 7 the step, 8 the length of a line,
# 9 its blocks, 10 its bytes of int4. The table: codes (or bf16), the scales of the blocks, the key of the random bits.
_HEAD = '''"""Printed by stepwell: slots in few bits, one by one (engine/kernels/codes.py)."""

from numba import types

from stepwell.engine.kernels.cpu_intrinsics import *

load_value, store_value = RAW_LOAD["fp32", 1], RAW_STORE["fp32", 1]
scratch_of_kernel = SCRATCH[({buffers},)]


def kernel(job):
    parts, table, of_tensor, elements = job_word(job, 2), job_word(job, 4), job_word(job, 5), job_word(job, 6)
    step, length, of_line, bytes_of_line = job_word(job, 7), job_word(job, 8), job_word(job, 9), job_word(job, 10)
    buffer = scratch_of_kernel()
    words = buffer + {block} * 4
    while True:
        span = next_span(job)
        if span >= job_word(job, 1):
            break
        for number in range(span * {blocks}, min(parts, span * {blocks} + {blocks})):
            tensor = number // of_tensor
            part = number - tensor * of_tensor
            values = job_word(job, 3) + tensor * elements * 4
            stored, scales = load_word(table, 3 * tensor), load_word(table, 3 * tensor + 1)
            key = types.uint32(load_word(table, 3 * tensor + 2))
            line = part // of_line
            inside = (part - line * of_line) * {block}
            first, packed = line * length + inside, line * bytes_of_line + inside // 2
            count = min({block}, length - inside)
'''
_DECODE_INT8 = """            largest = load_largest(scales, part)
            for i in range(count):
                store_value(values, first + i, convert(stored + first, i, largest))
"""
_DECODE_INT4 = """            convert(stored + packed, scales + part * 4, buffer, count)
            for i in range(count):
                store_value(values, first + i, load_buffer(buffer, i))
"""
_ENCODE = """            top, least, word = no_magnitude(), any_magnitude(), unscattered(key, first)
            for i in range(count):
                value = load_value(values, first + i)
                store_buffer(buffer, i, value)
                bits = magnitude(value)
                top, least = larger(top, bits), smaller(least, bits)
                store_random(words, i, random_bits(word))
                word = next_unscattered(word)
            convert(stored + {begin}, scales + part * 4, buffer, count, words, step, top, least)
"""
_ENCODE_BF16 = """            word = unscattered(key, first)
            for i in range(count):
                bits = {half}_half(random_bits(word))
                store_bf16(stored, first + i, bf16_stochastic(load_value(values, first + i), bits))
                word = next_unscattered(word)
"""
_BINDINGS = """load_buffer, store_buffer = RAW_LOAD["fp32", 2], RAW_STORE["fp32", 2]
store_bf16 = RAW_STORE["16", 3]
"""


def can(name: str, *tensors: Tensor) -> bool:
    """Whether there are kernels for a format, and for tensors as these."""
    usual = all(t.device.type == "cpu" and type(t) in (Tensor, torch.nn.Parameter) for t in tensors)
    return name in ("int8", "int4", "bf16") and usual and has_numba()


def read(name: str, signed: bool, stored: tuple[Tensor, ...], elements: int) -> Tensor:
    """The values of a slot, float32, flat, in the order of memory; as `formats.read`."""
    return read_stack(name, signed, [stored], elements)[0]


def read_stack(name: str, signed: bool, stored: Sequence[tuple[Tensor, ...]], elements: int) -> Tensor:
    """The values of one slot of several tensors of equal shape, float32 (tensors, elements)."""
    if name == "bf16":
        return torch.stack([memory_order.flat(one[0]) for one in stored]).float()
    values = torch.empty(len(stored), elements)
    _run(_kernel(name, signed, "low", False), name, values, stored, [0] * len(stored), 0)
    return values


def write(
    name: str, signed: bool, stored: tuple[Tensor, ...], values: Tensor, consumer: int, key: int, step: float
) -> None:
    """Store flat values; as `formats.write`. See `write_stack`."""
    write_stack(name, signed, [stored], values.reshape(1, -1), consumer, [key], step)


def write_stack(
    name: str,
    signed: bool,
    stored: Sequence[tuple[Tensor, ...]],
    values: Tensor,
    consumer: int,
    keys: Sequence[int],
    step: float,
) -> None:
    """Store values (tensors, elements) in one slot of several tensors of equal shape.

    Args:
        keys: for each tensor, that of the stream of random bits, see `key_of`.

    Raises UsageError for another number of values than the slots have: the kernel would write past their ends.
    """
    values = values.to(torch.float32).contiguous()
    given = values.shape[1]
    for one in stored:
        has = one[0].numel()
        if name == "int4":  # the bytes of lines with as many elements as values would have
            lines = formats.lines_in(one[1], given)
            fits = lines.count * CODES[name, signed].code_bytes(lines.length) == has
            fits = fits and lines.count * lines.length == given
            has *= 2
        else:
            fits = given == has
        if not fits or len(stored) != len(values):
            found = f"{given:,} numbers for a slot of {has:,}"
            raise UsageError(f"a rule has returned {found}; it must return the slot's shape")
    _run(_kernel(name, signed, "high" if consumer % 2 else "low", True), name, values, stored, keys, step)


def key_of(name: str, seed: int, place: int, step: float, consumer: int, first: int = 0) -> int:
    """The key of the random bits of one slot of a tensor at one step. `first`: see `randomness.key_of`."""
    if name == "bf16":
        return randomness.stream(randomness.key_of(seed, place, step, first), consumer // 2)
    turn = randomness.key_of(seed, place, int(step) >> randomness.TURNS, first)
    return randomness.stream(turn, randomness.CODE_STREAMS + consumer // 2)


def _run(
    kernel: Any,
    name: str,
    values: Tensor,
    stored: Sequence[tuple[Tensor, ...]],
    keys: Sequence[int],
    step: float,
) -> None:
    count, elements = values.shape
    block = formats.block_of(name) if name != "bf16" else 256
    has_scales = len(stored[0]) > 1
    lines = formats.lines_in(stored[0][1], elements) if has_scales else Lines(1, elements)
    of_line = -(-lines.length // block)
    of_tensor = lines.count * of_line
    scales = [one[1].data_ptr() if has_scales else 0 for one in stored]
    table = np.array([[one[0].data_ptr() for one in stored], scales, keys], dtype=np.int64).T.copy()
    parts = count * of_tensor
    words = [0, -(-parts // _BLOCKS), parts, values.data_ptr(), table.ctypes.data, of_tensor, elements, int(step)]
    words += [lines.length, of_line, -(-lines.length // 2)]
    job = np.array(words, dtype=np.int64)
    workers = max(1, min(torch.get_num_threads(), values.numel() // _PER_THREAD))
    threads.run(kernel.address, job.ctypes.data, workers)


@cache
def _kernel(name: str, signed: bool, half: str, encodes: bool) -> Any:
    from stepwell.engine.kernels.compiled import compiled

    block = 256 if name == "bf16" else CODES[name, signed].block
    binding, body, begin = "", _ENCODE_BF16 if name == "bf16" else _ENCODE, "packed" if name == "int4" else "first"
    if name != "bf16":
        binding = f"convert = ENCODE[{name!r}, {signed}, 2, {half!r}]\n"
    if not encodes:
        decoder = f"LOAD_INT8[({signed},)]" if name == "int8" else f"DECODE['int4', {signed}, 2]"
        binding, body = f"convert = {decoder}\n", _DECODE_INT8 if name == "int8" else _DECODE_INT4
    head = _HEAD.replace("\n\ndef kernel", f"\n{_BINDINGS}{binding}\n\ndef kernel")
    text = (head + body).format(block=block, blocks=_BLOCKS, buffers=2 * block, half=half, begin=begin)
    return compiled(text)
