"""Synthetic runs for the examples of the checks: a `Trace` names only what differs from a healthy run.

A trace is data; its record is made by `Trace.record()`, in tests only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from fnmatch import fnmatchcase
from typing import Any

from stepwell.doctor.record import (
    BatchFacts,
    LossFacts,
    NotFinite,
    Parameter,
    Probe,
    Record,
    Sample,
    SamplerFacts,
    ScheduleFacts,
    Series,
)

Given = Any  # a value; or a function of the step, from 1; or a list with a value for each step

SHAPES = {"first.weight": (32, 8), "first.bias": (32,), "middle.weight": (32, 32), "middle.bias": (32,),
          "last.weight": (4, 32), "last.bias": (4,)}  # fmt: skip
MEASURED = ("grad", "weight", "update", "unchanged")
ALONG = {0.0: 1.0, 0.1: 0.999, 1.0: 0.98, 3.0: 0.95, 10.0: 0.97, 100.0: 2.0, 1000.0: 9.0}
_REST = {one.name for one in fields(Record)} - {
    "parameters", "optimizers", "groups", "first_groups", "updates", "series", "samples", "norms", "graphs",
}  # fmt: skip


class Trace:
    """One run of a model with three linear layers, `first`, `middle` and `last`, on four classes.

    A value that may change in the run is a number, a function of the step (from 1), or a list with one value for each
    step. Whatever is not given is that of a healthy run.

    Args:
        steps: the number of updates; by default 100.
        loss: the value of each loss.
        losses: how many losses there are, told at different lines of the script. detached: how many values in a row
            depend on no parameter.
        optimizer: the name of its class, or a tuple of names. lr: the learning rate.
        options: further hyperparameters of the first group: {"betas": (0.999, 0.9)}.
        tensors: by name or pattern, what differs of a tensor: the attributes of `Parameter`, the values of `Sample`
            ("grad", "weight", "update", "unchanged"), "reached", and "ran" ("grad", "no_grad", or None for a module
            that is not called). None instead of a dict removes the tensors; a new name adds one.
        facts: attributes of `LossFacts`. batch: attributes of `BatchFacts`, each may change in the run; None for no
            batches. With a "target_mean" the targets are numbers, and no labels.
        along: the loss along an update, in units of the loss before it, by the multiple of the update.
        norm: the norm of the gradients; by default that of "grad". shrunk: what
            clipping has left of them. cosine: of two gradients that follow one another.
        backwards: backward passes for each update. told: losses that are told for it; by default one for each pass.
        seed: the gradient of a loss at itself.
        dead: (share of dead units, of the worst layer), or None.
        vals: the values of the validations, at even distances.
        schedule, sampler, not_finite: attributes of `ScheduleFacts`, `SamplerFacts`, `NotFinite`.
        rest: attributes of `Record`: stale=3, half=True.

    >>> record = Trace(steps=12, lr=lambda step: 0.1 / step, tensors={"last.*": {"grad": 0.0}}).record()
    >>> record.step, record.lr[0][1], record.samples[0].grad[4:]
    (12, (0.05,), [0.0, 0.0])
    """

    def __init__(
        self,
        *,
        steps: int = 100,
        loss: Given = lambda step: 0.05 + 1.35 * 0.98**step,
        losses: int = 1,
        detached: int = 0,
        optimizer: str | tuple[str, ...] = "AdamW",
        lr: Given = 1e-3,
        options: Mapping[str, Any] | None = None,
        tensors: Mapping[str, Mapping[str, Given] | None] | None = None,
        facts: Mapping[str, Any] | None = None,
        batch: Mapping[str, Given] | None = {},  # None says that there is no batch; nobody changes it
        along: Given = ALONG,
        norm: Given = None,
        shrunk: Given = None,
        cosine: Given = 0.6,
        backwards: int = 1,
        told: int | None = None,
        seed: Given = 1.0,
        dead: Given = (0.1, 0.2),
        vals: Sequence[float] = (),
        schedule: Mapping[str, Any] | None = None,
        sampler: Mapping[str, Any] | None = None,
        not_finite: Mapping[str, Any] | None = None,
        **rest: Any,
    ) -> None:
        if unknown := sorted(rest.keys() - _REST):
            raise TypeError(f"Trace: {', '.join(unknown)}; it must be one of its arguments or an attribute of Record")
        self.steps, self.loss, self.losses, self.detached, self.backwards = steps, loss, losses, detached, backwards
        self.told = backwards if told is None else told
        self.optimizers = (optimizer,) if isinstance(optimizer, str) else optimizer
        self.lr, self.options, self.tensors = lr, options or {}, tensors or {}
        self.facts, self.batch, self.along = facts or {}, batch, along
        self.norm, self.shrunk, self.cosine = norm, shrunk, cosine
        self.seed, self.dead, self.vals = seed, dead, vals
        self.schedule, self.sampler, self.not_finite, self.rest = schedule, sampler, not_finite, rest

    def record(self) -> Record:
        """The record of the run after its last step."""
        from stepwell.doctor.forwards import EARLY, PROBES

        record, steps = Record(), range(1, self.steps + 1)
        record.optimizers = list(self.optimizers)
        record.updates = [self.steps] * len(self.optimizers)
        record.first_groups = [[self._group(name, 1)] for name in self.optimizers]
        record.groups = [[self._group(name, self.steps)] for name in self.optimizers]
        record.lr = [[(at(self.lr, step),) for step in steps] for _ in self.optimizers]
        record.backwards = [self.backwards] * self.steps
        told = [step for step in steps for _ in range(self.told)]
        record.series = [self._series(f"train.py:{line}", told) for line in range(10, 10 + self.losses)]

        sampled = [step for step in steps if step <= EARLY or (step <= 200 and step % 4 == 0) or step % 10 == 0]
        record.graphs = len(sampled)
        self._add_tensors(record)
        record.samples = [self._sample(record, number, before, step)
                          for before, step in zip([None, *sampled], sampled, strict=False)
                          for number in range(len(self.optimizers))]  # fmt: skip
        record.norms = [[(one.step, one.norm) for one in record.samples_of(n)] for n in range(len(self.optimizers))]
        record.probes = [self._probe(step, number) for step in steps if step in PROBES
                         if math.isfinite(at(self.loss, step)) for number in range(len(self.optimizers))]  # fmt: skip
        record.batches = [] if self.batch is None else [self._batch(step) for step in sampled]
        record.dead = [] if self.dead is None else [(step, *at(self.dead, step)) for step in sampled]
        scaled = self.rest.get("scaled", False)
        record.seeds.extend(at(self.seed, step) for step in told if scaled or step <= EARLY)

        every = self.steps / max(len(self.vals), 1)
        record.vals = [(round(every * (number + 1)), value) for number, value in enumerate(self.vals)]
        record.evaluations = len(self.vals)
        if self.schedule is not None:
            record.schedules = [_made(ScheduleFacts, self.schedule, optimizer=0, calls=self.steps, horizon=None)]
        if self.sampler is not None:
            record.sampler = _made(SamplerFacts, self.sampler, shuffles=True, epoch=0, samples=6400)
        if self.not_finite is not None:
            record.not_finite = _made(NotFinite, self.not_finite, step=self.steps, origin="loss")
        for name, value in self.rest.items():
            setattr(record, name, value)
        return record

    def _group(self, name: str, step: int) -> dict[str, Any]:
        usual: dict[str, Any] = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
        if name == "SGD":
            usual = {"momentum": 0.9, "weight_decay": 1e-4}
        return {"lr": at(self.lr, step), **usual, **self.options}

    def _series(self, place: str, told: list[int]) -> Series:
        facts = _made(LossFacts, self.facts, function="cross_entropy", before="linear", classes=4)
        return Series(place, list(told), [at(self.loss, step) for step in told], facts, self.detached)

    def _of(self, name: str) -> dict[str, Given] | None:
        """All that is given about one tensor; None for a tensor that is removed."""
        found: dict[str, Given] = {}
        for pattern, given in self.tensors.items():
            if fnmatchcase(name, pattern):
                if given is None:
                    return None
                found.update(given)
        return found

    def _add_tensors(self, record: Record) -> None:
        added = [name for name in self.tensors if "*" not in name and name not in SHAPES]
        for name in (*SHAPES, *added):
            given = self._of(name)
            if given is None:
                continue
            reached, ran = given.pop("reached", None), given.pop("ran", "grad")
            own = {key: value for key, value in given.items() if key not in MEASURED}
            parameter = _parameter(name, own)
            record.parameters.append(parameter)
            used = parameter.trainable and parameter.optimizer is not None
            record.reached.append(reached if reached is not None else record.graphs if used else 0)
            if ran is not None:
                record.ran[parameter.module] = ran

    def _sample(self, record: Record, number: int, before: int | None, step: int) -> Sample:
        sample = Sample(step, number, previous=before)
        sample.cosine = None if before is None else at(self.cosine, step)
        sample.shrunk = at(self.shrunk, step)
        wave = 1 + 0.2 * math.sin(2.4 * step)  # no two gradients have the same size
        for one in record.parameters:
            known = one.optimizer == number and one.trainable
            given = (self._of(one.name) or {}) if known else dict.fromkeys(MEASURED)
            weight = at(given.get("weight", 0.1), step)
            sample.grad.append(at(given.get("grad", 0.01 * wave), step))
            sample.weight.append(weight)
            sample.update.append(at(given.get("update", 2e-3 * (weight or 0.0)), step))
            sample.unchanged.append(at(given.get("unchanged", 0.0), step))
        squares = [one.numel * grad**2 for one, grad in zip(record.parameters, sample.grad, strict=True) if grad]
        sample.norm = math.sqrt(sum(squares)) if self.norm is None else at(self.norm, step)
        return sample

    def _probe(self, step: int, number: int) -> Probe:
        start = at(self.loss, step)
        return Probe(step, number, {multiple: start * share for multiple, share in at(self.along, step).items()})

    def _batch(self, step: int) -> BatchFacts:
        given = {name: at(value, step) for name, value in (self.batch or {}).items()}
        size = given.get("size", 64)
        usual: dict[str, Any] = {"size": size, "low": -3.0, "high": 3.0, "target_size": size}
        if "target_mean" in given:
            usual["target_std"] = 1.0
        else:
            usual["labels"] = {label: size // 4 + (label < size % 4) for label in range(min(size, 4))}
        return _made(BatchFacts, given, step=step, **usual)


def at(given: Given, step: int) -> Any:
    """The value at a step.

    >>> at(0.1, 3), at([0.1, 0.2, 0.3], 3), at(lambda step: step / 10, 3)
    (0.1, 0.3, 0.3)
    """
    if isinstance(given, Callable):  # type: ignore[arg-type]
        return given(step)
    return given[step - 1] if isinstance(given, list) else given


def _made(kind: type[Any], given: Mapping[str, Any], /, **usual: Any) -> Any:
    return kind(**{**usual, **given})


def _parameter(name: str, given: dict[str, Any]) -> Parameter:
    import torch

    module, _, _ = name.rpartition(".")
    shape = given.get("shape", SHAPES.get(name, (32, 32)))
    matrix = len(shape) > 1
    usual = {
        "name": name,
        "shape": shape,
        "numel": math.prod(shape),
        "module": module,
        "kind": "Linear",
        "trainable": True,
        "optimizer": 0,
        "fresh": True if matrix else None,
        "scale": 0.58 if matrix else None,
    }
    return _made(Parameter, {**given, "dtype": getattr(torch, given.get("dtype", "float32"))}, **usual)
