"""What `stepwell plan` prints: what each tensor of a model gets, and the memory that training it will need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from stepwell.errors import UsageError
from stepwell.groups.build import Groups, by_role, muon
from stepwell.groups.memory import device_memory, forecast


def plan(
    model: nn.Module,
    optimizer: Any,
    *,
    lr: float | None = None,
    weight_decay: float | None = None,
    layer_decay: float | None = None,
    state: str = "fp32",
    averages: int = 0,
    device: str = "cpu",
    width: int | None = None,
    defaults: Callable[[Any], Mapping[str, Any]] | None = None,
) -> str:
    """The table of groups and the forecast, as text.

    Args:
        model: to be trained.
        optimizer: a class or a name; for "muon", the split is Muon's and the rest is AdamW's.
        lr, weight_decay, layer_decay: as for `by_role`; for Muon, lr and weight_decay are those of its own group.
        state: format of the state.
        averages: copies of the weights (EMA).
        device: what the forecast is compared with.
        width: at most so many characters a line.
        defaults: the lr and the weight decay that a class, or a name of an optimizer, has where none is given.

    Raises UsageError for an unknown optimizer, format or device.
    """
    groups = grouped(model, optimizer, lr=lr, weight_decay=weight_decay, layer_decay=layer_decay)
    available, where = device_memory(device)
    needs = forecast(
        groups,
        optimizer=optimizer,
        state=state,
        averages=averages,
        buffers=model.buffers(),
        available=available,
        where=where,
    )
    if defaults is not None:  # the values, also where a group leaves them to the optimizer
        filled = [
            {**defaults(optimizer if own is None else own), **group}
            for group, own in zip(groups, groups.optimizers, strict=True)
        ]
        groups = Groups(filled, groups.members, groups.notes, groups.optimizers)
    return f"{groups.table(optimizer=optimizer, state=state, width=width)}\n\n{needs}"


def grouped(
    model: nn.Module,
    optimizer: Any,
    *,
    lr: float | None = None,
    weight_decay: float | None = None,
    layer_decay: float | None = None,
) -> Groups:
    """The groups that suit an optimizer: Muon's split for Muon, by role for all others."""
    name = optimizer if isinstance(optimizer, str) else optimizer.__name__
    if name.lower() == "muon":
        if layer_decay is not None:
            raise UsageError(f"layer_decay={layer_decay!r}: Muon's split has no decay of layers; leave it out")
        return muon(model, lr=lr, weight_decay=weight_decay)
    return by_role(model, lr=lr, weight_decay=weight_decay, layer_decay=layer_decay)
