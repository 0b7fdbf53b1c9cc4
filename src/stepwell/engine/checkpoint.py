"""State out and in: torch's layout and slot names, so that either side loads what the other has written.

    {"state": {index: {"step": ..., slot: tensor, ...}}, "param_groups": [{..., "params": [index, ...]}]}

Where the optimizer was built with names (`model.named_parameters()`), groups carry `param_names`, and a checkpoint is
loaded by name: a layer that moved keeps its moments. Otherwise by position, as torch does, and where two parameters
have the same name. Tensors keep their dtype; a
slot that the optimizer keeps in another format is converted when it is next used. Nothing is changed if anything of
the checkpoint does not fit.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stepwell.engine import formats, sharding
from stepwell.errors import UsageError

# What torch's optimizers keep in a group and stepwell has no use for.
_TORCH_GROUP_KEYS = frozenset({"foreach", "fused", "capturable", "differentiable"})


def state_dict(optimizer: Any) -> dict[str, Any]:
    """The state of `optimizer` in torch's layout. Tensors are those in use, not copies."""
    indices: dict[int, int] = {}
    groups = []
    for group in optimizer.param_groups:
        for tensor in group["params"]:
            indices.setdefault(id(tensor), len(indices))
        packed = {key: value for key, value in group.items() if key != "params"}
        groups.append({**packed, "params": [indices[id(tensor)] for tensor in group["params"]]})
    state = {
        indices[id(tensor)]: {**slots, **_order(tensor, slots)} for tensor, slots in optimizer.state.items() if slots
    }
    return {"state": state, "param_groups": groups}


def content_of(owner: str, given: Any) -> dict[str, Any]:
    """A checkpoint as a dict of its own, or UsageError where it is none."""
    if not isinstance(given, Mapping):
        raise UsageError(
            f"{owner}: the checkpoint is a {type(given).__name__}; pass what optimizer.state_dict() returned"
        )
    return dict(given)


def load_state_dict(optimizer: Any, checkpoint: Mapping[str, Any], keep_formats: bool = False) -> None:
    """Take over `checkpoint`, or raise UsageError naming the first parameter that does not fit and change nothing."""
    owner = type(optimizer).__name__
    for key in ("state", "param_groups"):
        if key not in checkpoint:
            raise UsageError(
                f"{owner}: the checkpoint has no '{key}' (it has {', '.join(map(str, checkpoint)) or 'nothing'}); "
                "pass what optimizer.state_dict() returned"
            )
    saved_groups = checkpoint["param_groups"]
    groups = optimizer.param_groups
    origin = _match(owner, groups, saved_groups)

    new: list[dict[str, Any]] = [{} for _ in groups]  # the hyperparameters that are taken over
    if len(groups) == len(saved_groups):
        for values, group, saved in zip(new, groups, saved_groups, strict=True):
            kept = {"params", "param_names"} & set(group) | ({"state", "weights"} if keep_formats else set())
            taken = {k: v for k, v in saved.items() if k not in _TORCH_GROUP_KEYS and k not in kept}
            values.update(copy.deepcopy(taken))  # a tensor for lr is not shared with whoever else loads it
    for mode in optimizer.modes:  # what the saved weights are, however they are grouped; a group added later has no say
        found = [saved[mode] for saved in saved_groups if mode in saved]
        for values in new if found else ():
            values[mode] = all(found)

    as_loaded = {id(p): {**group, **values} for group, values in zip(groups, new, strict=True) for p in group["params"]}
    loaded: dict[Tensor, dict[str, Any]] = {}
    for name, tensor, index in origin:
        slots = checkpoint["state"].get(index)
        if slots:
            loaded[tensor] = _checked(optimizer, name, tensor, slots, as_loaded[id(tensor)])

    for group, values in zip(groups, new, strict=True):
        group.update(values)
    optimizer.__setstate__({"state": loaded, "param_groups": groups})


