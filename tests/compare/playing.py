"""Plays a whole comparison without training: every trial is answered by a function."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from stepwell.compare.outcome import Outcome
from stepwell.compare.plan import Course, Plan, Trial, course, startable

Answer = Callable[[Trial], Outcome]


def answered(trial: Trial, final: float | None, begun: float = 0.0, **more: Any) -> Outcome:
    """An outcome that finished with `final`, or diverged if that is None."""
    status = more.pop("status", "finished" if final is not None else "diverged")
    metric = more.pop("metric", [begun, final] if final is not None else [begun])
    return Outcome(
        trial.optimizer, trial.phase, trial.index, trial.lr, trial.seed, status, id=trial.id,
        settings=dict(trial.settings), steps=[10 * i for i in range(len(metric))], metric=metric,
        loss=more.pop("loss", [None] * len(metric)), seconds=[0.5 * i for i in range(len(metric))],
        final=final if status == "finished" else None, state_bytes=80, parameters=10, **more,
    )  # fmt: skip


def play(
    plan: Plan, answer: Answer, direction: Any = "max", at_once: int = 1, seed: int = 0,
    done: dict[str, Outcome] | None = None, most: int = 10_000,
) -> tuple[list[Course], dict[str, Outcome]]:  # fmt: skip
    """Run the trials of a plan, `at_once` of them at a time, which end in a random order."""
    done = dict(done or {})
    running: list[Trial] = []
    chance = random.Random(seed)
    for _ in range(most):
        courses = [course(plan, one, done, direction) for one in plan.contenders]
        waiting = startable(plan, courses, done, {trial.id for trial in running})
        running += waiting[: at_once - len(running)]
        if not running:
            break
        ended = running.pop(chance.randrange(len(running)))
        done[ended.id] = answer(ended)
    return [course(plan, one, done, direction) for one in plan.contenders], done
