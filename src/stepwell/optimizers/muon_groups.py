"""Which tensors Muon updates itself: the hidden matrices of a network. AdamW updates the others."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from stepwell.anatomy import ROLES, find_roles, hidden_by_name, is_matrix, role_by_name
from stepwell.engine import as_groups
from stepwell.engine.given_groups import labelled
from stepwell.engine.rule import FLAG, read
from stepwell.engine.sharding import no_shape
from stepwell.errors import UsageError
from stepwell.optimizers.parted import named, parted, refuse_inside_zero

_MEANT = {"muon": True, "adamw": False}  # the label that `stepwell.groups.muon` gives a group -> `use_muon`
_MADE = re.compile(r"(muon|adamw)(, [^:]*)?: (ROLE)([+](ROLE))*".replace("ROLE", "|".join(ROLES)))  # the group's name
_SHOWN = 4  # tensors that a warning lists


def split(params: Any, inner: Mapping[str, Any], force: bool, whole: bool = True) -> list[dict[str, Any]]:
    """Parameter groups with a key `use_muon`: hidden matrices, and the other tensors with the hyperparameters `inner`.

    The first of these that is known decides: the key in the group; `stepwell.groups.muon`, which made the group; the
    role of the tensor in its model; its name and shape; its shape alone, with a warning.

    Args:
        force: accept embeddings and heads in a group with `use_muon=True`.
        whole: these are all parameters of the optimizer, not a group that is added later. Raises UsageError where none
            of them is a hidden matrix.
    """
    members = find_roles(params).members if isinstance(params, nn.Module) else None
    if isinstance(params, list):  # those of `stepwell.groups` know their members
        members = getattr(params, "members", None)
    groups = as_groups(params, "Muon")
    for label, tensor in (pair for group in groups for pair in labelled(group)):
        if isinstance(tensor, Tensor) and (reason := no_shape(tensor)) is not None:
            raise UsageError(f"Muon: cannot update {label}: {reason}")
    made_for = getattr(params, "optimizers", None) or [None] * len(groups)
    said = [_said(group, name) for group, name in zip(groups, made_for, strict=True)]
    if members is None:
        hidden = _told_by_names([group for group, use in zip(groups, said, strict=True) if use is None], whole)
    elif any(member.trained and member.is_hidden_matrix for member in members):
        hidden = {id(member.tensor) for member in members if member.is_hidden_matrix}
    else:
        hidden = set()
    found: list[dict[str, Any]] = []
    for group, use in zip(groups, said, strict=True):
        if use is None:
            refuse_inside_zero("Muon", "use_muon")
            matrices, others = parted(group, lambda name, tensor: id(tensor) in hidden)
            found += [{**matrices, "use_muon": True}, {**inner, **others, "use_muon": False}]
        elif use:
            _check_matrices(group, force)
            found.append({**group, "use_muon": use})
        else:
            found.append({**inner, **group, "use_muon": use})
    found = [group for group in found if group["params"] or len(found) == 1]
    tensors = [tensor for group in found for _, tensor in named(group)]  # anything else is refused with its group
    if whole and not any(group["use_muon"] for group in found) and all(isinstance(one, Tensor) for one in tensors):
        raise UsageError(
            f"Muon: none of the {len(tensors)} tensors given is a trained hidden matrix, so AdamW would update them "
            "all; use AdamW, or say use_muon=True in the group of a matrix"
        )
    return found


def _check_matrices(group: Mapping[str, Any], force: bool) -> None:
    for name, tensor in named(group):
        if not isinstance(tensor, Tensor):
            continue  # refused with its group
        if not is_matrix(tensor):
            raise UsageError(
                f"Muon: {name or 'a parameter'} of shape {tuple(tensor.shape)} is no matrix, so it cannot be "
                "orthogonalized; give its group use_muon=False, and AdamW updates it"
            )
        role = None if force or "use_muon" not in group else role_by_name(name)
        if role is not None:
            raise UsageError(
                f"Muon: {name} looks like {'an' if role == 'embedding' else 'a'} {role}, whose rows should not be "
                "orthogonalized; give its group use_muon=False, or force=True if the name is misleading"
            )


def _said(group: Mapping[str, Any], made_for: str | None) -> Any:
    """Whether a group is for Muon, by its key `use_muon` or its label of `stepwell.groups.muon`. None: unknown."""
    if "use_muon" in group:
        return read("Muon", "use_muon", group["use_muon"], FLAG)
    if made_for is None and (made := _MADE.fullmatch(_name_of(group))):  # taken out of `Groups`, by list(groups)
        made_for = made[1]
    return None if made_for is None else _MEANT.get(made_for)


def _name_of(group: Mapping[str, Any]) -> str:
    name = group.get("name")
    return name if isinstance(name, str) else ""


def _told_by_names(groups: Sequence[Mapping[str, Any]], whole: bool) -> set[int]:
    """The ids of hidden matrices, judged by names and shapes. Warns where only the shape is known."""
    pairs = [pair for group in groups for pair in named(group) if isinstance(pair[1], Tensor)]
    told = hidden_by_name(pairs, whole)
    if told.doubted:
        count = len(told.doubted)
        listed = ", ".join(f"{name or 'unnamed'} {list(tensor.shape)}" for name, tensor in told.doubted[:_SHOWN])
        warnings.warn(
            f"Muon: {count} tensor{'' if count == 1 else 's'} taken for hidden matrices by shape alone, embeddings and "
            f"output layers among them if there are any: {listed}{', ...' if count > _SHOWN else ''}; pass the model "
            "or stepwell.groups.muon(model), or say use_muon in each group",
            UserWarning,
            stacklevel=4,
        )
    return told.hidden