def _match(owner: str, groups: list[Any], saved_groups: list[Any]) -> list[tuple[str, Tensor, int]]:
    """For every parameter: what it is called, itself, and its index in the checkpoint."""
    here = [(_bare(name), tensor) for group in groups for name, tensor in _named(group)]
    # Names that two parameters share (of two models in one optimizer) tell nothing.
    if _tells_names(groups) and _tells_names(saved_groups):
        saved = {
            _bare(n): i for group in saved_groups for n, i in zip(group["param_names"], group["params"], strict=True)
        }
        wrapped = [name.startswith("module.") for name in saved]  # by DistributedDataParallel
        if wrapped and all(wrapped) and not all(name.startswith("module.") for name, _ in here):
            saved = {name.removeprefix("module."): index for name, index in saved.items()}
        elif here and not any(wrapped) and all(name.startswith("module.") for name, _ in here):
            saved = {f"module.{name}": index for name, index in saved.items()}
        missing = [name for name, _ in here if name not in saved]
        extra = sorted(set(saved) - {name for name, _ in here})
        if missing or extra:
            what = f"no parameter '{missing[0]}'" if missing else f"a parameter '{extra[0]}' that is not here"
            raise UsageError(
                f"{owner}: the checkpoint has {what} ({len(missing)} missing, {len(extra)} too many); "
                "it was saved from another model or with other groups"
            )
        return [(f"the parameter '{name}'", tensor, saved[name]) for name, tensor in here]
    if len(groups) != len(saved_groups):
        raise UsageError(
            f"{owner}: the checkpoint has {len(saved_groups)} parameter groups, the optimizer {len(groups)}; "
            "build the groups as they were, or save and load with names (pass model.named_parameters())"
        )
    result = []
    for position, (group, saved_group) in enumerate(zip(groups, saved_groups, strict=True)):
        if len(group["params"]) != len(saved_group["params"]):
            raise UsageError(
                f"{owner}: group {position} has {len(group['params'])} parameters, "
                f"in the checkpoint {len(saved_group['params'])}; it was saved from another model"
            )
        for place, ((name, tensor), index) in enumerate(zip(_named(group), saved_group["params"], strict=True)):
            label = f"the parameter '{name}'" if "param_names" in group else f"parameter {place} of group {position}"
            result.append((label, tensor, index))
    return result


def _tells_names(groups: list[Any]) -> bool:
    """Whether every parameter has a name, and one of its own."""
    if not all("param_names" in group for group in groups):
        return False
    names = [name for group in groups for name in group["param_names"]]
    return len(set(names)) == len(names)


def _bare(name: str) -> str:
    """The name of a parameter without what torch.compile puts into it."""
    return name.replace("_orig_mod.", "")


def _named(group: Mapping[str, Any]) -> list[tuple[str, Tensor]]:
    names = group.get("param_names") or [str(i) for i in range(len(group["params"]))]
    return list(zip(names, group["params"], strict=True))


def _packed(slots: Mapping[str, Any]) -> list[str]:
    """The slots that are kept in 4-bit codes: a vector of bytes that does not say which element is which."""
    return [key for key in slots if f"{key}_largest" in slots and slots[key].ndim == 1]


def _order(tensor: Tensor, slots: Mapping[str, Any]) -> dict[str, Tensor]:
    """What must be saved beside 4-bit codes of a tensor whose memory does not follow its dimensions."""
    order = formats.order_of(sharding.local(tensor))
    return {formats.ORDER: torch.tensor(order)} if _packed(slots) and list(order) != sorted(order) else {}


def _unpacked(name: str, tensor: Tensor, given: dict[str, Any], signed: Mapping[str, bool]) -> dict[str, Any]:
    """The slots, with 4-bit codes in another order of memory than the parameter's as float32."""
    local = sharding.local(tensor)
    saved = given.pop(formats.ORDER, None)
    order = sorted(formats.order_of(local)) if saved is None else saved.tolist()
    if tuple(order) != formats.order_of(local) and sorted(order) == sorted(formats.order_of(local)):
        for key in _packed(given):
            if _fits_blocks(key, given, local.numel()):
                stored = (given[key].cpu(), given.pop(f"{key}_largest").cpu())
                values = formats.read("int4", signed[key], stored, local.numel(), torch.float32)
                given[key] = formats.in_order(values, local.shape, formats.stride_of(local.shape, order))
    return given


