"""The base class of LAMB and LARS: which tensors get neither trust ratio nor weight decay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from stepwell.anatomy import find_roles
from stepwell.engine import OneOf, Optimizer, as_groups
from stepwell.optimizers.parted import parted

EXCLUDE = OneOf(("vectors", "all", "none"))
ROLES = ("norm", "bias", "scalar")


class LayerWise(Optimizer):
    """An optimizer whose steps are scaled to the norm of each tensor, except norms, biases and scalars.

    Given a model, or groups that were made from a model (`stepwell.groups`), it finds these by role, and splits each
    group into a group with `exclude="none"` and a group with `exclude="all"`. Otherwise the tensors with fewer than two
    dimensions are excluded (`exclude="vectors"`). `explain()` lists them.
    """

    def __init__(self, params: Any, defaults: dict[str, Any], options: Mapping[str, Any]) -> None:
        if isinstance(defaults["exclude"], str) and defaults["exclude"] == "vectors":
            params = _by_role(params, type(self).__name__)
        super().__init__(params, defaults, options)

    def choose(
        self, group: Mapping[str, Any], tensor: Any, flags: dict[str, Any], decay: str | None
    ) -> tuple[dict[str, Any], str | None]:
        exclude = group["exclude"]
        return {**flags, "exclude": exclude == "all" or (exclude == "vectors" and tensor.ndim < 2)}, decay

    def remarks(self, group: Mapping[str, Any], tensor: Tensor) -> list[str]:
        excluded = self.choose(group, tensor, {}, None)[0]["exclude"]
        why = "norm, bias or scalar" if group["exclude"] == "all" else "fewer than two dimensions"
        return [f"{why}: no trust ratio and no decay"] if excluded else []


def _by_role(params: Any, owner: str) -> Any:
    """Groups with a key `exclude`, where the roles are known; else `params` unchanged."""
    if isinstance(params, nn.Module):
        members = find_roles(params).members
    elif isinstance(params, list) and hasattr(params, "members"):  # made by `stepwell.groups`
        members = params.members
    else:
        return params
    excluded = {id(member.tensor) for member in members if member.role in ROLES}
    groups = []
    for group in as_groups(params, owner):
        if "exclude" in group:
            groups.append(group)
            continue
        vectors, others = parted(group, lambda name, tensor: id(tensor) in excluded)
        parts = ({**others, "exclude": "none"}, {**vectors, "exclude": "all"})
        groups += [part for part in parts if part["params"]] or [group]
    return groups
