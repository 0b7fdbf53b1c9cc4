"""The check of one stored entry of an optimizer's state: the boundary between a file and a kernel.

Kernels read and write the state by address, as many bytes as the format of a slot says. A checkpoint can
contain anything. So every entry is checked before a kernel uses it: the entry must be a plain tensor whose storage
contains all of its elements, with the dtype, shape and number of blocks of a format, and with valid numbers. The checks
change no entry. An entry that does not fit raises a UsageError with the entry, its parameter, what is allowed and what
to do.

    a slot of one number per element    float64, float32, bfloat16 or float16; the shape of the slot; finite, and
                                        at least 0 if the rule says so (a second moment)
    int8, int4                          codes uint8, of the shape of the slot (int8) or the bytes of each line (int4);
                                        `slot_largest`, a number for each block of each line, finite, at least 0
                                        (blocks.Lines)
    low_bits of split weights           int16, the shape of the parameter
    step                                a whole number of at least 0
    a number per tensor (NAdam's)       a finite number, at least 0 if the rule says so
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from stepwell.engine import blocks, formats, sharding
from stepwell.engine.rule import Slot
from stepwell.errors import UsageError

IN_A_CHECKPOINT = "in the checkpoint"
_ALLOWED = ", ".join(str(dtype).removeprefix("torch.") for dtype in formats.NAMES)
_About: TypeAlias = tuple[str, str, str, str]  # owner, label, where, mend
_MANY_STEPS = 2.0**31  # a float32 counts to 2**24; kernels read a count as a whole number of 32 bits
_FLOAT32_MAX = torch.finfo(torch.float32).max

_OTHER = "it was saved from a different model, or with other options"
_MEND = "load an unchanged checkpoint, or delete the state of this parameter from it, which resets the state"


def check(
    owner: str,
    label: str,
    slot: Slot,
    entries: Mapping[str, Any],
    like: Tensor,
    *,
    where: str = IN_A_CHECKPOINT,
    mend: str = _MEND,
    values: bool = True,
    edited: bool = False,
) -> str:
    """The format of one slot of one parameter. Raises UsageError if no kernel can read it.

    Args:
        owner: the class of the optimizer, for the message.
        label: the parameter, as "the parameter 'a.weight'".
        slot: what the rule says of the slot. Not one that is a number per tensor: for these, `number`.
        entries: the state of the parameter by name; of it, `slot.name` and `{slot.name}_largest` are looked at. Of a
            DTensor, the part that lies here.
        like: a tensor of the shape that the slot must have here, of the working dtype (float64 or another).
        where: what holds the entries, for the message.
        mend: the remedy, for the message.
        values: whether the numbers are looked at, too: one pass over them. Dtype, shape, blocks, strides and storage
            alone keep a kernel inside its memory.
        edited: whether a floating-point tensor with block scales counts as assigned by a user in place of codes; its
            format is then that of its dtype. In a file such a tensor cannot be distinguished from codes that were cast.

    Returns "fp64", "fp32", "bf16", "fp16", "int8" or "int4".

    >>> check("AdamW", "the parameter 'w'", Slot("exp_avg"), {"exp_avg": torch.zeros(3)}, torch.zeros(3))
    'fp32'
    """
    key, beside = slot.name, f"{slot.name}_largest"
    about = (owner, label, where, mend)
    value = plain(owner, label, key, entries.get(key), where=where, mend=mend)
    coded = entries.get(beside) is not None and not (edited and value.is_floating_point())
    if not coded:
        if value.dtype not in formats.NAMES:
            scales = f" without block scales '{beside}'" if value.dtype == torch.uint8 else ""
            raise _refusal(about, key, f"is {_dtype(value)}{scales}", f"allowed: {_ALLOWED}")
        if value.shape != like.shape:
            raise _misfit(about, key, f"has shape {tuple(value.shape)}", f"its shape must be {tuple(like.shape)}")
        if values:
            _check_values(about, key, value, signed=slot.signed, wide=like.dtype == torch.float64)
        return formats.NAMES[value.dtype]
    largest = plain(owner, label, beside, entries[beside], where=where, mend=mend)
    if value.dtype != torch.uint8:
        raise _refusal(about, key, f"is {_dtype(value)}, with block scales,", "codes are uint8")
    found = coded_format(value, largest, slot.signed, like.shape)
    if found is None:
        fault = f"has {tuple(value.shape)} codes in {tuple(largest.shape)} blocks"
        raise _misfit(about, key, fault, f"these are not the blocks of {like.numel():,} elements")
    if largest.dtype not in formats.NAMES:
        raise _refusal(about, beside, f"is {_dtype(largest)}", f"allowed: {_ALLOWED}")
    if values:
        _check_values(about, beside, largest, signed=False, wide=False)
        if not blocks.CODES[found, slot.signed].could_be(largest.detach().resolve_neg()):
            old = "load that checkpoint in that version with state='fp32' and keep_formats=True, and save it again"
            raise _refusal(
                (owner, label, where, old),
                beside,
                "has scales that are not powers of two",
                "an older version had such scales",
            )
    return found


def coded_format(codes: Tensor, largest: Tensor, signed: bool, shape: torch.Size) -> str | None:
    """ "int8" or "int4" where codes and block scales are those of a slot of this shape, else None."""
    elements, lines = math.prod(shape), blocks.lines_of(shape)
    for name in ("int8", "int4"):
        code = blocks.CODES[name, signed]
        scales: tuple[int, ...] = (lines.count, code.blocks(lines.length))
        bytes_: tuple[int, ...] = (lines.count, code.code_bytes(lines.length))
        if largest.ndim == 1:  # from before blocks ended with rows
            scales, bytes_ = (code.blocks(elements),), (code.blocks(elements) * code.block // 2,)
        if tuple(codes.shape) == (tuple(shape) if name == "int8" else bytes_) and tuple(largest.shape) == scales:
            return name
    return None


def check_low_bits(
    owner: str, label: str, value: Any, like: Tensor, *, where: str = IN_A_CHECKPOINT, mend: str = _MEND
) -> None:
    """Raise UsageError if `low_bits` are not int16 numbers of the shape of `like`."""
    low = plain(owner, label, formats.LOW_BITS, value, where=where, mend=mend)
    about = (owner, label, where, mend)
    if low.dtype != torch.int16:
        raise _refusal(about, formats.LOW_BITS, f"is {_dtype(low)}", "low bits are int16")
    if low.shape != like.shape:
        fault = f"has shape {tuple(low.shape)}"
        raise _misfit(about, formats.LOW_BITS, fault, f"its shape must be {tuple(like.shape)}")


def plain(owner: str, label: str, key: str, value: Any, *, where: str = IN_A_CHECKPOINT, mend: str = _MEND) -> Tensor:
    """`value` as a tensor whose elements can be read by address. Raises UsageError with the reason if they cannot."""
    fault = _fault(value)
    if fault is not None:
        raise _refusal((owner, label, where, mend), key, fault, "it must be a plain tensor")
    return value


def _fault(value: Any) -> str | None:
    """The reason why no kernel may read `value`, or None."""
    if not isinstance(value, Tensor):
        return f"is a {type(value).__name__}"
    if _is_wrapper(value):
        return f"is a {type(value).__name__}, whose elements are stored in other tensors,"
    if value.layout != torch.strided or value.is_nested:
        return f"is {'nested' if value.is_nested else str(value.layout).removeprefix('torch.')}"
    if value.is_quantized:
        return "is quantized"
    if value.is_meta:
        return "is on the meta device, where tensors have no values,"
    if value.is_complex():
        return "is complex"
    if not is_inside_storage(value):
        return "ends outside its storage"
    return None


def _is_wrapper(value: Tensor) -> bool:
    """Whether a subclass stores its elements in other tensors, or has no elements (FakeTensor)."""
    if type(value) in (Tensor, torch.nn.Parameter):
        return torch._C._functorch.is_functorch_wrapped_tensor(value)
    return type(value).__torch_dispatch__ is not Tensor.__torch_dispatch__


def is_inside_storage(value: Tensor) -> bool:
    """Whether the storage of a strided tensor holds all of its elements: a storage can be shrunk under a tensor."""
    if value.numel() == 0:
        return True
    last = value.storage_offset() + sum((n - 1) * s for n, s in zip(value.shape, value.stride(), strict=True))
    return (last + 1) * value.element_size() <= value.untyped_storage().nbytes()


def count(owner: str, label: str, value: Any, *, where: str = IN_A_CHECKPOINT, mend: str = _MEND) -> float:
    """The number of steps in `value`, or UsageError."""
    number_ = _number(value)
    if number_ is None or not 0 <= number_ < _MANY_STEPS or number_ != math.floor(number_):
        wanted = "it must be a whole number of at least 0"
        raise _refusal((owner, label, where, mend), "step", f"is {_said(value)}", wanted)
    return number_


def number(owner: str, label: str, slot: Slot, value: Any, *, where: str = IN_A_CHECKPOINT, mend: str = _MEND) -> float:
    """The number in a slot of one number per tensor, or UsageError."""
    found = _number(value)
    if found is None or not math.isfinite(found) or (found < 0 and not slot.signed):
        wanted = f"it must be a finite number{'' if slot.signed else ' of at least 0'}"
        raise _refusal((owner, label, where, mend), slot.name, f"is {_said(value)}", wanted)
    return found


def _number(value: Any) -> float | None:
    """An int, float or tensor with one real element as a float; None for anything else."""
    if isinstance(value, Tensor):
        value = sharding.local(value)
        if _fault(value) is not None or value.numel() != 1 or value.dtype == torch.bool:
            return None
        return float(value.detach().item())
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:  # a whole number of many digits
        return math.inf


def _said(value: Any) -> str:
    """A value in a message: a tensor of many elements by its shape."""
    if isinstance(value, Tensor):
        fault = _fault(value)
        if fault is not None or value.numel() != 1:
            return f"a tensor of shape {tuple(value.shape)}" if fault is None else f"a tensor that {fault}"
        return f"{value.detach().item()!r} ({_dtype(value)})"
    shown = repr(value) if isinstance(value, (bool, int, float)) else f"a {type(value).__name__}"
    return shown if len(shown) <= 40 else f"{shown[:20]}..."


def _check_values(about: _About, key: str, value: Tensor, signed: bool, wide: bool) -> None:
    """Raise UsageError for a number that is not finite in the working precision, or negative in a slot that is not
    signed."""
    if value.numel() == 0:
        return
    least, most = (float(extreme) for extreme in torch.aminmax(value.detach()))  # nan where any number is
    limit = math.inf if wide else _FLOAT32_MAX
    if not (math.isfinite(least) and math.isfinite(most)) or max(-least, most) > limit:
        found = "nan" if math.isnan(least) else f"numbers from {least:g} to {most:g}"
        raise _refusal(about, key, f"holds {found}", f"it must be finite in {'float64' if wide else 'float32'}")
    if least < 0 and not signed:
        raise _refusal(about, key, f"holds negative numbers, as {least:g},", "it must be at least 0")


def _refusal(about: _About, key: str, fault: str, wanted: str) -> UsageError:
    owner, label, where, mend = about
    return UsageError(f"{owner}: '{key}' of {label} {fault} {where}; {wanted}; {mend}")


def _misfit(about: _About, key: str, fault: str, wanted: str) -> UsageError:
    """The error for another shape, which a checkpoint of another model has."""
    owner, label, where, mend = about
    return _refusal((owner, label, where, _OTHER if mend == _MEND else mend), key, fault, wanted)


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
