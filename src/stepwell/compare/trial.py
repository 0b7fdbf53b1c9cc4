"""One trial: train one model once and record the outcome. It runs in a worker process, without side effects."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from stepwell.compare.outcome import Outcome, crashed
from stepwell.compare.plan import Contender, Trial
from stepwell.compare.pruning import Judge
from stepwell.compare.training import Training, is_of_the_step
from stepwell.errors import UsageError
from stepwell.tasks.task import Task, last_line


def run_trial(
    task: Task,
    contender: Contender,
    trial: Trial,
    steps: int,
    rivals: Sequence[Outcome] | None = None,
    device: str = "cpu",
    progress: Callable[[int], None] = lambda step: None,
) -> Outcome:
    """Train `task` for `steps` steps with one optimizer, learning rate and seed.

    The seed decides the initial weights, the order of the data and everything drawn while training, so two
    optimizers with the same seed start from the same weights and see the same batches. `rivals` are earlier outcomes
    for pruning; None does not prune. `progress` is called at each evaluation with the number of steps.

    An exception inside the task or the optimizer becomes an outcome ("crashed" with the last line of the exception, or
    "diverged"). A UsageError (a missing extra, an option that the optimizer refuses) is raised, because it would occur
    in every trial. A UsageError of a Step (a loss without a graph) concerns one trial and becomes an outcome.

    >>> task = stepwell.tasks.find("ravine")
    >>> run_trial(task, Contender("SGD", 1e-4, 1e-2), Trial("SGD", "tune", 0, 1e-3, seed=0), 100).status
    'finished'
    """
    log = _Log()
    try:
        return _train(task, contender, trial, steps, rivals, device, progress, log)
    except Exception as error:  # a user's task may raise anything; it is reported, and the other trials go on
        if isinstance(error, UsageError) and not is_of_the_step(error):
            raise
        return crashed(trial, last_line(error), **log.so_far())


class _Log:
    """The growing lists of an outcome; after a crash, the values so far are kept."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.metric: list[float] = []
        self.loss: list[float | None] = []
        self.seconds: list[float] = []
        self.path: list[list[float]] = []
        self.gradients: list[int] = []

    def so_far(self) -> dict[str, Any]:
        return {**vars(self), "threads": torch.get_num_threads()}


def _train(
    task: Task,
    contender: Contender,
    trial: Trial,
    steps: int,
    rivals: Sequence[Outcome] | None,
    device: str,
    progress: Callable[[int], None],
    log: _Log,
) -> Outcome:
    def outcome(status: Any, error: str = "", final: float | None = None) -> Outcome:
        return Outcome(
            trial.optimizer, trial.phase, trial.index, trial.lr, trial.seed, status, error, final=final,
            state_bytes=int(training.optimizer.state_bytes()), parameters=parameters, **log.so_far(),
            id=trial.id, settings=dict(trial.settings), by=f"process {os.getpid()}",
        )  # fmt: skip

    # One step of a throwaway model: kernels are compiled or read from disk here, and not on the clock. Without it the
    # first trial of AdamW in a fresh process took 2 s longer than the second, for 0.1 s of steps.
    Training(task, contender, 0.0, trial.seed, device).update(next(task.stream(trial.seed)))

    training = Training(task, contender, trial.lr, trial.seed, device, steps, trial.settings)
    parameters = sum(p.numel() for p in training.trained)
    judge = None if rivals is None else Judge(rivals, task.metric.direction, steps)
    stops = set(evaluated_steps(steps, task.evaluations))
    torch.manual_seed(trial.seed)  # dropout: the same draws however much the model's builder drew

    def fault(step: int, losses: list[Tensor], seconds: float) -> str:
        """Add one point of the curve. If a value is not finite, return its description and add nothing.

        The Step skips an update whose gradient is not finite. A trial ends then: otherwise the run would continue with
        finite weights and would not count as diverged.
        """
        loss = torch.stack(losses).mean().item() if losses else None
        metric = training.measure() if loss is None or math.isfinite(loss) else math.nan
        if not math.isfinite(metric):
            return "loss or metric"
        if training.step.skipped:
            return "a gradient"
        log.steps.append(step)
        log.metric.append(metric)
        log.loss.append(loss)
        log.seconds.append(round(seconds, 6))
        log.gradients.append(training.gradients)
        if task.surface is not None:
            log.path.append([x.item() for x in training.trained[0].detach().flatten()])
        return ""

    if fault(0, [], 0.0):
        return outcome("diverged", "the metric is not finite before the first step")
    losses: list[Tensor] = []
    seconds = 0.0
    stream = task.stream(trial.seed)
    started = time.perf_counter()
    for step in range(1, steps + 1):
        losses.append(training.update(next(stream)))
        if step not in stops:
            continue
        if device != "cpu":
            torch.cuda.synchronize()
        seconds += time.perf_counter() - started
        what = fault(step, losses, seconds)
        if what:
            return outcome("diverged", f"{what} not finite by step {step}")
        losses.clear()
        progress(step)
        if judge is not None and judge.hopeless(step, log.metric[-1]):
            return outcome("pruned")
        started = time.perf_counter()
    return outcome("finished", final=log.metric[-1])


def evaluated_steps(steps: int, evaluations: int) -> list[int]:
    """The steps after which the metric is evaluated: evenly spread, including the last step.

    >>> evaluated_steps(10, 4)
    [2, 5, 7, 10]
    """
    count = min(steps, evaluations)
    return [steps * (i + 1) // count for i in range(count)]
