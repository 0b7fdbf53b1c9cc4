"""Saving and loading state, in torch's layout and with torch's slot names, so that checkpoints work in both directions.

    {"state": {index: {"step": ..., slot: tensor, ...}}, "param_groups": [{..., "params": [index, ...]}]}

If the optimizer was built with names (`model.named_parameters()`), groups contain `param_names`, and a checkpoint is
loaded by name: a layer that moved keeps its moments, with any wrapper of the model (see `prefixes.py`). Without names,
    or
if two parameters have the same name, it is loaded by position, as in torch. Tensors keep their dtype; a slot that the
optimizer stores in another format is converted at its next use. A user's entries in `optimizer.state`, in the state of
a parameter or in a group are saved and loaded, as in torch.

Everything is checked before anything is changed: groups here, entries of the state in `stored.py`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stepwell.engine import formats, memory_order, sharded_codes, sharding, stored
from stepwell.engine.blocks import Lines
from stepwell.engine.divided import saved as divided
from stepwell.engine.matching import match
from stepwell.engine.rule import FLAG, OneOf, Range, Slot, as_plain_numbers, check_hyperparameters
from stepwell.errors import UsageError

# What torch's optimizers keep in a group and stepwell has no use for.
_TORCH_GROUP_KEYS = frozenset({"foreach", "fused", "capturable", "differentiable"})

WRAPPERS = "wrappers"  # of a group in a checkpoint: the settings of what wraps the optimizer, by name (see `Wrapper`)

# Slots of optimizers here and in torch: beside those that an optimizer has they are no additions of a user, but say
# that another optimizer has saved the checkpoint, or the same with other options.
_SLOT_NAMES = (
    "momentum_buffer exp_avg exp_avg_sq max_exp_avg_sq exp_avg_var max_exp_avg_var exp_avg_diff exp_avg_fast "
    "exp_avg_slow exp_inf pre_grad last_grad square_avg grad_avg acc_delta sum hessian prev step_size mu_product eta "
    "mu ax z weight_sum lr_max s p0 d d_max d_numerator k row_var col_var variance left right q_left q_right "
    "root_left root_right square"
)
_SLOTS = frozenset(_SLOT_NAMES.split())
# One average that needs no correction of its start: torch's SGD and Muon and others keep it without a count of steps.
_WITHOUT_COUNT = ({"momentum_buffer"}, {"exp_avg"})


def state_dict(optimizer: Any) -> dict[str, Any]:
    """The state of `optimizer` in torch's layout. Tensors are those in use, not copies, except for the codes of a shard
    (`sharded_codes.over_the_mesh`)."""
    indices: dict[int, int] = {}
    groups = []
    for group in optimizer.param_groups:
        for tensor in group["params"]:
            indices.setdefault(id(tensor), len(indices))
        packed = {key: value for key, value in group.items() if key != "params"}
        groups.append({**packed, "params": [indices[id(tensor)] for tensor in group["params"]]})
    state: dict[Any, Any] = {}
    of_wholes = divided.shown(optimizer)
    for key, value in optimizer.state.items():
        if not isinstance(key, Tensor):
            state[key] = value  # a user's own
        elif value and id(key) in indices:  # that of a parameter which was taken out of its group means nothing
            slots = {**value, **of_wholes.get(key, {})}
            state[indices[id(key)]] = {**sharded_codes.over_the_mesh(key, slots), **_order(key, slots)}
    return {"state": state, "param_groups": groups}


def content_of(owner: str, given: Any) -> dict[str, Any]:
    """A checkpoint as a new dict. Raises UsageError if it is not a checkpoint."""
    if not isinstance(given, Mapping):
        raise UsageError(
            f"{owner}: the checkpoint is a {type(given).__name__}; pass the result of optimizer.state_dict()"
        )
    return dict(given)


def load_state_dict(optimizer: Any, checkpoint: Mapping[str, Any], keep_formats: bool = False) -> None:
    """Load `checkpoint`, or raise UsageError that names the first parameter that does not fit, and change nothing."""
    owner = type(optimizer).__name__
    saved_state, saved_groups = parts_of(owner, checkpoint)
    groups = optimizer.param_groups
    origin = match(owner, groups, saved_groups)
    _refuse_kept_by_wrappers(owner, saved_state, saved_groups)

    new: list[dict[str, Any]] = [{} for _ in groups]  # the hyperparameters that are taken over
    if len(groups) == len(saved_groups):
        for values, group, saved in zip(new, groups, saved_groups, strict=True):
            kept = {"params", "param_names"} & set(group) | ({"state", "weights"} if keep_formats else set())
            kept |= {"params", WRAPPERS}
            taken = {k: v for k, v in saved.items() if not (k in _TORCH_GROUP_KEYS or k in kept)}
            values.update(copied(taken))  # a tensor for lr is not shared with whoever else loads it
    for mode in optimizer.modes:  # what the saved weights are, however they are grouped; a group added later has no say
        found = [saved[mode] for saved in saved_groups if mode in saved]
        if not all(isinstance(value, bool) for value in found):
            raise UsageError(f"{owner}: {mode}={found!r} in the groups of the checkpoint; it must be {FLAG}")
        for values in new if found else ():
            values[mode] = all(found)
    for place, (group, values) in enumerate(zip(groups, new, strict=True)):
        _check_group(optimizer, f"{owner}: group {place} of the checkpoint", group, values)

    as_loaded = {id(p): {**group, **values} for group, values in zip(groups, new, strict=True) for p in group["params"]}
    if any(divided.is_of_whole(optimizer, tensor, as_loaded[id(tensor)]) for _, tensor, _ in origin):
        optimizer.make_plan()  # which finds the owners
    loaded: dict[Any, Any] = {}
    for name, tensor, index in origin:
        slots = saved_state.get(index)
        if slots:
            loaded[tensor] = _checked(optimizer, name, tensor, slots, as_loaded[id(tensor)])
    _check_shared(optimizer, origin, loaded)
    taken_from = {index for _, _, index in origin}
    loaded.update({key: value for key, value in saved_state.items() if key not in taken_from})  # a user's own

    for group, values in zip(groups, new, strict=True):
        group.update(values)
    optimizer.__setstate__({"state": loaded, "param_groups": groups})


def parts_of(owner: str, checkpoint: Mapping[str, Any]) -> tuple[Mapping[Any, Any], list[dict[str, Any]]]:
    """State and groups of a checkpoint in torch's layout. Raises UsageError for the first entry of another type."""
    for key in ("state", "param_groups"):
        if key not in checkpoint:
            raise UsageError(
                f"{owner}: the checkpoint has no '{key}' (it has {', '.join(map(str, checkpoint)) or 'nothing'}); "
                "pass the result of optimizer.state_dict()"
            )
    state, groups = checkpoint["state"], checkpoint["param_groups"]
    if not isinstance(state, Mapping):
        raise UsageError(f"{owner}: 'state' of the checkpoint is a {type(state).__name__}; it must be a dict")
    if not isinstance(groups, Sequence) or isinstance(groups, str):
        raise UsageError(f"{owner}: 'param_groups' of the checkpoint is a {type(groups).__name__}; it must be a list")
    seen: set[Hashable] = set()
    result = []
    for place, group in enumerate(groups):
        start = f"{owner}: group {place} of the checkpoint"
        if not isinstance(group, Mapping) or "params" not in group:
            what = "has no 'params'" if isinstance(group, Mapping) else f"is a {type(group).__name__}"
            raise UsageError(f"{start} {what}; each group is a dict with the key 'params'")
        indices, names = group["params"], group.get("param_names")
        if not isinstance(indices, Sequence) or isinstance(indices, str):
            raise UsageError(f"{start}: 'params' is a {type(indices).__name__}; it must be a list of indices")
        for index in indices:
            if not isinstance(index, (int, str)) or isinstance(index, bool):  # distributed checkpoints have names
                raise UsageError(f"{start}: 'params' contains a {type(index).__name__}; it must be a list of indices")
            if index in seen:
                raise UsageError(f"{start}: 'params' has {index!r} twice; each parameter must have its own index")
            seen.add(index)
        if names is not None:
            is_list = isinstance(names, Sequence) and not isinstance(names, str)
            if not is_list or not all(isinstance(name, str) for name in names) or len(names) != len(indices):
                raise UsageError(f"{start}: 'param_names' must be a list of {len(indices)} names, one for each index")
        settings = group.get(WRAPPERS)
        if settings is not None and not isinstance(settings, Mapping):
            raise UsageError(f"{start}: '{WRAPPERS}' is a {type(settings).__name__}; it must be a dict of settings")
        result.append(dict(group))
    for key, value in state.items():
        if isinstance(key, Tensor):
            raise UsageError(f"{owner}: the state in the checkpoint has a tensor as a key; pass optimizer.state_dict()")
        if key in seen and not isinstance(value, Mapping):
            raise UsageError(f"{owner}: the state of {key!r} in the checkpoint is a {type(value).__name__}, not a dict")
        if isinstance(key, int) and not isinstance(key, bool) and key not in seen and isinstance(value, Mapping):
            raise UsageError(
                f"{owner}: the checkpoint has the state of a parameter {key}, which is in none of its groups; load an "
                "unchanged checkpoint"
            )
    return state, result


