"""Calls of `Step`: every argument of the constructor, of a step, of passes over loaders, and of checkpoints."""

from __future__ import annotations

import inspect
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from stepwell import step as room
from stepwell.optimizers import SGD, AdamW, Sophia
from stepwell.schedules import Plateau, constant
from stepwell.step import SWA, AdaptiveClip, AutoClip, Average, ClipNorm, ClipValue, Step

from .optimizers import unchanged

WORDS: dict[Any, tuple[str, ...]] = {
    ("Step.switch", "lr"): ("weight_decay",),  # of the product that is carried over
    ("closure", "compute"): ("loss",),  # that the function returned
    "optimizer": ("optimizer",),
    "ema": ("decay",),
    "clip_norm": ("max_norm",),
    "schedule": ("schedule", "steps", "expression"),
    "path": ("path", "checkpoint"),
}


def _run(**given: Any) -> tuple[Step, nn.Module]:
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    usual = {"optimizer": AdamW(model.named_parameters(), lr=0.1, backend="eager"), "model": model}
    return Step(**{**usual, **given}), model


def _loss(model: nn.Module) -> Tensor:
    loss: Tensor = model(torch.ones(4, 2)).square().mean()
    return loss


def _construct(**given: Any) -> None:
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    optimizer = AdamW(model.named_parameters(), lr=0.1, backend="eager")
    with unchanged(optimizer.state_dict, lambda: dict(optimizer.__dict__.get("_optimizer_step_pre_hooks", {}))):
        step = Step(**{"optimizer": optimizer, "model": model, **given})
    for _ in range(2):
        step(_loss(model))
    repr(step)
    step.flush()
    step.state_dict()


def _usual() -> tuple[Step, nn.Module]:
    step, model = _run(schedule=constant(), ema=0.9, clip_norm=1.0, plateau=Plateau())
    step(_loss(model))
    return step, model


def _look(step: Step, model: nn.Module) -> tuple[Callable[[], Any], ...]:
    return (lambda: {k: v for k, v in step.state_dict().items() if k != "generators"}, model.state_dict)


def _on(method: str, *seen: str) -> Callable[..., Any]:
    """A call of a method, then a step."""

    def call(**given: Any) -> None:
        step, model = _usual()
        with unchanged(*_look(step, model)):
            getattr(step, method)(**given)
        step(_loss(model))

    return call


def _stepped(**given: Any) -> None:
    step, model = _usual()
    with unchanged(*_look(step, model)):
        step(**{"loss": _loss(model), **given})
    step(_loss(model))


def _weights(**given: Any) -> None:
    step, model = _run(accumulate=2)
    step(_loss(model), weight=2)
    step(_loss(model), **given)


def _passes(**given: Any) -> None:
    step, model = _usual()
    with unchanged(*_look(step, model)):
        for number, _ in enumerate(step.batches(**{"loader": [torch.ones(4, 2)] * 3, **given})):
            step(_loss(model))
            if number == 3:
                break


def _closed(**given: Any) -> None:
    step, model = _usual()
    with unchanged(*_look(step, model)):
        step.closure(**given)


def _saved(**given: Any) -> None:
    with mock.patch("os.fsync"):  # thousands of them would take minutes
        _saved_quickly(**given)


def _saved_quickly(**given: Any) -> None:
    step, model = _usual()
    folder, before = Path(tempfile.mkdtemp()), Path.cwd()
    inside = folder / "a" / "b" / "c"  # where relative paths end, also one that begins with "../.."
    inside.mkdir(parents=True)
    os.chdir(inside)
    try:
        with unchanged(*_look(step, model)):
            step.save(**{"path": folder / "run.pt", **given})
    finally:
        os.chdir(before)
        shutil.rmtree(folder)


def _loaded(**given: Any) -> None:
    with mock.patch("os.fsync"):
        _loaded_quickly(**given)


def _loaded_quickly(**given: Any) -> None:
    step, model = _usual()
    folder = Path(tempfile.mkdtemp())
    try:
        step.save(folder / "run.pt")
        step(_loss(model))
        with unchanged(*_look(step, model)):
            step.load(**{"path": folder / "run.pt", **given})
        step(_loss(model))
    finally:
        shutil.rmtree(folder)


def _overridden(**given: Any) -> None:
    _loaded(overrides=given)


def _part(name: str) -> Callable[..., Any]:
    """One entry of a saved state."""

    def call(value: Any) -> None:
        step, model = _usual()
        state = {**step.state_dict(), name: value}
        with unchanged(*_look(step, model)):
            step.load_state_dict(state)

    return call


def _set(**given: Any) -> None:
    step, model = _usual()
    ((name, value),) = given.items()
    setattr(step, name, value)
    step(_loss(model))
    repr(step)


def _switched(**given: Any) -> None:
    step, model = _usual()
    with unchanged(*_look(step, model)):
        step.switch(**{"to": "sgd", "lr": 0.1, **given})
    step(_loss(model))


