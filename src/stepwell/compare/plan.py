"""The plan of a comparison: equal budgets for every optimizer, fixed before anything starts.

Each optimizer gets `trials` runs at different learning rates, all with the tuning seed, then `seeds` runs at the
best rate. The plan does not depend on run times, so the number of workers changes no result.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from stepwell.schedules import Schedule, constant, cosine, warmup

TUNING_SEED = 0  # final runs use 1, 2, ...: the seed that chose the rate does not report on it
WARMUP = 0.05  # of the run: enough for adaptive moments to settle, too little to matter for the rest
SCHEDULES = {
    "decay": "linear warmup over the first 5 % of the steps, then cosine decay to 0",
    "warmup": "linear warmup over the first 5 % of the steps, then constant",
    "constant": "constant",
}
ROUND = 4  # trials that start without knowing of one another; the pruner compares with earlier rounds only

Phase = Literal["tune", "seed"]


@dataclass(frozen=True)
class Contender:
    """One optimizer in a comparison.

    Attributes:
        name: the class name, `"AdamW"`. low, high: the range of learning rates to search, 0 < low < high.
        options: constructor arguments besides lr. schedule: a name of `SCHEDULES`.
    """

    name: str
    low: float
    high: float
    options: Mapping[str, Any] = field(default_factory=dict)
    schedule: str = "decay"


@dataclass(frozen=True)
class Plan:
    """All settings that determine the outcome of a comparison; the content of `run.json`.

    Attributes:
        task: as given by the user. task_digest: digest of a user's file, to detect changes; else empty.
        contenders: in the order given. trials, seeds, steps: per optimizer, >= 1.
        prune: whether hopeless learning-rate trials are stopped. device: `"cpu"` or `"cuda"`.
    """

    task: str
    contenders: tuple[Contender, ...]
    trials: int
    seeds: int
    steps: int
    prune: bool = True
    device: str = "cpu"
    task_digest: str = ""


@dataclass(frozen=True)
class Trial:
    """One training run. `index` counts within (optimizer, phase)."""

    optimizer: str
    phase: Phase
    index: int
    lr: float
    seed: int

    @property
    def key(self) -> str:
        """The name of the trial in `trials.jsonl`."""
        return f"{self.optimizer}/{self.phase}/{self.index}"


def learning_rates(low: float, high: float, count: int) -> list[float]:
    """One rate from the middle of each of `count` equal slices of log(low..high), visited coarse to fine.

    In one dimension no sampler covers a range more evenly, and the rates are deterministic. They are in van der Corput
    order, so the first few rates already cover the whole range.

    >>> learning_rates(1e-4, 1.0, 4)
    [0.000316, 0.0316, 0.00316, 0.316]
    """
    bits = max(1, (count - 1).bit_length())
    order = sorted(range(2**bits), key=lambda i: int(f"{i:0{bits}b}"[::-1], 2))
    ratio = math.log(high / low)
    return [_three_digits(low * math.exp((i + 0.5) / count * ratio)) for i in order if i < count]


def _three_digits(value: float) -> float:
    return float(f"{value:.3g}")


def tuning_trials(plan: Plan) -> list[Trial]:
    """All learning-rate trials, round by round, one optimizer after the other."""
    rates = {c.name: learning_rates(c.low, c.high, plan.trials) for c in plan.contenders}
    return [
        Trial(contender.name, "tune", index, rates[contender.name][index], TUNING_SEED)
        for start in range(0, plan.trials, ROUND)
        for contender in plan.contenders
        for index in range(start, min(start + ROUND, plan.trials))
    ]


def seed_trials(plan: Plan, optimizer: str, lr: float) -> list[Trial]:
    """The final runs of one optimizer at its best learning rate."""
    return [Trial(optimizer, "seed", index, lr, TUNING_SEED + 1 + index) for index in range(plan.seeds)]


def rivals(trial: Trial, done: Collection[str]) -> list[str] | None:
    """The keys of the trials that `trial` may be pruned against, or None while one of these trials is not done.

    They are the trials of earlier rounds, in any order of completion, so pruning does not depend on timing.
    """
    if trial.phase != "tune":
        return []
    earlier = [f"{trial.optimizer}/tune/{index}" for index in range(trial.index // ROUND * ROUND)]
    return earlier if all(key in done for key in earlier) else None


def startable(
    plan: Plan, best: Mapping[str, float | None], done: Collection[str], running: Collection[str]
) -> list[Trial]:
    """The trials that may start now, in order of priority.

    `best` maps each optimizer whose tuning is complete to its best rate (None if no trial finished).
    """
    todo: list[Trial] = list(tuning_trials(plan))
    for contender in plan.contenders:
        lr = best.get(contender.name)
        if lr is not None:
            todo += seed_trials(plan, contender.name, lr)
    fresh = [trial for trial in todo if trial.key not in done and trial.key not in running]
    return [trial for trial in fresh if rivals(trial, done) is not None]


def schedule_of(name: str, steps: int) -> Schedule:
    """The schedule of one trial of `steps` steps, by its name in `SCHEDULES`.

    The schedule is a fact of the optimizer (`Facts.schedule`): Schedule-Free averages its iterates instead of a decay,
    and gets worse with a decay; Rprop and L-BFGS determine the length of a step themselves.

    A warmup has at least one step, at the full rate, so that short runs can be compared.

    >>> schedule_of("decay", 180)
    warmup(9).then(cosine(171))
    """
    if name == "constant":
        return constant().over(steps)
    rise = warmup(WARMUP if WARMUP * steps >= 1 else 1)
    return (rise if name == "warmup" or steps == 1 else rise.then(cosine())).over(steps)


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
