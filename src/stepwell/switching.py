"""Switching to another optimizer over the same groups, carrying over the state that has the same meaning in both. Each
optimizer declares the meaning of its slots in its own file (`memory`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from stepwell import engine
from stepwell.arguments import flag
from stepwell.engine import formats, memory_order, sharding
from stepwell.engine.decay import decay_of
from stepwell.engine.rule import Range, read
from stepwell.engine.update import innermost
from stepwell.errors import UsageError, WrongType, shown
from stepwell.optimizers import TABLE, find
from stepwell.optimizers.memory import Memory


class _Memories(Mapping[str, Memory]):
    """The declarations of all optimizers by name; they also hold for torch's optimizers of the same name. Read on
    demand."""

    def __getitem__(self, name: str) -> Memory:
        declared = getattr(find(name), "memory", None) if name in TABLE else None
        if declared is None:
            raise KeyError(name)
        return declared

    def __iter__(self) -> Iterator[str]:
        return (name for name in TABLE if getattr(find(name), "memory", None) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


MEMORIES = _Memories()

_GROWN = 1e6  # torch's SGD counts no steps: its buffer is taken to be one that has forgotten its start

_CARRIED = ("maximize", "state", "weights", "seed", "cautious")  # options that mean the same everywhere


def switch(
    optimizer: torch.optim.Optimizer, to: str | type[Any], *, lr: Any, carry: bool = True, **options: Any
) -> Any:
    """A new optimizer over the same groups, in the middle of a run.

    Args:
        optimizer: the old optimizer, of this package or of torch; it is not changed. Its wrappers (SAM, Lookahead) are
            put around the new optimizer with their state; a `Swats` is removed.
        to: name or class of the new optimizer.
        lr: learning rate of the first group, at least 0; or a `Swats` that is ready. The other groups keep the ratio of
            their rate to it (of `initial_lr`, if a schedule drives them).
        carry: whether to carry over state, see below; if False, the new optimizer starts with fresh state.
        options: options of the new optimizer; they override carried values.

    For each group, these are carried over: parameters, names, the ratio of lr, `maximize`, and the formats
    `state` and `weights` with the low bits of split weights. Coupled weight decay (part of the loss)
    keeps its coefficient, decoupled weight decay (shrinks the weights by lr * weight_decay) keeps that product. The
    kind is kept. For an optimizer that has only the other kind, `weight_decay` must be given; it applies to the groups
    that had a weight decay.

    For each parameter that has been updated, if all slots of the new optimizer can be filled, these slots and the step
    count:

        SGD's momentum_buffer     from the mean of gradients, exp_avg / (1 - beta1**t), times 1 / (1 - momentum) in the
                                  long run: the next step is about as long as with the new optimizer from the start
        exp_avg and exp_avg_sq    among Adam, AdamW (8-bit, 4-bit), SparseAdam, RAdam, LAMB, AdamAtan2 and StableAdamW,
                                  also from NAdam; betas and eps go with them
        exp_avg of Lion, Signum   from the mean of gradients of any of these, or of SGD
        square_avg of RMSprop     from the mean of squares (not to or from variant="tensorflow", which begins at 1)
        everything                to the same optimizer

    Otherwise the new optimizer starts with fresh state: Adam cannot compute its second moment from SGD's buffer.

    Schedulers and hooks belong to the old optimizer: make new ones. `Step.switch` does everything in the middle of a
    run.

    >>> optimizer = switch(optimizer, "sgd", lr=0.1, momentum=0.9)

    Raises UsageError for an unknown optimizer, a Swats that has not settled, a weight decay that the new optimizer
    cannot express, and invalid options. Nothing is changed then.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise WrongType(f"switch: optimizer={shown(optimizer)}; it must be the torch.optim.Optimizer of the run")
    cls = _class_of(to)
    carry = flag("switch", "carry", carry)
    inside = innermost(optimizer)
    facts = getattr(inside, "facts", None)
    training = facts is not None and facts.needs_modes and any(group["train_mode"] for group in inside.param_groups)
    if training and inside.state:
        raise UsageError(
            f"switch: {type(inside).__name__} is in train mode, where the weights are not the averaged ones; call "
            "optimizer.eval() first, to continue from the averaged weights"
        )
    rate = rate_for(cls, lr, options)
    new = _built(cls, inside, rate, options, carry)
    if carry:
        _carry_state(inside, new)
    else:
        _carry_low_bits(inside, new)
    result = around = _wrapped_again(optimizer, new)
    while around is not new:
        around.check_base()
        around = around.base
    return result


def begun(optimizer: torch.optim.Optimizer, to: str) -> Any:
    """A fresh optimizer `to` over the same groups, with the same wrappers, to load a state into."""
    return _wrapped_again(optimizer, _built(_class_of(to), innermost(optimizer), 1.0, {"weight_decay": 0.0}, False))


def rate_for(to: str | type[Any], lr: Any, options: Mapping[str, Any]) -> float:
    """The learning rate of `lr`: a number, or the result of a Swats for the new optimizer's momentum."""
    if isinstance(lr, torch.optim.Optimizer) and hasattr(lr, "settled_at"):
        momentum = options.get("momentum", 0.0) if "momentum" in _example(_class_of(to)).defaults else 0.0
        return float(lr.lr(momentum))  # type: ignore[attr-defined]  # a Swats, which this file may not import
    return float(read("switch", "lr", lr, Range(0)))