def _estimated(make: Callable[..., Any]) -> Callable[..., Any]:
    def call(**given: Any) -> None:
        model = nn.Linear(2, 3)
        estimator = make(**given)
        step = Step(Sophia(model.named_parameters(), lr=0.1, backend="eager"), estimator=estimator)
        logits = model(torch.ones(4, 2))
        more = {"logits": logits} if estimator.takes_logits else {}
        step(logits.square().mean(), **more)

    return call


def _clipped(make: Callable[..., Any], **usual: Any) -> Callable[..., Any]:
    return lambda **given: _construct(clip=make(**{**usual, **given}))


def _averaged(make: Callable[..., Any], **usual: Any) -> Callable[..., Any]:
    return lambda **given: _construct(average=make(**{**usual, **given}))


def _logits(value: Any) -> None:
    model = nn.Linear(2, 3)
    step = Step(Sophia(model.named_parameters(), lr=0.1, backend="eager"), estimator=room.GaussNewtonBartlett())
    step(model(torch.ones(4, 2)).square().mean(), logits=value)


def _scheduled_group(**given: Any) -> None:
    """A value is written into a group between two updates."""
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    optimizer = SGD(model.named_parameters(), lr=0.1, momentum=0.9, backend="eager")
    step = Step(optimizer, constant())
    step(_loss(model))
    optimizer.param_groups[0].update(given)
    with unchanged(model.state_dict):
        step(_loss(model))


USERS_OWN = {("batches", "loader")}

_ARGUMENTS = tuple(inspect.signature(Step.__init__).parameters)[1:]

CALLS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "Step": (_construct, _ARGUMENTS),
    "Step with a schedule": (lambda total_steps: _construct(schedule=constant(), total_steps=total_steps),
                             ("total_steps",)),
    "schedule of": (lambda value: _construct(schedule={"lr": value}), ("value",)),
    "schedule for": (lambda value: _construct(schedule=_keyed(value, constant())), ("value",)),
    "generator": (lambda value: _construct(generators={"data": value}), ("value",)),
    "name of a generator": (lambda value: _construct(generators=_keyed(value, torch.Generator())), ("value",)),
    "loss": (_stepped, ("loss", "weight", "retain_graph", "logits")),
    "weight": (_weights, ("weight",)),
    "batches": (_passes, ("loader", "resume")),
    "closure": (_closed, ("compute",)),
    "loss of a closure": (lambda value: _closed(compute=lambda: value), ("value",)),
    "observe in a Step": (_on("observe"), ("metric",)),
    "load_state_dict of a Step": (_on("load_state_dict"), ("state",)),
    **{f"state of a Step: {name}": (_part(name), ("value",)) for name in _usual()[0].state_dict()},
    "Step.save": (_saved, ("path", "model", "keep", "extra")),
    "Step.load": (_loaded, ("path", "model", "overrides")),
    "overrides": (_overridden, ("lr", "betas", "eps", "weight_decay", "state", "maximize")),
    "name of overrides": (lambda value: _loaded(overrides=_keyed(value)), ("value",)),
    "set": (_set, (*(name for name in vars(_usual()[0]) if not name.startswith("_")), "note")),
    "Step.switch": (_switched, ("to", "lr", "carry", "weight_decay", "momentum")),
    "group under a Step": (_scheduled_group, ("lr", "momentum", "weight_decay")),
    "ClipNorm": (_clipped(ClipNorm), ("max_norm",)),
    "ClipValue": (_clipped(ClipValue), ("max_value",)),
    "AdaptiveClip": (_clipped(AdaptiveClip), ("ratio", "eps", "exclude")),
    "pattern of exclude": (lambda value: _clipped(AdaptiveClip)(exclude=[value]), ("value",)),
    "AutoClip": (_clipped(AutoClip), ("percentile", "window")),
    "Average": (_averaged(Average), ("decay", "warmup")),
    "SWA": (_averaged(SWA, start=1), ("start", "every")),
    "Hutchinson": (_estimated(room.Hutchinson), ("every", "micro_batches", "seed")),
    "GaussNewtonBartlett": (_estimated(room.GaussNewtonBartlett), ("every", "likelihood", "micro_batches", "seed")),
    "logits": (_logits, ("value",)),
}  # fmt: skip


def _keyed(value: Any, to: Any = 0.1) -> Any:
    try:
        return {value: to}
    except Exception:  # not every value can be a key
        return {}


WORDS |= {
    ("schedule of", "value"): ("schedule",),
    ("schedule for", "value"): ("schedule",),
    ("generator", "value"): ("generator",),
    ("name of a generator", "value"): ("generator",),
    ("loss of a closure", "value"): ("loss",),
    ("logits", "value"): ("logits",),
    ("pattern of exclude", "value"): ("exclude",),
    ("name of overrides", "value"): ("overrides", "hyperparameter"),
    ("load_state_dict of a Step", "state"): ("state",),
    **{(f"state of a Step: {name}", "value"): ("checkpoint", name) for name in ("optimizer", "number")},
}
WORDS |= {(name, "value"): ("checkpoint", "state") for name in CALLS if name.startswith("state of a Step")}
