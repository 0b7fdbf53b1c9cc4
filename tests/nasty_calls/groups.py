"""Calls of `stepwell.groups` and of the anatomy of a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from stepwell import groups
from stepwell.optimizers import AdamW, Muon

from .optimizers import unchanged

ROLES = ("model", "lr", "weight_decay", "no_decay", "roles", "patterns", "layer_decay", "merge", "keep_frozen")
WORDS: dict[Any, tuple[str, ...]] = {}


def _model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 2))


def _with(make: Callable[..., Any], **usual: Any) -> Callable[..., Any]:
    def call(**given: Any) -> None:
        made = make(**{"model": _model(), **usual, **given})
        str(made), repr(made)
        AdamW([{k: v for k, v in group.items() if k != "use_muon"} for group in made], backend="eager")

    return call


def _muon(**given: Any) -> None:
    made = groups.muon(**{"model": _model(), **given})
    str(made), repr(made)
    Muon(made)


def _freeze(**given: Any) -> None:
    model = given.pop("model", None) or _model() if "model" not in given else given.pop("model")
    pattern = (given.pop("pattern"),) if "pattern" in given else ()
    look = (lambda: [p.requires_grad for p in model.parameters()]) if isinstance(model, nn.Module) else lambda: 0
    with unchanged(look):
        groups.freeze(model, *pattern, **given)


def _made() -> groups.Groups:
    return groups.by_role(_model(), lr=1e-3)


CALLS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "by_role": (_with(groups.by_role, lr=1e-3), ROLES),
    "by_layer": (_with(groups.by_layer, lr=1e-3), ("model", "lr", "decay", *ROLES[2:6], "merge", "keep_frozen")),
    "by_pattern": (_with(groups.by_pattern, patterns={"0": 2.0}, lr=1e-3),
                   ("model", "patterns", "lr", "weight_decay", "no_decay", "merge", "keep_frozen")),
    "by_role without lr": (_with(groups.by_role), ("lr", "weight_decay", "patterns", "layer_decay")),
    "factor of a pattern": (lambda value: _with(groups.by_pattern, lr=1e-3)(patterns={"0": value}), ("value",)),
    "pattern": (lambda value: _with(groups.by_pattern, lr=1e-3)(patterns=_keyed(value)), ("value",)),
    "hyperparameters of a pattern": (
        lambda lr: _with(groups.by_pattern, lr=1e-3)(patterns={"0": {"lr": lr}}), ("lr",)),
    "hyperparameters of a role": (lambda lr: _with(groups.by_role)(roles={"norm": {"lr": lr}}), ("lr",)),
    "decay of a role": (
        lambda weight_decay: _with(groups.by_role)(roles={"norm": {"weight_decay": weight_decay}}), ("weight_decay",)),
    "key of a role": (lambda value: _with(groups.by_role)(roles={"norm": _keyed(value)}), ("value",)),
    "role": (lambda value: _with(groups.by_role)(roles=_keyed(value, {"lr": 0.1})), ("value",)),
    "groups.muon": (_muon, ("model", "lr", "weight_decay", "adamw", "no_decay", "convolutions", "also", "keep_out",
                            "mark", "keep_frozen")),
    "pattern of keep_out": (lambda value: _muon(keep_out=[value]), ("value",)),
    "lr of adamw": (lambda lr: _muon(adamw={"lr": lr}), ("lr",)),
    "key of adamw": (lambda value: _muon(adamw=_keyed(value)), ("value",)),
    "freeze": (_freeze, ("model", "pattern", "back")),
    "of": (lambda value: groups.muon(_model()).of(value), ("value",)),
    "table": (lambda **given: _made().table(**given), ("optimizer", "state", "width")),
    "rows": (lambda **given: groups.rows(**{"groups": _made(), **given}), ("groups", "optimizer", "state")),
    "forecast": (lambda **given: str(groups.forecast(**{"groups": _made(), **given})),
                 ("groups", "optimizer", "state", "averages", "buffers", "available", "where")),
    "device_memory": (lambda value: groups.device_memory(value), ("value",)),
    "find_roles": (lambda **given: groups.find_roles(**{"model": _model(), **given}), ("model", "frozen")),
}  # fmt: skip


def _keyed(value: Any, to: Any = 0.1) -> Any:
    try:
        return {value: to}
    except Exception:  # not every value can be a key
        return {}


WORDS |= {
    ("factor of a pattern", "value"): ("patterns", "'0'", "lr=1e+297"),  # the product is what AdamW is given
    ("by_pattern", "model"): ("matches no parameter",),  # of another model than the pattern is for
    ("groups.muon", "model"): ("no trainable hidden matrix",),
    ("groups.muon", "mark"): ("unknown option adam",),  # a group is marked so, for whoever knows the mark
    ("pattern", "value"): ("pattern",),
    ("key of a role", "value"): ("role", "norm", "option"),
    ("role", "value"): ("role",),
    ("pattern of keep_out", "value"): ("keep_out",),
    ("key of adamw", "value"): ("adamw", "option", "params"),
    ("of", "value"): ("of(", "optimizer"),
    ("device_memory", "value"): ("device",),
    "pattern": ("freeze",),
    **{(name, "optimizer"): ("the state of",) for name in ("table", "rows", "forecast")},
    "decay": ("layer_decay",),
    "patterns": ("pattern",),
    "roles": ("role",),
    "no_decay": ("role",),
    "keep_out": ("pattern",),
}
