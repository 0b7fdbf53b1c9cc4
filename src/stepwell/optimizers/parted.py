"""Splits a parameter group into two, for optimizers that treat some tensors differently."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from stepwell.engine.sharding import inside_zero
from stepwell.errors import UsageError


def named(group: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """(name, tensor) pairs of a group; the name of a tensor without a name is empty."""
    count = len(group["params"])
    names = group.get("param_names")
    if not (isinstance(names, (list, tuple)) and len(names) == count):  # checked with the group
        names = [""] * count
    return [one if isinstance(one, tuple) else (name, one) for name, one in zip(names, group["params"], strict=True)]


def refuse_inside_zero(owner: str, key: str) -> None:
    """Raise UsageError where a ZeroRedundancyOptimizer constructs the optimizer: it asserts that the optimizer has as
    many groups as it passed."""
    if inside_zero():
        raise UsageError(
            f"{owner}: inside ZeroRedundancyOptimizer a group cannot be split into two; pass groups that say "
            f"which they are, as ZeroRedundancyOptimizer([{{'params': matrices, '{key}': True}}, "
            f"{{'params': others, '{key}': False}}], {owner}, lr=...)"
        )


def parted(group: Mapping[str, Any], chosen: Callable[[str, Any], bool]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The group with the tensors that `chosen(name, tensor)` accepts, and the group with the others. Either may be
    empty."""
    mine = [chosen(name, tensor) for name, tensor in named(group)]

    def part(wanted: bool) -> dict[str, Any]:
        result = dict(group)
        for key in ("params", "param_names"):
            if key in group:
                result[key] = [one for one, is_mine in zip(group[key], mine, strict=True) if is_mine is wanted]
        return result

    return part(True), part(False)
