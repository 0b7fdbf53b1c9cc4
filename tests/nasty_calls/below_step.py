"""Calls of schedules, tasks, the finder, comparisons and reports."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stepwell import curves, report, schedules, tasks
from stepwell.compare.outcome import Outcome
from stepwell.compare.run import contenders
from stepwell.errors import UsageError
from stepwell.finder import find_lr
from stepwell.optimizers import SGD
from stepwell.schedules import Plateau, Scheduler, cosine
from stepwell.schedules.command import show
from stepwell.schedules.draw import draw, points, save
from stepwell.tasks import Metric, Surface, Task, probe

from .outcome import check_message

FOLDER = Path(tempfile.gettempdir())

BATCHES = [torch.ones(4, 2) * (1 + i) for i in range(12)]


def _model(*seed: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(2, 1)


def _loss(model: nn.Module, batch: Tensor) -> Tensor:
    result: Tensor = model(batch).square().mean()
    return result


def _find_lr(**given: Any) -> Any:
    model = _model()
    usual = {"model": model, "optimizer": SGD(model.parameters(), lr=0.1), "batches": BATCHES, "loss": _loss,
             "iterations": 10, "orders": 1, "progress": False}  # fmt: skip
    return find_lr(**{**usual, **given})


def _task(**given: Any) -> Task:
    usual = {"name": "t", "summary": "s", "family": "toy", "model": _model, "batches": lambda seed: BATCHES,
             "loss": _loss, "metric": Metric("m", "min", lambda model: 0.5), "steps": 3}  # fmt: skip
    return Task(**{**usual, **given})


def _metric(**given: Any) -> None:
    probe(_task(metric=Metric(**{"name": "m", "direction": "min", "evaluate": lambda model: 0.5, **given})))


def _surface(**given: Any) -> None:
    usual = {"height": lambda x, y: x * x + y * y, "x": (-1, 1), "y": (-1, 1), "minima": ((0, 0),)}
    probe(_task(model=lambda seed: nn.Linear(2, 1, bias=False), surface=Surface(**{**usual, **given})))


def _contenders(**given: Any) -> Any:
    return contenders(**{"names": ["sgd"], "family": "toy", **given})


def _outcome_of_a_line(**given: Any) -> Any:
    usual = {"optimizer": "SGD", "phase": "tune", "index": 0, "lr": 0.1, "seed": 0, "status": "finished", "final": 1.0,
             "steps": [0, 1], "metric": [1.0, 1.0], "loss": [None, 1.0], "seconds": [0.0, 1.0]}  # fmt: skip
    try:
        line = json.dumps({**usual, **given})
    except Exception:  # no file holds this
        return None
    try:
        return Outcome.from_json(line)
    except ValueError:  # what the folder turns into a line that names the file
        return None


def _scheduler(**given: Any) -> Scheduler:
    usual = {"optimizer": SGD(_model().parameters(), lr=0.1), "schedule": cosine(5)}
    return Scheduler(**{**usual, **given})


def _used(make: Callable[..., Any], **usual: Any) -> Callable[..., Any]:
    """Make a schedule, and use it in every way where it is one."""

    def call(**given: Any) -> None:
        made = make(**{**usual, **given})
        for use in (lambda: made(3), lambda: draw(made.over(20)), lambda: made.over(20).values()):
            try:
                use()
            except UsageError as error:
                check_message(str(error))
        repr(made)

    return call


def _method(name: str, make: Callable[[], Any] = lambda: cosine(10)) -> Callable[..., Any]:
    return lambda value: getattr(make(), name)(value)


CALLS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "find_lr": (_find_lr, ("model", "optimizer", "batches", "low", "high", "iterations", "orders", "rule", "beta",
                           "stop", "attempts", "accumulate", "scaler", "clip_norm", "also", "seed", "processes",
                           "progress")),
    "find": (lambda value: tasks.find(value), ("value",)),
    "load": (lambda path=FOLDER / "none.py", name="task": tasks.load(path, name), ("path", "name")),
    "probe": (lambda **given: probe(_task(**given)), ("name", "summary", "family", "model", "batches", "loss", "metric",
                                                      "steps", "target", "batch_size", "evaluations", "surface",
                                                      "about")),
    "metric": (_metric, ("name", "direction", "evaluate")),
    "metric of": (lambda value: _metric(evaluate=lambda model: value), ("value",)),
    "model of": (lambda value: probe(_task(model=lambda seed: value)), ("value",)),
    "loss of": (lambda value: probe(_task(loss=lambda model, batch: value)), ("value",)),
    "surface": (_surface, ("height", "x", "y", "minima")),
    "contenders": (_contenders, ("names", "family", "ranges", "options")),
    "range": (lambda low=1e-3, high=1.0: _contenders(ranges={"sgd": (low, high)}), ("low", "high")),
    "ranges": (lambda value: _contenders(ranges={"sgd": value}), ("value",)),
    "options": (lambda value: _contenders(options={"sgd": value}), ("value",)),
    "option": (lambda value: _contenders(options={"sgd": {"momentum": value}}), ("value",)),
    "base": (lambda value: contenders(["sam"], "toy", None, {"sam": {"base": value}}), ("value",)),
    "outcome": (_outcome_of_a_line, ("optimizer", "phase", "index", "lr", "seed", "status", "final", "steps", "metric",
                                     "loss", "seconds", "path", "state_bytes")),
    "warmup": (_used(schedules.warmup, steps=5), ("steps", "start", "shape")),
    "cosine": (_used(cosine, steps=5), ("steps", "to")),
    "linear": (_used(schedules.linear, steps=5), ("steps", "to", "start")),
    "polynomial": (_used(schedules.polynomial, steps=5), ("steps", "to", "power")),
    "cooldown": (_used(schedules.cooldown, steps=5), ("steps", "to", "shape")),
    "constant": (_used(schedules.constant), ("steps", "factor")),
    "trapezoid": (_used(schedules.trapezoid), ("steps", "warmup", "cooldown", "to", "shape")),
    "exponential": (_used(schedules.exponential, gamma=0.9), ("gamma",)),
    "exponential_to": (_used(schedules.exponential_to), ("steps", "to")),
    "inverse_square_root": (_used(schedules.inverse_square_root), ("warmup",)),
    "noam_peak": (lambda d_model=512, warmup=400: schedules.noam_peak(d_model, warmup), ("d_model", "warmup")),
    "untuned_warmup": (lambda value: schedules.untuned_warmup(value), ("value",)),
    "step": (_used(schedules.step, every=5), ("every", "gamma")),
    "multi_step": (_used(schedules.multi_step, milestones=[2, 3]), ("milestones", "gamma")),
    "from_function": (_used(schedules.from_function), ("function",)),
    "value of a function": (_used(lambda value: schedules.from_function(lambda k: value)), ("value",)),
    "product_of": (_used(schedules.product_of), ("function",)),
    "one_cycle": (_used(schedules.one_cycle, steps=50), ("steps", "peak", "start", "end", "shape", "three_phase")),
    "cyclic": (_used(schedules.cyclic, up=5), ("up", "down", "low", "mode", "gamma", "height", "height_of")),
    "cosine_restarts": (_used(schedules.cosine_restarts, first=5), ("first", "mult", "to", "decay")),
    "call": (lambda step=3, group=None: cosine(10)(step, group), ("step", "group")),
    "over": (_method("over"), ("value",)),
    "check": (_method("check"), ("value",)),
    "then": (_method("then"), ("value",)),
    "until": (_method("until"), ("value",)),
    "times": (_method("__mul__"), ("value",)),
    "between": (lambda low=0.0, high=1.0: cosine(10).between(low, high)(3), ("low", "high")),
    "per_group": (_method("per_group"), ("value",)),
    "factor of a group": (lambda value: cosine(10).per_group({"a": value}), ("value",)),
    "values": (_method("values"), ("value",)),
    "parse": (lambda value: schedules.parse(value), ("value",)),
    "show": (lambda **given: show(**{"expression": "cosine(9)", **given}), ("expression", "lr", "steps", "width",
                                                                            "height", "plain")),
    "draw": (lambda **given: draw(**{"schedule": cosine(9), **given}), ("schedule", "lr", "steps", "width", "height",
                                                                        "plain")),
    "points": (lambda **given: points(**{"schedule": cosine(9), **given}), ("schedule", "steps", "most")),
    "save": (lambda value: save(cosine(9), value), ("value",)),
    "Scheduler": (_scheduler, ("optimizer", "schedule", "total_steps", "plateau")),
    "schedules": (lambda value: _scheduler(schedule={"lr": value}), ("value",)),
    "state": (lambda value: _scheduler().load_state_dict(value), ("value",)),
    "step of a state": (lambda value: _scheduler().load_state_dict({"step": value}), ("value",)),
    "observe": (lambda value: _scheduler(plateau=Plateau()).observe(value), ("value",)),
    "Plateau": (lambda **given: Plateau(**given), ("factor", "patience", "threshold", "threshold_mode", "cooldown",
                                                   "least", "mode")),
    "state of Plateau": (_method("load_state_dict", Plateau), ("value",)),
    "render": (lambda **given: report.render(**{"title": "t", "sections": [], **given}), ("title", "sections", "lead",
                                                                                          "foot")),
    "section": (lambda **given: report.render("t", [curves.Section(**{"title": "x", **given})]), ("title", "items",
                                                                                                  "text")),
}  # fmt: skip

# Exceptions of the user's own code, which are handed on as they are: (call, argument).
USERS_OWN = {("find_lr", "batches"), ("find_lr", "model")}
