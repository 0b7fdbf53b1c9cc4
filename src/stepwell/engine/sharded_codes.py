"""Block scales, 4-bit codes and low bits of a sharded parameter, in checkpoints: what belongs to the part of a process,
shown as one tensor over all processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stepwell.engine import blocks, formats, memory_order, sharding


def packed(slots: Mapping[str, Any]) -> list[str]:
    """The slots in 4-bit codes: vectors of bytes that do not contain the order of their elements."""
    return [
        key
        for key in slots
        if isinstance(key, str)
        and f"{key}_largest" in slots
        and getattr(slots[key], "dtype", None) == torch.uint8
        and slots[key].ndim == 1
    ]


def over_the_mesh(tensor: Tensor, slots: Mapping[str, Any]) -> dict[str, Any]:
    """The state of a sharded parameter, with block scales and 4-bit codes as DTensors as well: a distributed checkpoint
    has one name for them in all processes."""
    result = dict(slots)
    if not sharding.is_cut(tensor):
        return result
    in_bits, most = packed(slots), sharding.largest_shard(tensor)
    for slot in (key for key in slots if f"{key}_largest" in slots):
        name = "int4" if slot in in_bits else "int8"
        code = blocks.CODES[name, True]
        lengths = {f"{slot}_largest": code.blocks(most)} | ({slot: code.code_bytes(most)} if slot in in_bits else {})
        for key, length in lengths.items():
            if isinstance(slots[key], Tensor) and not sharding.is_spread(slots[key]):
                result[key] = sharding.rows_of_all(tensor, slots[key], length, _follows(tensor, name))
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


def _follows(tensor: Tensor, name: str) -> bool:
    """Whether the blocks of all shards, one after the other, are those of the whole parameter."""
    most, local = sharding.largest_shard(tensor), sharding.local(tensor)
    spread: Any = tensor
    in_order = list(memory_order.order_of(local)) == sorted(memory_order.order_of(local))
    is_even = most * spread.device_mesh.size() == tensor.numel() and len(spread.placements) == 1
    return in_order and is_even and spread.placements[0].is_shard(0) and most % formats.block_of(name) == 0


def empty_codes(tensor: Tensor, scales: bool, shape: torch.Size, dtype: torch.dtype) -> Tensor | None:
    """Block scales or 4-bit codes of a sharded parameter, to read a distributed checkpoint into; None where those in
    the checkpoint, of this shape over all processes, do not fit how the parameter is cut here."""
    most = sharding.largest_shard(tensor)
    for name in ("int8", "int4") if scales else ("int4",):
        code = blocks.CODES[name, True]
        length = code.blocks(most) if scales else code.code_bytes(most)
        part = torch.zeros(length, dtype=dtype, device=tensor.device)
        whole = sharding.rows_of_all(tensor, part, length, _follows(tensor, name))
        if whole.shape == shape:
            return whole
    return None


def of_the_mesh(tensor: Tensor, slots: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `over_the_mesh`: the local part, with the length of the shard. Of whole tensors, as one process
    saves them, the part that lies here."""
    if not sharding.is_cut(tensor):
        return slots
    slots = _cut(tensor, slots)
    result, elements = dict(slots), sharding.local(tensor).numel()
    for slot in (key for key in slots if f"{key}_largest" in slots):
        is_packed = sharding.is_spread(slots[slot]) and slots[slot].shape != tensor.shape
        code = blocks.CODES["int4" if is_packed else "int8", True]
        lengths = {f"{slot}_largest": code.blocks(elements)} | ({slot: code.code_bytes(elements)} if is_packed else {})
        for key, length in lengths.items():
            if sharding.is_spread(slots[key]):
                result[key] = sharding.local(slots[key]).reshape(-1)[:length]
    return result


def _cut(tensor: Tensor, slots: Mapping[str, Any]) -> dict[str, Any]:
    """The slots with those of the whole parameter cut like it. Packed codes have no rows, and are left whole."""
    result, scales = dict(slots), (blocks.CODES["int8", True].blocks(tensor.numel()),)
    for key, value in slots.items():
        if not isinstance(value, Tensor) or sharding.is_spread(value) or value.ndim == 0:
            continue
        if value.shape == tensor.shape:
            result[key] = sharding.placed_like(value, tensor)
        elif key.endswith("_largest") and value.shape == scales and _follows(tensor, "int8"):
            spread: Any = tensor
            count = len(value) // spread.device_mesh.size()
            result[key] = value[count * spread.device_mesh.get_local_rank() :][:count]
    return result
