"""The bytes that a step must move, from what the optimizer declares and its rule really reads.

Per element: the parameter is read and written, the gradient is read, and every slot is read and written in its format
(with the largest magnitudes of its blocks). An array that the rule never reads, or hands back as it was, does not count
that way. A rule with sums reads the arrays of its sums once more.
"""

from __future__ import annotations

from typing import Any

from stepwell.engine import Optimizer, formats
from stepwell.engine.backends.statements import traced, traced_sums
from stepwell.engine.bytes import LOW_BITS, PER_ELEMENT
from stepwell.engine.kind import LaunchKind


def moved_bytes(optimizer: Any) -> float | None:
    """Bytes that one step of all parameters must move; None where the step is not elementwise."""
    launches = _launches(optimizer)
    if launches is None:
        return None
    return sum(bytes_per_element(launch.kind) * sum(t.numel() for t in launch.tensors) for launch in launches)


def passes(optimizer: Any) -> int | None:
    """How many passes over the elements a step takes; None where the step is not elementwise."""
    launches = _launches(optimizer)
    return None if launches is None else max(2 if launch.kind.sums else 1 for launch in launches)


def _launches(optimizer: Any) -> list[Any] | None:
    """The launches of a step; None if one of them is not elementwise, or if there are none."""
    if not isinstance(optimizer, Optimizer) or not hasattr(optimizer, "signature"):
        return None
    launches = optimizer.make_plan().launches
    return launches if all(launch.kind.view == "element" for launch in launches) else None


def bytes_per_element(kind: LaunchKind) -> float:
    """What a launch of this kind moves per element, both passes together."""
    widths = {"p": formats.BYTES[kind.weights], "g": formats.BYTES[kind.gradients]}
    if kind.rounding == "split":
        widths["p"] += LOW_BITS
    for name, storage in zip(kind.slots, kind.slot_formats, strict=True):
        if name is not None and storage != formats.NUMBER:
            widths[name] = PER_ELEMENT[storage]
    update = traced(kind)
    moved = [widths[name] for name in update.inputs("element")]
    for name, symbol in update.outputs.items():
        as_it_was = symbol.op == "input" and symbol.value == name
        if name in widths and not as_it_was:
            moved.append(widths[name])
    if kind.sums:
        moved += [widths[name] for name in traced_sums(kind).inputs("element")]
    return sum(moved)