# How it is done


def _class_of(to: str | type[Any]) -> type[Any]:
    cls = find(to) if isinstance(to, str) else to
    facts = getattr(cls, "facts", None) if isinstance(cls, type) else None
    if facts is None:
        raise UsageError(f"switch: to={shown(to)}; it must be the name or the class of an optimizer of stepwell")
    if facts.kind == "wrapper":
        raise UsageError(
            f"switch: {cls.__name__} wraps another optimizer and makes no step itself; wrap the current optimizer, as "
            f"{cls.__name__}(optimizer), or the result of switch"
        )
    return cls


def _example(cls: type[Any]) -> Any:
    """An example optimizer of this class, for its defaults."""
    return cls([("weight", torch.zeros(2, 2))])  # a matrix: Muon needs one


def _base(group: Mapping[str, Any], key: str, default: Any = 0.0) -> Any:
    """A hyperparameter without the factor of a schedule."""
    return group.get(f"initial_{key}", group.get(key, default))


def _built(cls: type[Any], old: torch.optim.Optimizer, lr: float, options: Mapping[str, Any], carry: bool) -> Any:
    defaults = _example(cls).defaults
    options = dict(options)
    given = options.pop("weight_decay", None)
    if given is not None:
        given = read("switch", "weight_decay", given, Range(0))
    reference = next((float(_base(g, "lr")) for g in old.param_groups if float(_base(g, "lr")) > 0), None)
    decays = [float(_base(g, "weight_decay")) for g in old.param_groups]
    largest = max(decays)
    both = carry and _same_moments(old, cls)
    groups = []
    for group, decay in zip(old.param_groups, decays, strict=True):
        made: dict[str, Any] = {key: group[key] for key in ("param_names", "name") if key in group}
        made["params"] = list(group["params"])
        made["lr"] = lr * (float(_base(group, "lr")) / reference if reference else 1.0)
        kept = (*_CARRIED, "betas", "eps", "amsgrad") if both else _CARRIED
        if type(old).__name__ == cls.__name__:
            kept = tuple(key for key in defaults if key not in ("lr", "weight_decay"))
        made.update({k: _base(group, k) for k in kept if k in group and k in defaults and k not in options})
        if group.get("maximize") and "maximize" not in defaults:
            raise UsageError(
                f"switch: {cls.__name__} does not support maximize=True, which the old optimizer uses; switch to "
                "another optimizer"
            )
        if given is not None:
            decay = given if largest == 0 else given * decay / largest
        elif decay:
            decay = _carried_decay(cls, old, group, decay, reference or 0.0, lr, defaults, options, made)
        if "weight_decay" in defaults:
            made["weight_decay"] = decay
        elif decay:
            raise UsageError(f"switch: {cls.__name__} has no weight decay; pass weight_decay=0.0 to drop the decay")
        groups.append(made)
    if "backend" not in options and isinstance(old, engine.Optimizer) and issubclass(cls, engine.Optimizer):
        options["backend"] = old.backend
    if "state_device" not in options and isinstance(old, engine.Optimizer) and issubclass(cls, engine.Optimizer):
        options["state_device"] = old.state_device
    return cls(groups, **options)


def _carried_decay(
    cls: type[Any],
    old: torch.optim.Optimizer,
    group: Mapping[str, Any],
    decay: float,
    reference: float,
    lr: float,
    defaults: Mapping[str, Any],
    options: Mapping[str, Any],
    made: dict[str, Any],
) -> float:
    """The equivalent weight decay; its kind is set in `made` if the new optimizer has both kinds."""
    if "weight_decay" not in defaults:
        return decay
    kind = decay_of(old, group)
    if kind is None and type(old).__name__ == cls.__name__:
        return decay
    asked = options.get("decoupled_weight_decay")
    if "decoupled_weight_decay" in defaults and asked is None and kind is not None:
        made["decoupled_weight_decay"] = kind == "decoupled"
        mine: str | None = kind
    else:
        example = _example(cls)
        wish = {} if asked is None else {"decoupled_weight_decay": asked}
        mine = decay_of(example, {**example.param_groups[0], **wish})
    if kind is None or mine != kind:
        words = {"coupled": "adds decay to the gradient", "decoupled": "shrinks the weights"}
        own = "uses another decay"
        raise UsageError(
            f"switch: {type(old).__name__} {words.get(kind or '', own)} and {cls.__name__} "
            f"{words.get(mine or '', own)}, so no value is equivalent; give weight_decay (0.0 for none)"
        )
    if kind == "decoupled":
        return decay * reference / lr if lr > 0 else decay
    return decay


def _same_moments(old: torch.optim.Optimizer, cls: type[Any]) -> bool:
    """Whether both keep m and v, so that betas and eps mean the same."""
    memories = MEMORIES.get(type(old).__name__), MEMORIES.get(cls.__name__)
    return all(memory is not None and memory.mean is not None and memory.square is not None for memory in memories)


