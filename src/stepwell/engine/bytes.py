"""The ledger of state bytes: the memory of a slot, of the state of a tensor, and of the state of an optimizer.

All counts of state bytes use these functions: `explain`, `state_bytes` of optimizers and wrappers, the forecast of
`stepwell.groups`, the catalogue and `bench/`. Step counts (a number per tensor) are excluded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from stepwell.engine import blocks, formats
from stepwell.engine.rule import RuleSignature, Slot

NUMBER = 8  # bytes of a slot that is one float64 per tensor
LOW_BITS = 2  # bytes per element that split weights lose in their parameter

# Of one element of a large tensor; blocks keep a scale in float32 beside their codes.
PER_ELEMENT = {
    name: size + (4 / formats.block_of(name) if formats.block_of(name) > 1 else 0)
    for name, size in formats.BYTES.items()
}


def of_shape(storage: str, shape: Sequence[int], signed: bool = True) -> int:
    """Bytes of a tensor of numbers of this shape in a format, scales of blocks included."""
    if storage in ("int8", "int4"):
        code, lines = blocks.CODES[storage, signed], blocks.lines_of(shape)
        return lines.count * (code.code_bytes(lines.length) + 4 * code.blocks(lines.length))
    return int(formats.BYTES[storage]) * math.prod(shape)


def of_slot(slot: Slot, storage: str, shape: Sequence[int], group: Mapping[str, Any]) -> int:
    """Bytes of one slot, stored in the format `storage`, of a tensor of this shape."""
    if storage == formats.NUMBER:
        return NUMBER
    return of_shape(storage, slot.shape(shape, group), slot.signed)


def of_tensor(signature: RuleSignature, group: Mapping[str, Any], shape: Sequence[int], weights: str) -> int:
    """Bytes of all state of a tensor of a group, low bits of split weights included, before or after its first step.

    Args:
        signature: the rule that updates it, with its slots.
        group: hyperparameters, `state` and `weights` among them.
        weights: the format of the tensor itself, "bf16".
    """
    elements = math.prod(shape)
    state, _ = formats.state_format(group["state"], weights, elements)
    present = [slot for slot in signature.slots if slot.exists(group)]
    total = sum(of_slot(slot, slot.format(group, state), shape, group) for slot in present)
    split = formats.weight_rounding(group["weights"], weights) == "split"
    return total + (LOW_BITS * elements if split else 0)


def held(values: Iterable[Any]) -> int:
    """Bytes of the tensors among `values`, and in lists of them."""
    total = 0
    for value in values:
        if isinstance(value, Tensor):
            total += value.numel() * value.element_size()
        elif isinstance(value, (list, tuple)):
            total += held(value)
    return total


def held_in_state(state: Mapping[Any, Any]) -> int:
    """Bytes in `optimizer.state`, without the step counts and without a user's own entries."""
    return sum(
        held(value for name, value in entries.items() if name != "step" and isinstance(value, Tensor))
        for tensor, entries in state.items()
        if isinstance(tensor, Tensor)
    )


def held_by_anyone(state: Mapping[Any, Any]) -> int:
    """Bytes of the memory of a state of any optimizer, including step counts, lists and the inner tensors of subclasses
    (torchao's); shared memory counts once."""
    seen: dict[int, int] = {}
    for entries in state.values():
        for value in entries.values() if isinstance(entries, dict) else ():
            for tensor in _plain(value):
                storage = tensor.untyped_storage()
                seen[storage.data_ptr()] = storage.nbytes()
    return sum(seen.values())


def _plain(value: Any) -> list[Tensor]:
    """The ordinary tensors in a value: those that a tensor subclass is made of, and those in lists."""
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in _plain(item)]
    if not isinstance(value, Tensor):
        return []
    if hasattr(value, "__tensor_flatten__"):
        return [tensor for name in value.__tensor_flatten__()[0] for tensor in _plain(getattr(value, name))]
    return [value]
