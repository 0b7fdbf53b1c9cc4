"""`stepwell plan`: the hyperparameters of each tensor of a model, and the memory that training needs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stepwell.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from stepwell.groups.groups import Groups


def plan(
    task: Annotated[
        str, typer.Argument(help="A task's name, or module.py:name of a task, a model, or a function that makes one.")
    ],
    optimizer: Annotated[str, typer.Option(help="Its name.")] = "adamw",
    lr: Annotated[float | None, typer.Option(help="Learning rate; the optimizer's default if not given.")] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="Weight decay; the optimizer's default if not given.")
    ] = None,
    layer_decay: Annotated[
        float | None, typer.Option(help="Ratio of lr from block to block, from the top, as 0.75.")
    ] = None,
    state: Annotated[str, typer.Option(help="Format of the state: fp32, bf16, int8 or int4.")] = "fp32",
    averages: Annotated[int, typer.Option(help="Averaged copies of the weights (EMA).")] = 0,
    device: Annotated[str, typer.Option(help="Device whose free memory is compared: cpu, cuda, cuda:1.")] = "cpu",
) -> None:
    """Show the hyperparameters of each tensor of a model, and the memory that training needs."""
    from stepwell import optimizers
    from stepwell.groups.memory import STATE

    chosen: Any = optimizer
    try:
        chosen = optimizers.find(optimizer)
    except UsageError:
        if optimizer.lower() not in STATE:  # known to the forecast only
            raise
    text = planned(
        _model(task), chosen, defaults=_usual, lr=lr, weight_decay=weight_decay, layer_decay=layer_decay,
        state=state, averages=averages, device=device,
    )  # fmt: skip
    print(text)


def _model(source: str) -> Any:
    """The model of a task, or the model that a Python file defines or makes."""
    if ":" in source or source.endswith(".py") or "/" in source:
        from stepwell.tasks.load import model

        return model(source)
    from stepwell.tasks import find

    return find(source).build(0)


def _usual(optimizer: Any) -> dict[str, Any]:
    """The default lr and weight decay of an optimizer, by class or name, as far as known."""
    from stepwell.optimizers import TABLE, find

    known = not isinstance(optimizer, str) or optimizer.lower() in map(str.lower, TABLE)
    if not known:  # to the forecast only
        return {}
    cls: Any = find(optimizer) if isinstance(optimizer, str) else optimizer
    if "base" in cls.facts.compare_options:  # a wrapper's are those of what is inside
        cls = find(cls.facts.compare_options["base"])
    defaults = {name: one.default for name, one in inspect.signature(cls).parameters.items()}
    return {name: defaults[name] for name in ("lr", "weight_decay") if isinstance(defaults.get(name), float)}


def planned(
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
    """The table of groups and the memory forecast, as text.

    Args:
        model: the model to train.
        optimizer: a class or a name; for "muon", the groups are Muon's split.
        lr, weight_decay, layer_decay: as for `by_role`; for Muon, lr and weight_decay apply to Muon's group.
        state: format of the state.
        averages: copies of the weights (EMA).
        device: the device whose free memory is compared with the forecast.
        width: the maximal line length in characters.
        defaults: returns the default lr and weight decay of a class or name of an optimizer.

    Raises UsageError for an unknown optimizer, format or device.
    """
    from stepwell.groups.groups import Groups
    from stepwell.groups.memory import device_memory, forecast

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
    """The groups for an optimizer: hidden matrices and the other tensors if it `splits_by_role`, else by role."""
    from stepwell.groups.build import by_role
    from stepwell.groups.build import muon as split
    from stepwell.optimizers import known

    cls: Any = known(optimizer if isinstance(optimizer, str) else optimizer.__name__)  # torch's of the same name, too
    if cls is not None and getattr(cls, "splits_by_role", False):
        if layer_decay is not None:
            raise UsageError(
                f"layer_decay={layer_decay!r}: {cls.__name__}'s split has no layer-wise decay; omit layer_decay"
            )
        return split(model, lr=lr, weight_decay=weight_decay)
    return by_role(model, lr=lr, weight_decay=weight_decay, layer_decay=layer_decay)
