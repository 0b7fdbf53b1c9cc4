"""Block scales, 4-bit codes and low bits of a sharded parameter, in checkpoints: what belongs to the part of a process,
shown as one tensor over all processes.

Blocks end with rows (`blocks.Lines`), so those of a part of the rows are blocks of the whole: scales and codes are cut
like the parameter, and any number of processes reads them. Where blocks of a part are not blocks of the whole (columns
that are no whole blocks, vectors), they are a row for each process, which only processes that cut the parameter alike
can read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stepwell.engine import formats, memory_order, sharding, stored
from stepwell.engine.blocks import CODES, SHORTEST, lines_of


def packed(tensor: Tensor, slots: Mapping[str, Any]) -> list[str]:
    """The slots of a parameter in 4-bit codes: lines of bytes that do not contain the order of their elements."""
    shapes = (tensor.shape, sharding.local(tensor).shape)
    return [
        key
        for key in slots
        if isinstance(key, str)
        and f"{key}_largest" in slots
        and getattr(slots[key], "dtype", None) == torch.uint8
        and slots[key].shape not in shapes
    ]


def over_the_mesh(tensor: Tensor, slots: Mapping[str, Any]) -> dict[str, Any]:
    """The state of a sharded parameter, with block scales and 4-bit codes as DTensors as well: a distributed checkpoint
    has one name for them in all processes."""
    result = dict(slots)
    if not sharding.is_cut(tensor):
        return result
    in_bits = packed(tensor, slots)
    for slot in (key for key in slots if f"{key}_largest" in slots):
        name = "int4" if slot in in_bits else "int8"
        for key in (f"{slot}_largest", slot) if slot in in_bits else (f"{slot}_largest",):
            if isinstance(slots[key], Tensor) and not sharding.is_spread(slots[key]):
                result[key] = _spread(tensor, name, slots[key], is_scales=key != slot)
    low = result.get(formats.LOW_BITS)
    if isinstance(low, Tensor) and sharding.is_spread(low):  # neither gloo nor NCCL gathers int16
        result[formats.LOW_BITS] = sharding.spread_like(tensor, sharding.local(low).to(torch.int32))
    return result


def low_bits_of(value: Any, owner: Tensor) -> Any:
    """The low bits of split weights in a checkpoint as int16; anything else as it is. They are int32 of the same
    numbers in a checkpoint of several processes, and once were bf16 of the same bits."""
    if not isinstance(value, Tensor) or value.dtype not in (torch.int32, torch.bfloat16):
        return value
    local = sharding.local(value)
    if local.dtype == torch.bfloat16:
        local = local.view(torch.int16)
    elif torch.equal(local, local.to(torch.int16).to(torch.int32)):
        local = local.to(torch.int16)
    else:
        return value  # which is refused
    return sharding.spread_like(owner, local) if sharding.is_spread(value) else local


def empty_codes(tensor: Tensor, scales: bool, shape: torch.Size, dtype: torch.dtype) -> Tensor | None:
    """Block scales or 4-bit codes of a sharded parameter, to read a distributed checkpoint into; None where those in
    the checkpoint, of this shape over all processes, do not fit how the parameter is cut here."""
    for name in ("int8", "int4") if scales else ("int4",):
        part = torch.zeros(_shape(name, sharding.local(tensor).shape, scales), dtype=dtype, device=tensor.device)
        whole = _spread(tensor, name, part, scales)
        if whole.shape == shape:
            return whole
    return None


def fits_whole(tensor: Tensor, shape: torch.Size) -> bool:
    """Whether block scales of this shape are those of a parameter that is not cut."""
    return any(tuple(shape) == _shape(name, tensor.shape, True) for name in ("int8", "int4"))


def of_the_mesh(tensor: Tensor, slots: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `over_the_mesh`: the local part, with the length of the shard. Of whole tensors, as one process
    saves them, the part that lies here."""
    if not sharding.is_cut(tensor):
        return slots
    slots = _cut(tensor, slots)
    result, local = dict(slots), sharding.local(tensor)
    for slot in (key for key in slots if f"{key}_largest" in slots):
        is_packed = sharding.is_spread(slots[slot]) and slots[slot].shape != tensor.shape
        for key in (f"{slot}_largest", slot) if is_packed else (f"{slot}_largest",):
            if sharding.is_spread(slots[key]):
                shape = _shape("int4" if is_packed else "int8", local.shape, key != slot)
                part = sharding.local(slots[key]).reshape(-1)
                result[key] = part[: math.prod(shape)].view(shape) if len(part) >= math.prod(shape) else part
    return result


