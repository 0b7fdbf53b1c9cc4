"""All runs of the bench: which exist, and how one is made to run under a watcher.

    from bench.doctor.runs import all_runs
    figures = all_runs()[0].train(watch, seed=0)

`watch(model, optimizer)` (or lists of both) returns an object with these methods:

- `loss(tensor)` after each loss was computed, before or after its backward, once per micro-batch;
- `val(number)` after an evaluation, lower is better;
- `batch(x, y)` in some tasks;
- `close()` at the end.

A task file has `NAME`, `STEPS` (optimizer steps), `HEALTHY` (configurations), `FAULTS` (its faults by configuration)
and `train(watch, seed, config, fault)`. The task of a run is `name/configuration`, so a faulty run and its healthy
twin have the same task and seed.
"""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import torch
from bench.doctor.causes import CAUSE_OF

HEALTHY_SEEDS = (0, 1)
FAULTY_SEEDS = (0,)


@dataclass(frozen=True)
class Run:
    """One training run: `train(watch, seed)` trains and returns its figures; `fault` is None in a healthy run."""

    task: str
    fault: str | None
    cause: str
    seed: int
    steps: int
    train: Callable[..., dict[str, float]]


class NullDoctor:
    """A watcher that says nothing and remembers what it was told."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.vals: list[float] = []

    def loss(self, loss: torch.Tensor) -> None:
        self.losses.append(float(loss.detach()))

    def val(self, metric: float) -> None:
        self.vals.append(float(metric))

    def batch(self, x: object, y: object = None) -> None:
        pass

    def close(self) -> None:
        pass


def null_watch(model: object, optimizer: object) -> NullDoctor:
    return NullDoctor()


def modules(folder: str) -> Iterator[ModuleType]:
    """The task files of `tasks` or `unseen`, in the order of their names."""
    package = importlib.import_module(f"bench.doctor.{folder}")
    for found in sorted(pkgutil.iter_modules(package.__path__), key=lambda item: item.name):
        yield importlib.import_module(f"bench.doctor.{folder}.{found.name}")


def all_runs(folder: str = "tasks") -> list[Run]:
    """All runs of a folder, healthy ones before the faulty ones of their task."""
    runs = []
    for module in modules(folder):
        for config in module.HEALTHY:
            train = partial(module.train, config=config, fault=None)
            runs += [Run(f"{module.NAME}/{config}", None, "", seed, module.STEPS, train) for seed in HEALTHY_SEEDS]
        for config, faults in module.FAULTS.items():
            for fault in faults:
                train = partial(module.train, config=config, fault=fault)
                name = f"{module.NAME}/{config}"
                runs += [Run(name, fault, CAUSE_OF[fault], seed, module.STEPS, train) for seed in FAULTY_SEEDS]
    return runs


def attempt(one: Any, watch: Callable[[Any, Any], Any]) -> str:
    """Run one program under what `watch` gives. Returns the error that ended it, "" if there was none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            one.train(watch, seed=one.seed)
        except Exception as raised:  # a planted fault may end the run by any exception, which is the answer
            return repr(raised)[:200]
    return ""