def own_prefix(wrapper: str) -> str:
    """The prefix of the entries that a wrapper adds to the state of a parameter in a checkpoint."""
    return f"{wrapper.lower()}_"


def _refuse_kept_by_wrappers(owner: str, state: Mapping[Any, Any], groups: list[dict[str, Any]]) -> None:
    """Raise UsageError if loading would drop the state of a wrapper (Lookahead's slow weights)."""
    wrappers = dict.fromkeys(str(name) for group in groups for name in group.get(WRAPPERS) or ())
    for name in wrappers:
        for slots in state.values():
            for key in slots if isinstance(slots, Mapping) else ():
                if isinstance(key, str) and key.startswith(own_prefix(name)):
                    raise UsageError(
                        f"{owner}: the checkpoint is of {name} around another optimizer, and '{key}' would be lost; "
                        f"load it into {name}({owner}(...)), and continue with its `base`"
                    )


def _check_group(optimizer: Any, owner: str, group: Mapping[str, Any], values: dict[str, Any]) -> None:
    """Raise UsageError for a group that the optimizer does not accept; convert its numbers to Python numbers."""
    ranges: dict[str, Range | OneOf] = optimizer.ranges_with(optimizer.defaults)
    ranges |= {f"initial_{key}": ranges[key] for key in ("lr", "weight_decay") if key in ranges}
    values.update(as_plain_numbers(values, ranges))
    check_hyperparameters(owner, values, ranges)
    for key, default in optimizer.defaults.items():
        if isinstance(default, str) and not isinstance(values.get(key, ""), str) and key not in ranges:
            raise UsageError(f"{owner}: {key}={values[key]!r} is a {type(values[key]).__name__}; it must be a str")
    whole = {**group, **values}
    optimizer.check_together(whole)
    optimizer._check_formats(whole)


