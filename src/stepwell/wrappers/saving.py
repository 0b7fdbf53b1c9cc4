"""Saving and loading the state of a wrapper.

The state is that of the wrapped optimizer, in torch's layout. The wrapper adds its settings to every group and its
tensors to the state of their parameters. So distributed checkpoints and trainers, which read torch's layout, find what
they expect. A state of the wrapped optimizer alone can be loaded: the wrapper's own tensors are then initialized again.

    {"state": {index: {slot: tensor, ..., "lookahead_slow": tensor}},
     "param_groups": [{..., "wrappers": {"Lookahead": {"k": 5, ...}}, "params": [index, ...]}]}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stepwell.engine import checkpoint, sharding, stored
from stepwell.engine.matching import match
from stepwell.engine.rule import Slot
from stepwell.engine.update import wraps_another
from stepwell.errors import UsageError

if TYPE_CHECKING:
    from stepwell.wrappers.wrapper import Wrapper


def with_own(wrapper: Wrapper, inside: dict[str, Any]) -> dict[str, Any]:
    """The state of the wrapped optimizer, with settings in its groups and `own` in the state of each parameter."""
    name, prefix = _title(wrapper), _prefix(wrapper)
    settings = {setting: getattr(wrapper, setting) for setting in wrapper.settings}
    groups = [
        {**group, checkpoint.WRAPPERS: {name: dict(settings), **group.get(checkpoint.WRAPPERS, {})}}
        for group in inside["param_groups"]
    ]
    state = {key: dict(value) if isinstance(value, dict) else value for key, value in inside["state"].items()}
    indices = [index for group in groups for index in group["params"]]
    for index, (_, tensor) in zip(indices, wrapper.named(), strict=True):
        for entry, value in wrapper.own.get(tensor, {}).items():
            state.setdefault(index, {})[f"{prefix}{entry}"] = value
    return {**inside, "state": state, "param_groups": groups}


def fitting(
    wrapper: Wrapper, content: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[Tensor, dict[str, Tensor]]]:
    """The state for the wrapped optimizer, the settings, and `own` on the devices of the parameters.

    Raises UsageError where the state does not fit.
    """
    name = type(wrapper).__name__
    state, saved_groups = checkpoint.parts_of(name, content)
    found = _settings_in(wrapper, saved_groups)
    wrapper._check_settings({} if found is None else found, saved_groups)
    prefix = _prefix(wrapper)
    mine: dict[Any, dict[str, Any]] = {}
    rest: dict[Any, Any] = {}
    for index, slots in state.items():
        if isinstance(slots, Mapping):
            own = {key for key in slots if isinstance(key, str) and key.startswith(prefix)}
            mine[index] = {key.removeprefix(prefix): slots[key] for key in own}
            slots = {key: value for key, value in slots.items() if key not in own}
            if not slots and own:
                continue
        rest[index] = slots
    loaded: dict[Tensor, dict[str, Tensor]] = {}
    for label, tensor, index in match(name, wrapper.param_groups, saved_groups):
        for key, value in mine.get(index, {}).items() if found is not None else ():
            loaded.setdefault(tensor, {})[key] = _own_fitting(wrapper, label, tensor, key, value)
    groups = []
    for group in saved_groups:
        inner = dict(group.get(checkpoint.WRAPPERS) or {})
        inner.pop(_title(wrapper), None)
        plain = {key: value for key, value in group.items() if key != checkpoint.WRAPPERS}
        groups.append({**plain, checkpoint.WRAPPERS: inner} if inner else plain)
    return {**content, "state": rest, "param_groups": groups}, found or {}, loaded


def _settings_in(wrapper: Wrapper, saved_groups: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The settings of this wrapper in a checkpoint; None where the saved optimizer was not wrapped."""
    name = _title(wrapper)
    everywhere = [group[checkpoint.WRAPPERS] for group in saved_groups if group.get(checkpoint.WRAPPERS)]
    if not everywhere:
        return None
    outermost = str(next(iter(everywhere[0])))
    if outermost != name:
        if wraps_another(wrapper.base) and name not in everywhere[0]:
            return None  # it is a state of what is inside, or that refuses it
        raise UsageError(
            f"{name}: the checkpoint is of {outermost}, not of {name}; load it into what saved it "
            f"(the optimizer inside is optimizer.base), or wrap in the same order"
        )
    settings = everywhere[0][name]
    missing = [s for s in wrapper.settings if not isinstance(settings, Mapping) or s not in settings]
    if missing:
        raise UsageError(f"{name}: the checkpoint has no '{missing[0]}'; was it changed after it was saved?")
    return {setting: settings[setting] for setting in wrapper.settings}


def _own_fitting(wrapper: Wrapper, label: str, tensor: Tensor, key: str, value: Any) -> Tensor:
    """One entry of `own` in the layout of its parameter. Raises UsageError where it does not fit."""
    name, shown = type(wrapper).__name__, f"{_prefix(wrapper)}{key}"
    if key not in wrapper.kept:
        raise UsageError(f"{name}: the checkpoint has '{shown}' for {label}, where {name} keeps {wrapper.kept}")
    local = sharding.local(tensor)
    like = torch.empty(local.shape, dtype=torch.promote_types(local.dtype, torch.float32), device="meta")
    stored.check(name, label, Slot(shown), {shown: sharding.local(value)}, like)
    if sharding.is_spread(value) != sharding.is_spread(tensor):
        raise UsageError(f"{name}: '{shown}' of {label} is spread over a mesh on one side only; save it whole")
    return torch.empty_like(tensor, dtype=like.dtype, requires_grad=False).copy_(value.detach())


def _title(wrapper: Wrapper) -> str:
    """The name of this wrapper in a checkpoint: its class, with a number where it wraps another of its class."""
    alike, inside = 1, wrapper.base
    while wraps_another(inside):
        alike += type(inside) is type(wrapper)
        inside = inside.base
    return f"{type(wrapper).__name__}{alike if alike > 1 else ''}"


def _prefix(wrapper: Wrapper) -> str:
    """The prefix of the entries that this wrapper adds to the state of a parameter."""
    return checkpoint.own_prefix(_title(wrapper))


def in_torchs_layout(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """A state in the old layout of wrappers, {"wrapper", "settings", "own", "base"}, in the current layout."""
    if not {"wrapper", "settings", "own", "base"} <= content.keys() or not isinstance(content["base"], Mapping):
        return content
    inside = in_torchs_layout(content["base"])
    state, groups = checkpoint.parts_of(str(content["wrapper"]), inside)
    prefix = checkpoint.own_prefix(str(content["wrapper"]))
    indices = [index for group in groups for index in group["params"]]
    merged = {key: dict(value) if isinstance(value, Mapping) else value for key, value in state.items()}
    for place, kept in dict(content["own"]).items():  # by the place of the parameter
        for key, value in kept.items():
            merged.setdefault(indices[place], {})[f"{prefix}{key}"] = value
    wrapped = [
        {**group, checkpoint.WRAPPERS: {content["wrapper"]: content["settings"], **group.get(checkpoint.WRAPPERS, {})}}
        for group in groups
    ]
    return {"state": merged, "param_groups": wrapped}
