"""The plan of a comparison: the same number of trials for every optimizer, and which trials these are.

Each optimizer gets `trials` runs for each hyperparameter that is tuned, all with the tuning seed, then `seeds` runs
with the best values. Which values are tried follows from the outcomes so far and from nothing else: neither the number
of workers nor the order in which they finish changes a result.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from stepwell.compare.axes import WARMUP, applied, axes, start
from stepwell.compare.search import Axis, Direction, Seen, Side, best_value, edge, first, following, rounds
from stepwell.schedules import Schedule, constant, cosine, warmup
from stepwell.schedules.expression import parse

if TYPE_CHECKING:
    from stepwell.compare.outcome import Outcome

TUNING_SEED = 0  # final runs use 1, 2, ...: the seed that chose the rate does not report on it
SCHEDULES = {
    "decay": "linear warmup over the first 5 % of the steps, then cosine decay to 0",
    "warmup": "linear warmup over the first 5 % of the steps, then constant",
    "constant": "constant",
}

Phase = Literal["tune", "seed"]


@dataclass(frozen=True)
class Contender:
    """One optimizer in a comparison, with its settings.

    Attributes:
        name: what it is called: `"AdamW"`, or `"AdamW[betas=(0.9, 0.95)]"` where one optimizer has several settings.
        low, high: the range of learning rates of the first trials, 0 < low < high.
        options: constructor arguments besides lr. schedule: a name of `SCHEDULES`, or an expression as `stepwell
            schedule` takes it.
        optimizer: the class name, `"AdamW"`; by default the same as `name`.
        tune: what is tuned, in order.
    """

    name: str
    low: float
    high: float
    options: Mapping[str, Any] = field(default_factory=dict)
    schedule: str = "decay"
    optimizer: str = ""
    tune: tuple[str, ...] = ("lr",)

    def __post_init__(self) -> None:
        if not self.optimizer:
            object.__setattr__(self, "optimizer", self.name)


@dataclass(frozen=True)
class Plan:
    """All settings that determine the outcome of a comparison.

    Attributes:
        task: as given by the user. task_digest: digest of a user's file, or of the facts of a task that is built in.
        contenders: in the order given. trials: for each hyperparameter that is tuned. seeds, steps: per optimizer.
        prune: whether hopeless trials are stopped. widen: whether a range widens towards an edge that won.
        device: `"cpu"` or `"cuda"`.
    """

    task: str
    contenders: tuple[Contender, ...]
    trials: int
    seeds: int
    steps: int
    prune: bool = True
    device: str = "cpu"
    task_digest: str = ""
    widen: bool = True

    @property
    def tuning(self) -> int:
        """The number of tuning trials of every optimizer."""
        return self.trials * max((len(contender.tune) for contender in self.contenders), default=1)

    @property
    def planned(self) -> int:
        """The number of all trials."""
        return len(self.contenders) * (self.tuning + self.seeds)


@dataclass(frozen=True)
class Trial:
    """One training run. `index` counts within (optimizer, phase). `settings`: tuned values besides lr. `id`: the same
    for every trial that computes the same, whatever it is called and for what it is run."""

    optimizer: str
    phase: Phase
    index: int
    lr: float
    seed: int
    settings: Mapping[str, float] = field(default_factory=dict)
    id: str = ""

    @property
    def key(self) -> str:
        """The place of the trial in its comparison."""
        return f"{self.optimizer}/{self.phase}/{self.index}"


@dataclass(frozen=True)
class Stage:
    """The tuning of one hyperparameter: `tried` in the order of trying, `best` once all are done, `edge` if the best
    one lies there."""

    axis: Axis
    tried: tuple[float, ...]
    best: float | None = None
    edge: Side | None = None


@dataclass(frozen=True)
class Course:
    """How far the trials of one optimizer are.

    Attributes:
        trials: all that are known so far, in order; what comes next may depend on their outcomes.
        rounds, starts: the indices at which the rounds of tuning begin, and those at which a stage begins.
        stages: one for each hyperparameter whose tuning has begun.
        tuned: whether the tuning is complete. lr, settings: the best values so far; lr is None if none finished.
    """

    trials: tuple[Trial, ...]
    rounds: tuple[int, ...]
    starts: tuple[int, ...]
    stages: tuple[Stage, ...]
    tuned: bool
    lr: float | None
    settings: Mapping[str, float]

    def rivals(self, trial: Trial) -> list[str]:
        """The ids of the trials that `trial` may be pruned against: those of earlier rounds of the same stage. So
        pruning does not depend on timing."""
        if trial.phase != "tune":
            return []
        stage = max((at for at in self.starts if at <= trial.index), default=0)
        begun = max((at for at in self.rounds if at <= trial.index), default=0)
        return [one.id for one in self.trials if one.phase == "tune" and stage <= one.index < begun]


def course(plan: Plan, contender: Contender, done: Mapping[str, Outcome], direction: Direction) -> Course:
    """The trials of one optimizer that follow from what is done. `done`: outcomes by the ids of their trials."""
    maker = _Maker(plan, contender)
    settings: dict[str, float] = {}
    trials: list[Trial] = []
    begun: list[int] = []
    starts: list[int] = []
    stages: list[Stage] = []
    lr: float | None = None
    seen: dict[tuple[object, ...], list[Seen]] = {}  # of one axis, while all else stays the same
    for axis in axes(contender):
        fixed = tuple(sorted((name, value) for name, value in settings.items() if name != axis.name))
        mine = seen.setdefault((axis.name, fixed, None if axis.name == "lr" else lr), [])
        starts.append(len(trials))
        tried: list[float] = []
        if lr is not None and not mine:  # the value so far was measured already, by the best trial of the stage before
            value = lr if axis.name == "lr" else settings.get(axis.name, start(axis, contender))
            known = done.get(maker.trial("tune", 0, lr, TUNING_SEED, settings).id)
            if value is not None and known is not None:
                mine.append(seen_of(value, known))
        for count in rounds(plan.trials) if lr is not None or not stages else ():
            if mine and (tried or axis.name == "lr"):
                values = following(axis, mine, count, direction, plan.widen)
            else:
                values = first(axis, count)
            begun.append(len(trials))
            batch = [
                maker.trial("tune", len(trials) + offset, value if axis.name == "lr" else lr or 0.0, TUNING_SEED,
                            settings if axis.name == "lr" else {**settings, axis.name: value})
                for offset, value in enumerate(values)
            ]  # fmt: skip
            trials += batch
            tried += values
            outcomes = [done[trial.id] for trial in batch if trial.id in done]
            if len(outcomes) < len(batch):
                stages.append(Stage(axis, tuple(tried)))
                return Course(
                    tuple(trials), tuple(begun), tuple(starts), tuple(stages), False, lr, dict(settings)
                )  # fmt: skip
            mine += [seen_of(value, one) for value, one in zip(values, outcomes, strict=True)]
        best = best_value(mine, direction)
        if best is not None and axis.name == "lr":
            lr = best
        elif best is not None:
            settings[axis.name] = best
        stages.append(Stage(axis, tuple(tried), best, edge(axis, mine, direction)))
    if lr is not None:
        trials += [maker.trial("seed", index, lr, TUNING_SEED + 1 + index, settings) for index in range(plan.seeds)]
    return Course(tuple(trials), tuple(begun), tuple(starts), tuple(stages), True, lr, dict(settings))


class _Maker:
    """Makes the trials of one optimizer, with their ids."""

    def __init__(self, plan: Plan, contender: Contender) -> None:
        self.contender = contender
        self._common = [plan.task, plan.task_digest, plan.device, plan.steps, contender.optimizer]

    def trial(self, phase: Phase, index: int, lr: float, seed: int, settings: Mapping[str, float]) -> Trial:
        options = applied(self.contender, settings)
        told = [*self._common, self.contender.schedule, settings.get("warmup", WARMUP), options, lr, seed]
        text = json.dumps(told, sort_keys=True, default=str)
        name = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:20]
        return Trial(self.contender.name, phase, index, lr, seed, dict(settings), name)


def seen_of(value: float, one: Outcome) -> Seen:
    """What the search is told of an outcome."""
    losses = [loss for loss in one.loss if loss is not None]
    return Seen(
        value,
        one.final if one.status == "finished" else None,
        one.metric[0] if len(one.metric) > 1 else None,
        losses[-1] if losses else None,
        losses[0] if losses else None,
    )


def startable(plan: Plan, courses: Sequence[Course], done: Collection[str], running: Collection[str]) -> list[Trial]:
    """The trials that may start now, in order of priority: tuning round by round, then the seeds. `done` and `running`
    are ids; of two trials with one id only the first starts."""
    order: list[tuple[bool, int, int, int, Trial]] = []
    for position, one in enumerate(courses):
        for trial in one.trials:
            if trial.id in done or trial.id in running:
                continue
            begun = max((at for at in one.rounds if at <= trial.index), default=0) if trial.phase == "tune" else 0
            order.append((trial.phase == "seed", begun, position, trial.index, trial))
    found: dict[str, Trial] = {}
    for *_, trial in sorted(order, key=lambda item: item[:4]):
        found.setdefault(trial.id, trial)
    return list(found.values())


def of_plan(courses: Sequence[Course], done: Mapping[str, Outcome]) -> list[Outcome]:
    """The outcomes that belong to a plan, each under the name and number that it has there."""
    return [
        replace(done[trial.id], optimizer=trial.optimizer, phase=trial.phase, index=trial.index)
        for one in courses
        for trial in one.trials
        if trial.id in done
    ]


def schedule_of(name: str, steps: int, rise: float = WARMUP) -> Schedule:
    """The schedule of one trial of `steps` steps, by its name in `SCHEDULES` or by its expression. `rise`: the share of
    the warmup in a schedule of that table.

    The schedule is a fact of the optimizer (`Facts.schedule`): Schedule-Free averages its iterates instead of a decay,
    and gets worse with a decay; Rprop and L-BFGS determine the length of a step themselves.

    A warmup has at least one step, at the full rate, so that short runs can be compared.

    >>> schedule_of("decay", 180)
    warmup(9).then(cosine(171))
    """
    if name not in SCHEDULES:
        return parse(name).over(steps)
    if name == "constant":
        return constant().over(steps)
    begin = warmup(rise if rise * steps >= 1 else 1)
    return (begin if name == "warmup" or steps == 1 else begin.then(cosine())).over(steps)


def difference(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> tuple[str, Any, Any] | None:
    """The first setting in which two plans (as JSON objects) differ: its name, the old and the new value."""
    for key in [*old, *(key for key in new if key not in old)]:
        name, before, now = f"{prefix}{key}", old.get(key), new.get(key)
        if before == now:
            continue
        if isinstance(before, dict) and isinstance(now, dict):
            return difference(before, now, f"{name}.")
        return name, before, now
    return None


def names(contenders: Sequence[Contender]) -> str:
    """The optimizers in one line."""
    return ", ".join(contender.name for contender in contenders)