def _carry_low_bits(old: torch.optim.Optimizer, new: Any) -> None:
    """Carry the low bits of split weights, which are a part of the weights."""
    for group in new.param_groups:
        for tensor in group["params"]:
            low = old.state.get(tensor, {}).get(formats.LOW_BITS)
            if low is not None and group.get("weights") == "split":
                new.state[tensor] = {"step": torch.zeros(()), formats.LOW_BITS: low.clone()}


def _carry_state(old: torch.optim.Optimizer, new: Any) -> None:
    _carry_low_bits(old, new)
    if not isinstance(new, engine.Optimizer):
        return
    was_in = {id(tensor): group for group in old.param_groups for tensor in group["params"]}  # Muon parts groups
    for group in new.param_groups:
        for tensor in group["params"]:
            filled = _filled(old, was_in[id(tensor)], old.state.get(tensor, {}), new, group, tensor)
            if filled is not None:
                low = new.state.get(tensor, {}).get(formats.LOW_BITS)
                new.state[tensor] = {**filled, **({} if low is None else {formats.LOW_BITS: low})}


def _filled(
    old: torch.optim.Optimizer,
    before: Mapping[str, Any],
    state: Mapping[str, Any],
    new: engine.Optimizer,
    group: Mapping[str, Any],
    tensor: Tensor,
) -> dict[str, Any] | None:
    """The state of one parameter for the new optimizer; None if it starts with fresh state."""
    if not any(value is not None for key, value in state.items() if key != formats.LOW_BITS):
        return None
    needed = [slot.name for slot in new.signature_for(group, tensor).slots if slot.exists(group)]
    filled = _converted(old, before, state, new, group, tensor, needed)
    same = type(old).__name__ == type(new).__name__
    if same and isinstance(old, engine.Optimizer):
        same = old.method_of(before, tensor) == new.method_of(group, tensor)
    if filled is None and same and all(state.get(n) is not None for n in needed):
        return {key: _cloned(value) for key, value in state.items() if value is not None and key != formats.LOW_BITS}
    return filled


def _converted(
    old: torch.optim.Optimizer,
    before: Mapping[str, Any],
    state: Mapping[str, Any],
    new: engine.Optimizer,
    group: Mapping[str, Any],
    tensor: Tensor,
    needed: list[str],
) -> dict[str, Any] | None:
    """The slots with the same meaning in both optimizers; None unless these are all slots of the new optimizer."""
    theirs, ours = MEMORIES.get(type(old).__name__), MEMORIES.get(type(new).__name__)
    if theirs is None or ours is None or not needed:
        return None
    t = float(state.get("step", _GROWN))
    if t < 1:
        return None
    sources = {}
    for mine, other in ((ours.mean, theirs.mean), (ours.square, theirs.square)):
        if mine is not None and other is not None and state.get(other[0]) is not None:
            target, given = mine[1](group, t), other[1](before, t)
            if target is not None and given is not None:
                sources[mine[0]] = (other, target / given)
    if "max_exp_avg_sq" in needed and "exp_avg_sq" in sources:
        other, ratio = sources["exp_avg_sq"]
        name = "max_exp_avg_sq" if state.get("max_exp_avg_sq") is not None else other[0]
        sources["max_exp_avg_sq"] = ((name, other[1]), ratio)
    if set(needed) - sources.keys():
        return None
    filled: dict[str, Any] = {"step": torch.tensor(t, dtype=torch.float32)}
    for name in needed:
        (slot, _), ratio = sources[name]
        signed = next(one.signed for one in new.signature_for(group, tensor).slots if one.name == name)
        filled.update(_scaled(state, slot, name, signed, ratio, tensor))
    return filled


def _scaled(
    state: Mapping[str, Any], slot: str, name: str, signed: bool, ratio: float, tensor: Tensor
) -> dict[str, Tensor]:
    """One slot under its new name, times `ratio`; unchanged in its format if `ratio` is 1."""
    here = {key: sharding.local(value) for key, value in state.items() if isinstance(value, Tensor)}
    part = sharding.local(tensor)
    found = formats.found_format(here, slot, part.numel())
    if ratio == 1:
        stored = tuple(state[key] for key in formats.state_names(slot, found))
        return {key: value.clone() for key, value in zip(formats.state_names(name, found), stored, strict=True)}
    wide = torch.promote_types(tensor.dtype, torch.float32)
    if found not in ("int8", "int4"):
        return {name: state[slot].to(wide) * ratio}
    stored = tuple(here[key] for key in formats.state_names(slot, found))
    shaped = torch.empty_like(part, dtype=wide, requires_grad=False)
    memory_order.flat(shaped).copy_(formats.read(found, signed, stored, part.numel(), wide) * ratio)
    return {name: sharding.spread_like(tensor, shaped) if sharding.is_spread(tensor) else shaped}


def _cloned(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _wrapped_again(outer: Any, new: Any) -> Any:
    if outer is innermost(outer):
        return new
    inside = _wrapped_again(outer.base, new)
    return inside if hasattr(outer, "settled_at") else outer.around_another(inside)
