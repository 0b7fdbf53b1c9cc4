"""Matches the parameters of a checkpoint and of an optimizer: by name if both have names, else by position."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from stepwell.engine import prefixes
from stepwell.errors import UsageError


def match(owner: str, groups: list[Any], saved_groups: list[Any]) -> list[tuple[str, Tensor, Any]]:
    """For every parameter: its label, the parameter, and its index in the checkpoint."""
    # Names that two parameters share (of two models in one optimizer) tell nothing.
    if _tells_names(groups) and _tells_names(saved_groups):
        here = [pair for group in groups for pair in named(group)]
        saved = {
            name: index
            for group in saved_groups
            for name, index in zip(group["param_names"], group["params"], strict=True)
        }
        theirs = prefixes.paired([name for name, _ in here], list(saved))
        if theirs is None:
            mine, other = {prefixes.bare(name) for name, _ in here}, {prefixes.bare(name) for name in saved}
            missing = [prefixes.bare(name) for name, _ in here if prefixes.bare(name) not in other]
            extra = sorted(other - mine)
            if missing:
                what = f"no parameter '{missing[0]}'"
            else:
                what = f"a parameter '{extra[0]}' that this optimizer does not have" if extra else "other names"
            raise UsageError(
                f"{owner}: the checkpoint has {what} ({len(missing)} missing, {len(extra)} too many); "
                "it was saved from a different model or with other groups"
            )
        return [(f"the parameter '{prefixes.bare(name)}'", tensor, saved[theirs[name]]) for name, tensor in here]
    if len(groups) != len(saved_groups):
        raise UsageError(
            f"{owner}: the checkpoint has {len(saved_groups)} parameter groups, the optimizer {len(groups)}; "
            "build the groups as in the saved run, or save and load with names (pass model.named_parameters())"
        )
    result = []
    for position, (group, saved_group) in enumerate(zip(groups, saved_groups, strict=True)):
        if len(group["params"]) != len(saved_group["params"]):
            raise UsageError(
                f"{owner}: group {position} has {len(group['params'])} parameters, "
                f"in the checkpoint {len(saved_group['params'])}; it was saved from a different model"
            )
        for place, ((name, tensor), index) in enumerate(zip(named(group), saved_group["params"], strict=True)):
            label = f"the parameter '{name}'" if "param_names" in group else f"parameter {place} of group {position}"
            result.append((label, tensor, index))
    return result


def _tells_names(groups: list[Any]) -> bool:
    """Whether every parameter has a unique name."""
    if not all(group.get("param_names") is not None for group in groups):
        return False
    names = [name for group in groups for name in group["param_names"]]
    return len(set(names)) == len(names)


def named(group: Mapping[str, Any]) -> list[tuple[str, Tensor]]:
    """The parameters of a group with their names; without names, their numbers."""
    names = group.get("param_names") or [str(i) for i in range(len(group["params"]))]
    return list(zip(names, group["params"], strict=True))
