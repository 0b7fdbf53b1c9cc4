"""The parameters and groups from the user, in one form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stepwell.errors import UsageError, WrongType, shown


def as_groups(params: Any, owner: str) -> list[dict[str, Any]]:
    """`params` as torch takes them (tensors, (name, tensor) pairs, or dicts of groups) as a list of group dicts."""
    if isinstance(params, Tensor):
        raise WrongType(f"{owner}: params is a tensor; pass a list of tensors, as in model.parameters()")
    if isinstance(params, torch.nn.Module):
        params = params.named_parameters()
    given = members_of(owner, "params", params)
    if not given:
        raise UsageError(
            f"{owner}: the list of parameters is empty; was model.parameters() already consumed, or has the model no "
            "parameters?"
        )
    groups = given if isinstance(given[0], dict) else [{"params": given}]
    result = []
    for position, group in enumerate(groups):
        if not isinstance(group, dict) or "params" not in group:
            raise UsageError(f"{owner}: group {position} has no 'params'; each group is a dict with the key 'params'")
        members = group["params"]
        members = [members] if isinstance(members, Tensor) else members_of(owner, position, members)
        result.append({**group, "params": members})
    seen: dict[int, str] = {}
    for position, group in enumerate(result):
        for label, tensor in labelled(group, position):
            if id(tensor) in seen:
                raise UsageError(
                    f"{owner}: {label} is given twice (also as {seen[id(tensor)]}); give each tensor once, in one group"
                )
            seen[id(tensor)] = label
    return result


def members_of(owner: str, of: str | int, members: Any) -> list[Any]:
    """The members of `params`, or of the params of a group by its place; they may be those of an iterator."""
    what, is_ = (of, "is") if isinstance(of, str) else (f"the params of group {of}", "are")
    do = "pass model.parameters() or a list of groups" if isinstance(of, str) else "pass a list"
    if isinstance(members, (set, frozenset)):
        raise WrongType(f"{owner}: {what} {is_} a set, whose order differs from run to run; pass a list")
    if isinstance(members, (str, bytes, bytearray, memoryview, Mapping)):
        raise WrongType(f"{owner}: {what} {is_} a {type(members).__name__}; {do}")
    found: list[Any] = []
    try:
        iterator = iter(members)
    except Exception:  # a method of the user's own may raise anything
        raise WrongType(f"{owner}: {what} {is_} a {type(members).__name__}; {do}") from None
    try:
        for member in iterator:
            if not isinstance(member, (Tensor, tuple, dict)):
                where = f"parameter {len(found)}" + ("" if isinstance(of, str) else f" of group {of}")
                raise WrongType(
                    f"{owner}: {where} is a {type(member).__name__}; a parameter must be a torch.Tensor, in params"
                )
            found.append(member)
            if len(found) > _MOST:
                raise UsageError(f"{owner}: {what} {is_} longer than {_MOST:,}; does it ever end? {do}")
    except (OverflowError, RecursionError, MemoryError):  # of a range
        raise WrongType(f"{owner}: {what} {is_} a {type(members).__name__}; {do}") from None
    return found


_MOST = 1_000_000  # parameters of one optimizer; an iterator of more is taken for one that never ends


def labelled(group: dict[str, Any], position: int | None = None) -> list[tuple[str, Any]]:
    """The tensors of a group with words to call them by."""
    where = "" if position is None else f" of group {position}"
    names = group.get("param_names")
    names = names if isinstance(names, (list, tuple)) and len(names) == len(group["params"]) else None
    pairs = []
    for index, member in enumerate(group["params"]):
        if isinstance(member, tuple) and len(member) == 2:
            pairs.append((f"the parameter '{member[0]}'", member[1]))
        elif names:
            pairs.append((f"the parameter '{names[index]}'", member))
        else:
            pairs.append((f"parameter {index}{where}", member))
    return pairs


def check_names(owner: str, group: Mapping[str, Any]) -> None:
    """Raise UsageError for names of parameters or of the group that are not str, or for another number of names."""
    names = group.get("param_names")
    count = len(group["params"])
    if names is not None and not (
        isinstance(names, (list, tuple)) and len(names) == count and all(isinstance(name, str) for name in names)
    ):
        raise UsageError(
            f"{owner}: param_names={shown(names)}; it must be a list of {count} str, one for each parameter"
        )
    for member in group["params"]:
        if isinstance(member, tuple) and len(member) == 2 and not isinstance(member[0], str):
            raise UsageError(f"{owner}: {shown(member[0])} names a parameter in params; it must be a str")