def copied(value: Any) -> Any:
    """A copy of a value of a checkpoint, as far as a step could change it."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if type(value) is dict:
        return {key: copied(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(copied(item) for item in value)
    return value


def _order(tensor: Tensor, slots: Mapping[str, Any]) -> dict[str, Tensor]:
    """The order to save with the 4-bit codes of a tensor whose memory does not follow its dimensions."""
    order = memory_order.order_of(sharding.local(tensor))
    is_needed = list(order) != sorted(order) and sharded_codes.packed(tensor, slots)
    return {formats.ORDER: torch.tensor(order)} if is_needed else {}


def _unpacked(
    about: tuple[str, str], like: Tensor, given: dict[str, Any], slot_of: Mapping[str, Slot]
) -> dict[str, Any]:
    """The slots, with 4-bit codes in another order of memory than the parameter's as float32."""
    mine = memory_order.order_of(like)
    saved = given.pop(formats.ORDER, None)
    order = tuple(sorted(mine))
    if saved is not None:
        saved = stored.plain(*about, formats.ORDER, saved)
        if saved.dtype != torch.int64 or saved.ndim != 1 or sorted(saved.tolist()) != sorted(mine):
            raise UsageError(
                f"{about[0]}: '{formats.ORDER}' of {about[1]} in the checkpoint is {saved.tolist()}; it must contain "
                "the "
                f"dimensions {sorted(mine)} in some order, as int64"
            )
        order = tuple(saved.tolist())
    for key in sharded_codes.packed(like, given) if order != mine else ():
        codes: tuple[Tensor, ...] = (given[key].detach().cpu().contiguous(), _scales(given.pop(f"{key}_largest")).cpu())
        signed, line = slot_of[key].signed, Lines(1, like.numel())
        if codes[1].ndim == 1:  # from before blocks ended with rows
            codes = formats.in_lines("int4", signed, codes, line)
        values = formats.read("int4", signed, codes, like.numel(), torch.float32)
        given[key] = memory_order.in_order(values, like.shape, memory_order.stride_of(like.shape, order))
    return given


