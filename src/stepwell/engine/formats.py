"""The storage formats of slots and weights: the encoding of numbers, and additional tensors.

Formats of a slot
    fp32, fp64, bf16    one number per element. bf16 is rounded stochastically: a moving average with beta2 = 0.999
                        changes by a thousandth per step, less than half of bf16's last place, and would otherwise not
                        change.
    int8, int4          codes relative to a scale of their block, which is kept as float32 (`<slot>_largest`).
                        How they are made: `blocks.py`.

Formats of a weight (bf16 and fp16 parameters)
    native              rounded to the nearest.
    stochastic          rounded up or down at random, without bias.
    split               rounded to the nearest, with the rounding error in 16 further bits: float32 weights in 4 bytes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stepwell.engine.blocks import CODES, Lines, lines_of
from stepwell.engine.memory_order import flat
from stepwell.engine.randomness import round_stochastically
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
    """The name of the format of a parameter or gradient. Raises UsageError that names `owner`."""
    try:
        return NAMES[tensor.dtype]
    except KeyError:
        kind, hint = "integer", "train only floating-point tensors"
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
    """The format of a tensor's slots if `wanted` is requested, and the reason if the format differs."""
    if weights == "fp64":
        return "fp64", None if wanted == "fp32" else f"state is fp64 for float64 parameters, not {wanted}"
    if wanted in ("int8", "int4") and elements < SMALL:
        return "fp32", f"state is fp32, not {wanted}: fewer than {SMALL:,} elements"
    return wanted, None


def wide(state: str) -> str:
    """The format of a slot that contains weights, if other slots have the format `state`."""
    return state if state == "fp64" else "fp32"


# The longest memory with which a signed slot keeps its format, as beta. Cosine of the stored with the exact momentum:
# int4 0.96 at 0.9, 0.92 at 0.95, 0.77 at 0.98; int8 0.995 at 0.99, 0.992 at 0.995, 0.974 at 0.9999; bf16 0.997 there.
# From 0.99 on int4 grows without end: what dither adds to a block is a share of what it holds, more than it forgets.
LONGEST = {"int4": 0.9, "int8": 0.995}
WIDER = {"int4": "int8", "int8": "bf16"}


