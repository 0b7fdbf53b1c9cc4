"""A parameter group as two: for optimizers that treat a part of the tensors differently."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def named(group: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """(name, tensor) of a group; the name is empty where there is none."""
    names = group.get("param_names") or [""] * len(group["params"])
    return [one if isinstance(one, tuple) else (name, one) for name, one in zip(names, group["params"], strict=True)]


def parted(group: Mapping[str, Any], chosen: Callable[[str, Any], bool]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The group with what is chosen, by name and tensor, and the group with the rest. Either may be empty."""
    mine = [chosen(name, tensor) for name, tensor in named(group)]

    def part(wanted: bool) -> dict[str, Any]:
        result = dict(group)
        for key in ("params", "param_names"):
            if key in group:
                result[key] = [one for one, is_mine in zip(group[key], mine, strict=True) if is_mine is wanted]
        return result

    return part(True), part(False)