def _scales(largest: Tensor) -> Tensor:
    """The block scales in the form for kernels: float32, contiguous."""
    return largest.detach().as_subclass(Tensor).to(torch.float32, copy=True).contiguous()


def _checked(
    optimizer: Any, name: str, tensor: Tensor, slots: Mapping[Any, Any], group: Mapping[str, Any]
) -> dict[str, Any]:
    """The saved slots of one parameter, on its device, for the loaded group. Raises UsageError if they do not fit."""
    owner = type(optimizer).__name__
    about = (owner, name)
    given = {key: value for key, value in slots.items() if value is not None}  # torch.optim.SGD writes None
    if not given:
        return {}
    local = sharding.local(tensor)
    like, is_of_whole = local, divided.is_of_whole(optimizer, tensor, group)
    if is_of_whole:
        given, like = divided.gathered(tensor, given), torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    else:  # rows and columns are those of the whole, in every process
        sides = {slot.name for slot in optimizer.signature_for(group, tensor).slots if slot.per in ("row", "column")}
        cut = {key: value for key, value in given.items() if key not in sides}
        given = {key: given[key] for key in sides & set(given)} | sharded_codes.of_the_mesh(tensor, cut)
    if formats.LOW_BITS in given:
        given[formats.LOW_BITS] = sharded_codes.low_bits_of(given[formats.LOW_BITS], tensor)
    slot_of: dict[str, Slot] = {slot.name: slot for slot in optimizer.signature_for(group, tensor).slots}
    known = {entry for slot in slot_of for entry in formats.state_names(slot, "int8")}
    known |= {formats.LOW_BITS, formats.ORDER, "step"}
    own = {key: value for key, value in given.items() if key not in known}
    given = {key: value for key, value in given.items() if key in known}
    needed = {name for name, slot in slot_of.items() if slot.exists(group)}
    _check_entries(owner, name, given, own, needed)
    if tensor.is_meta and set(given) - {"step"}:
        raise UsageError(
            f"{owner}: {name} is on the meta device, where tensors have no values, so no state can be loaded for it; "
            "make the model real (model.to_empty(device=...)), then the optimizer of its new parameters, then load"
        )
    here = {key: _here(about, key, value, tensor) for key, value in given.items()}
    dtype = torch.promote_types(local.dtype, torch.float32)
    for key in set(slot_of) & set(given):
        slot = slot_of[key]
        if slot.is_number:
            stored.number(owner, name, slot, given[key])
        else:
            shape = tensor.shape if slot.per in ("row", "column") else like.shape
            of_slot = torch.empty(slot.shape(shape, group), dtype=dtype, device="meta")
            stored.check(owner, name, slot, here, of_slot)
    if formats.LOW_BITS in given:
        stored.check_low_bits(owner, name, here[formats.LOW_BITS], local)
    if "step" in given:
        stored.count(owner, name, given["step"])
    given = _unpacked(about, like, given, slot_of)

    result: dict[str, Any] = {}
    for key, value in given.items():
        if key == "step":
            result[key] = torch.tensor(stored.count(owner, name, value), dtype=torch.float32)
        elif key in slot_of and slot_of[key].is_number:
            result[key] = torch.tensor(stored.number(owner, name, slot_of[key], value), dtype=torch.float64)
        elif key.endswith("_largest"):
            result[key] = _scales(value).to(tensor.device)
        elif sharding.is_spread(value):
            result[key] = value.detach().clone().to(tensor.device)
        else:
            whole = value.detach().as_subclass(Tensor).resolve_neg()
            result[key] = torch.empty_like(whole, requires_grad=False).copy_(whole).to(tensor.device)
    if is_of_whole:
        result = divided.kept(optimizer, tensor, result)
    return result | {key: _own(value, tensor) for key, value in own.items()}