def _fits_blocks(key: str, given: Mapping[str, Tensor], elements: int) -> bool:
    """Whether codes and largest magnitudes are those of `elements` elements, as int8 or as int4."""
    slot = key.removesuffix("_largest")
    if slot not in given or f"{slot}_largest" not in given:
        return False
    sizes = (sharding.local(given[slot]).numel(), given[f"{slot}_largest"].numel())
    codes = [code for (name, _), code in formats.CODES.items() if _]
    return any(sizes == (code.code_bytes(elements), code.blocks(elements)) for code in codes)


def _checked(
    optimizer: Any, name: str, tensor: Tensor, slots: Mapping[str, Any], group: Mapping[str, Any]
) -> dict[str, Any]:
    """The saved slots of one parameter of a group as it will be, on its device, or UsageError."""
    owner = type(optimizer).__name__
    given = {key: value for key, value in slots.items() if value is not None}  # torch.optim.SGD writes None
    slot_of = {slot.name: slot for slot in optimizer.signature_for(group, tensor).slots}
    known = {entry for slot in slot_of for entry in formats.state_names(slot, "int8")} | {formats.LOW_BITS}
    for key, value in given.items():
        numeric = key == "step" or (key in slot_of and slot_of[key].is_number)
        if not isinstance(value, (Tensor, int, float) if numeric else Tensor):
            raise UsageError(
                f"{owner}: '{key}' of {name} is a {type(value).__name__} in the checkpoint; it must be a tensor"
            )
    given = _unpacked(name, tensor, given, {name: slot.signed for name, slot in slot_of.items()})
    numbers = {name for name, slot in slot_of.items() if slot.is_number}
    needed = {name for name, slot in slot_of.items() if slot.exists(group)}
    strange = sorted(set(given) - known - {"step"})
    absent = sorted(needed - set(given))
    if strange or (absent and set(given) - {"step"}):
        fault = f"has '{strange[0]}'" if strange else f"lacks '{absent[0]}'"
        raise UsageError(
            f"{owner}: the checkpoint {fault} for {name}, where {owner} keeps "
            f"{', '.join(sorted(needed)) or 'nothing'}; it was saved by another optimizer, or with other options"
        )
    result: dict[str, Any] = {}
    for key, value in given.items():
        if key == "step":
            result[key] = torch.as_tensor(value, dtype=torch.float32).detach().clone().cpu()
            continue
        if key in numbers:
            result[key] = torch.as_tensor(value, dtype=torch.float64).detach().clone().cpu()
            continue
        if f"{key}_largest" in given or key.endswith("_largest"):
            if not _fits_blocks(key, given, sharding.local(tensor).numel()):
                raise UsageError(
                    f"{owner}: the blocks of '{key}' of {name} are those of another number of elements than "
                    f"{tensor.numel():,}; the checkpoint was saved from another model"
                )
            slot = slot_of.get(key.removesuffix("_largest"))
            if slot is not None and slot.name != key:
                found = formats.found_format(given, slot.name, sharding.local(tensor).numel())
                if not formats.CODES[found, slot.signed].could_be(sharding.local(value)):
                    raise UsageError(
                        f"{owner}: '{key}' of {name} holds scales that are no powers of two: they belong to the codes "
                        "of an older version; load the checkpoint there with state='fp32' and keep_formats=True, and "
                        "save it again"
                    )
            result[key] = value.detach().clone().to(tensor.device)
            continue
        wanted = tensor.shape if key == formats.LOW_BITS else slot_of[key].shape(tensor.shape, group)
        if tuple(value.shape) != tuple(wanted):
            raise UsageError(
                f"{owner}: '{key}' of {name} has shape {tuple(value.shape)} in the checkpoint, "
                f"here {tuple(wanted)}; it was saved from another model, or with other options"
            )
        result[key] = value.detach().clone().to(tensor.device)
    return result