def slot_format(per: str, is_wide: bool, state: str, wanted: str, beta: float = 0.0) -> str:
    """The format of one slot (`Slot.per`, `Slot.wide`) if elements have `state` and the group requests `wanted`.

    `beta` is the decay of a signed moving average: with a long memory it is stored wider. nan (unknown) is too long for
        int4.
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
    """The rounding of the new weights: `wanted`, or native for weights that need no rounding."""
    return wanted if weights in ("bf16", "fp16") else "native"


def block_of(name: str | None) -> int:
    """Elements per block of a format; 1 for a format without blocks."""
    return {"int8": 256, "int4": 128}.get(name or "", 1)


def state_names(slot: str, name: str) -> tuple[str, ...]:
    """The entries of `optimizer.state[p]` that hold one slot."""
    return (slot, f"{slot}_largest") if name in ("int8", "int4") else (slot,)


def slot_columns(kind: Any) -> int:
    """How many tensors hold the state of one parameter in a launch of `kind`."""
    present = zip(kind.slots, kind.slot_formats, strict=True)
    columns = sum(len(state_names(s, storage)) for s, storage in present if s is not None and storage != NUMBER)
    return columns + (kind.rounding == "split")


def allocate(name: str, signed: bool, like: Tensor, value: float) -> tuple[Tensor, ...]:
    """The tensors that hold one slot of `like`, every element `value`."""
    if name not in ("int8", "int4"):
        return (torch.full_like(like, value, dtype=DTYPES[name], requires_grad=False),)
    code = CODES[name, signed]
    lines = lines_of(like.shape)
    if name == "int8":
        codes = torch.empty_like(like, dtype=torch.uint8, requires_grad=False)
    else:
        codes = torch.empty(lines.count, code.code_bytes(lines.length), dtype=torch.uint8, device=like.device)
    rows = flat(codes).view(lines.count, code.code_bytes(lines.length))
    return codes, code.encode_constant(value, rows, lines)


def tensors_of(
    slot: str, name: str, signed: bool, shape: tuple[int, ...]
) -> list[tuple[str, tuple[int, ...], torch.dtype]]:
    """Key, shape and dtype of the tensors that `allocate` makes for one slot of this shape."""
    if name not in ("int8", "int4"):
        return [(slot, shape, DTYPES[name])]
    code, lines = CODES[name, signed], lines_of(shape)
    codes = shape if name == "int8" else (lines.count, code.code_bytes(lines.length))
    scales = (lines.count, code.blocks(lines.length))
    return [(slot, codes, torch.uint8), (f"{slot}_largest", scales, torch.float32)]


def lines_in(scales: Tensor, elements: int) -> Lines:
    """The lines of `elements` numbers with these block scales."""
    count = scales.shape[0]
    return Lines(count, elements // count if count else 0)


def read(name: str, signed: bool, stored: tuple[Tensor, ...], elements: int, dtype: torch.dtype) -> Tensor:
    """The values of a slot, flat, in the order of memory."""
    if name in ("int8", "int4"):
        return CODES[name, signed].decode(flat(stored[0]), stored[1], lines_in(stored[1], elements)).to(dtype)
    return flat(stored[0]).to(dtype)


def write(name: str, signed: bool, stored: tuple[Tensor, ...], values: Tensor, random: Tensor | None) -> None:
    """Store flat values; `random`: 16 random bits per element (of codes: `code_bits`), None to round to the nearest."""
    if name in ("int8", "int4"):
        codes, largest = CODES[name, signed].encode(values, random, lines_in(stored[1], values.numel()))
        flat(stored[0]).copy_(codes.flatten())
        stored[1].copy_(largest)
    elif name == "bf16" and random is not None:
        flat(stored[0]).copy_(round_stochastically(values, random, torch.bfloat16))
    else:
        flat(stored[0]).copy_(values)


def write_blocks(
    name: str, signed: bool, stored: tuple[Tensor, ...], values: Tensor, random: Tensor | None, places: Tensor
) -> None:
    """`write` for codes, only of the blocks that contain one of `places`.

    Other elements of these blocks are rounded again without having moved. Dithered, they would grow without end: they
    are rounded towards zero instead.
    """
    code, (codes, scales) = CODES[name, signed], stored
    lines = lines_in(scales, values.numel())
    new_codes, new_scales = code.encode(values, random, lines)
    if code.dithered:
        moved = torch.zeros_like(values, dtype=torch.bool)
        moved[places] = True
        grown = (code.decode(new_codes, new_scales, lines).abs() > values.abs()) & ~moved
        new_codes = code.shrunk(new_codes, new_scales, grown, lines)
    touched = torch.zeros(scales.shape, dtype=torch.bool, device=scales.device)
    touched[places // lines.length, places % lines.length // code.block] = True
    each = touched.repeat_interleave(code.block * code.bits // 8, dim=1)[:, : new_codes.shape[1]].flatten()
    flat(codes).copy_(torch.where(each, new_codes.flatten(), flat(codes)))
    scales.copy_(torch.where(touched, new_scales, scales))


def convert(old: dict[str, Tensor], slot: str, signed: bool, like: Tensor, name: str) -> tuple[Tensor, ...]:
    """One slot of any format (from a checkpoint), converted to the format `name`; unchanged tensors are kept."""
    elements = like.numel()
    found = found_format(old, slot, elements)
    tensors = tuple(old[key] for key in state_names(slot, found))
    if found in ("int8", "int4"):
        if torch.empty_like(tensors[0], device="meta").stride() != tensors[0].stride():  # it has gaps
            tensors = (torch.empty_like(tensors[0]).copy_(tensors[0]), tensors[1])
        tensors = in_lines(found, signed, tensors, lines_of(like.shape))
    layout = torch.empty_like(like, dtype=tensors[0].dtype, requires_grad=False)
    same_layout = found == "int4" or tensors[0].stride() == layout.stride()
    tensors = tuple(t.to(like.device) for t in tensors)
    if found == name and same_layout:
        return tensors
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


def in_lines(name: str, signed: bool, stored: tuple[Tensor, ...], lines: Lines) -> tuple[Tensor, ...]:
    """Codes and scales with the blocks that a tensor of these lines has. Those from before blocks ended with rows,
    whose scales are a vector, have the same codes where rows are whole blocks; others are encoded again, to the
    nearest.

    Codes of int8 keep their shape and strides.
    """
    codes, scales = stored
    if scales.ndim == 2:
        return stored
    code = CODES[name, signed]
    rows = code.repacked(flat(codes), lines.count * lines.length)
    scales = scales[None]
    if lines.count != 1 and lines.length % code.block:
        values = code.decode(rows, scales, Lines(1, lines.count * lines.length))
        rows, scales = code.encode(values, None, lines)
    scales = scales.reshape(lines.count, code.blocks(lines.length))
    if name == "int4":
        return rows.reshape(lines.count, code.code_bytes(lines.length)), scales
    result = torch.empty_like(codes)
    flat(result).copy_(rows.flatten())
    return result, scales


def found_format(old: dict[str, Tensor], slot: str, elements: int) -> str:
    if f"{slot}_largest" in old:
        return "int8" if old[slot].numel() == elements else "int4"
    return NAMES[old[slot].dtype]