def _check_entries(owner: str, name: str, given: Mapping[str, Any], own: Mapping[Any, Any], needed: set[str]) -> None:
    """Raise UsageError if the entries of a parameter are not those of this optimizer."""
    strange = sorted(key for key in own if isinstance(key, str) and key.removesuffix("_largest") in _SLOTS)
    alone = sorted(key for key in given if key.endswith("_largest") and key.removesuffix("_largest") not in given)
    absent = sorted(needed - set(given))
    count = given.get("step")
    begun = bool(set(given) - {"step", formats.LOW_BITS, formats.ORDER})
    begun = begun or (bool(absent) and "step" in given and stored.count(owner, name, count) > 0)
    if strange or alone or (absent and begun):
        fault = f"has '{strange[0]}'" if strange else f"lacks '{(alone or absent)[0].removesuffix('_largest')}'"
        raise UsageError(
            f"{owner}: the checkpoint {fault} for {name}, where {owner} keeps "
            f"{', '.join(sorted(needed)) or 'nothing'}; it was saved by another optimizer, or with other options"
        )
    if begun and "step" not in given and needed not in _WITHOUT_COUNT:
        raise UsageError(
            f"{owner}: the checkpoint lacks 'step' for {name}, which bias correction needs; it was saved by "
            "another optimizer, or changed"
        )


def _here(about: tuple[str, str], key: str, value: Any, tensor: Tensor) -> Any:
    """The local part of an entry. A DTensor is accepted only for a DTensor parameter."""
    if sharding.is_spread(value) and not sharding.is_spread(tensor):
        raise UsageError(
            f"{about[0]}: '{key}' of {about[1]} is a DTensor in the checkpoint, and the parameter is not; "
            "save with torch.distributed.checkpoint.state_dict.get_optimizer_state_dict and full_state_dict=True"
        )
    return sharding.local(value)


def _own(value: Any, tensor: Tensor) -> Any:
    """A user's own entry in the state of a parameter: a copy on the device of the parameter, as in torch."""
    result = copied(value)
    return result.to(tensor.device) if isinstance(result, Tensor) and not result.is_meta else result


def _check_shared(optimizer: Any, origin: list[tuple[str, Tensor, Any]], loaded: Mapping[Any, Any]) -> None:
    """Raise UsageError if a number that all parameters share (Prodigy's d) differs between them."""
    owner = type(optimizer).__name__
    shared = {slot.name for one in optimizer.signatures.values() for slot in one.slots if slot.per == "run"}
    first: dict[str, tuple[str, float]] = {}
    for name, tensor, _ in origin if shared else ():
        for key in shared & set(loaded.get(tensor, ())):
            value = float(loaded[tensor][key])
            other = first.setdefault(key, (name, value))
            if other[1] != value:
                raise UsageError(
                    f"{owner}: '{key}' is {value:g} of {name} in the checkpoint and {other[1]:g} of {other[0]}; all "
                    "parameters share this number; load an unchanged checkpoint"
                )