def _shape(name: str, shape: torch.Size, is_scales: bool) -> tuple[int, int]:
    """That of the block scales, or of the 4-bit codes, of a tensor."""
    code, lines = CODES[name, True], lines_of(shape)
    return lines.count, code.blocks(lines.length) if is_scales else code.code_bytes(lines.length)


def _placements(tensor: Tensor, name: str) -> list[Any] | None:
    """How block scales and codes are cut, as tensors (lines, blocks or bytes); None where the blocks of a part are not
    blocks of the whole."""
    from torch.distributed.tensor import Shard

    spread: Any = tensor
    order, block = memory_order.order_of(sharding.local(tensor)), CODES[name, True].block
    placements, sizes = list(spread.placements), spread.device_mesh.shape
    cuts = [(one.dim, size) for one, size in zip(placements, sizes, strict=True) if not one.is_replicate()]
    if list(order) != sorted(order):
        return None
    if tensor.ndim > 1 and math.prod(tensor.shape[1:]) >= SHORTEST:
        parts = math.prod(size for dimension, size in cuts if dimension == 1)
        even = tensor.shape[1] % parts == 0 and math.prod(tensor.shape[1:]) // parts % block == 0
        return placements if {dimension for dimension, _ in cuts} <= {0, 1} and (parts == 1 or even) else None
    if [dimension for dimension, _ in cuts] != [0] or tensor.shape[0] % cuts[0][1]:
        return None
    if tensor.numel() // cuts[0][1] % block:
        return None
    return [one if one.is_replicate() else Shard(1) for one in placements]


def _spread(tensor: Tensor, name: str, part: Tensor, is_scales: bool) -> Tensor:
    """Scales or codes of the part here, as one tensor over all processes."""
    placements, whole = _placements(tensor, name), _shape(name, tensor.shape, is_scales)
    if placements is not None:
        return sharding.spread_as(tensor, part, whole, placements)
    most = math.prod(_shape(name, torch.Size(sharding.largest_shard(tensor)), is_scales))
    return sharding.rows_of_all(tensor, part.reshape(-1, 1), most)


def _cut(tensor: Tensor, slots: Mapping[str, Any]) -> dict[str, Any]:
    """The slots with those of the whole parameter cut like it."""
    result = dict(slots)
    for key, value in slots.items():
        if not isinstance(value, Tensor) or sharding.is_spread(value) or value.ndim == 0:
            continue
        scales = slots.get(f"{key}_largest")
        if value.shape == tensor.shape:
            result[key] = sharding.placed_like(value, tensor)
            codes, name = value, "int8"
        elif value.dtype == torch.uint8:
            codes, name = value, "int4"
        else:
            continue
        if isinstance(scales, Tensor) and not sharding.is_spread(scales) and codes.dtype == torch.uint8:
            result |= _cut_codes(tensor, name, key, codes, scales)
    return result


def _cut_codes(tensor: Tensor, name: str, key: str, codes: Tensor, scales: Tensor) -> dict[str, Any]:
    """The scales, and codes of 4 bits, of a slot that one process has saved, as they are cut here; nothing where they
    are not those of this parameter, which is refused where each is looked at."""
    placements, lines = _placements(tensor, name), lines_of(tensor.shape)
    if placements is None or stored.coded_format(codes, scales, True, tensor.shape) != name:
        return {}
    if scales.ndim == 1 and lines.count > 1 and lines.length % CODES[name, True].block:
        return {}  # blocks of before, which must be encoded again
    codes, scales = formats.in_lines(name, True, (codes, scales), lines)
    cut = {f"{key}_largest": sharding.placed(scales, tensor, placements)}
    return cut if name == "int8" else {**cut, key: sharding.placed(codes, tensor, placements)}
