"""One trial: train one model once and write down what happened. Runs in a worker; touches nothing outside."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stepwell.anatomy.modes import put_into_training
from stepwell.compare.outcome import Outcome, crashed
from stepwell.compare.plan import Contender, Trial
from stepwell.compare.pruning import Judge
from stepwell.compare.schedule import factor
from stepwell.engine.update import needs_closure
from stepwell.errors import UsageError
from stepwell.optimizers import create, find
from stepwell.step import Hutchinson, Step
from stepwell.step.estimators import receiver, twice_differentiable
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
    optimizers with one seed start from the same place and see the same batches. `rivals` are earlier outcomes
    that a hopeless run is cut against; None never cuts. `progress` is called with the steps done, at each evaluation.

    What goes wrong inside the task or the optimizer becomes an outcome ("crashed" with the last line of the exception,
    "diverged"), not an exception. A UsageError (a missing extra, an option that the optimizer refuses) is raised:
    it would hit every trial alike.

    >>> task = stepwell.tasks.find("ravine")
    >>> run_trial(task, Contender("SGD", 1e-4, 1e-2), Trial("SGD", "tune", 0, 1e-3, seed=0), 100).status
    'finished'
    """
    log = _Log()
    try:
        return _train(task, contender, trial, steps, rivals, device, progress, log)
    except UsageError:
        raise
    except Exception as error:  # a user's task may raise anything; it is reported, and the other trials go on
        return crashed(trial, last_line(error), **log.so_far())


class _Log:
    """The lists of an outcome while it grows; what is there survives a crash."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.metric: list[float] = []
        self.loss: list[float | None] = []
        self.seconds: list[float] = []
        self.path: list[list[float]] = []
        self.evaluations = 0

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
            trial.optimizer, trial.phase, trial.index, trial.lr, trial.seed, status, error,
            final=final, state_bytes=int(optimizer.state_bytes()), parameters=parameters, **log.so_far(),
        )  # fmt: skip

    _warm_up(task, contender, trial, device)
    model = task.build(trial.seed).to(device)
    put_into_training(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    parameters = sum(p.numel() for p in trained)
    optimizer = _optimizer(contender, trial.lr, model)
    update = _update(task, model, optimizer, log)
    judge = None if rivals is None else Judge(rivals, task.metric.direction, steps)
    stops = set(evaluated_steps(steps, task.evaluations))
    torch.manual_seed(trial.seed)  # dropout: the same draws however much the model's builder drew

    def measured() -> float:
        """The metric, at the weights that the optimizer means to be evaluated (Schedule-Free, Lookahead)."""
        if not hasattr(optimizer, "evaluating"):
            return task.measure(model)
        with optimizer.evaluating():
            return task.measure(model)

    def evaluate(step: int, losses: list[Tensor], seconds: float) -> bool:
        """Write one point of the curve; False if it is not finite."""
        loss = torch.stack(losses).mean().item() if losses else None
        metric = measured() if loss is None or math.isfinite(loss) else math.nan
        if not math.isfinite(metric):
            return False
        log.steps.append(step)
        log.metric.append(metric)
        log.loss.append(loss)
        log.seconds.append(round(seconds, 6))
        if task.surface is not None:
            log.path.append([x.item() for x in trained[0].detach().flatten()])
        return True

    if not evaluate(0, [], 0.0):
        return outcome("diverged", "the metric is not finite before the first step")
    losses: list[Tensor] = []
    seconds = 0.0
    stream = task.stream(trial.seed)
    started = time.perf_counter()
    for step in range(1, steps + 1):
        batch = to_device(next(stream), device)
        for group in optimizer.param_groups:
            group["lr"] = trial.lr * factor(step - 1, steps, contender.schedule)
        loss = update(batch)
        losses.append(loss.detach().reshape(()))  # left on the device: nothing waits for it here
        if step not in stops:
            continue
        if device != "cpu":
            torch.cuda.synchronize()
        seconds += time.perf_counter() - started
        if not evaluate(step, losses, seconds):
            return outcome("diverged", f"loss or metric not finite by step {step}")
        losses.clear()
        progress(step)
        if judge is not None and judge.hopeless(step, log.metric[-1]):
            return outcome("pruned")
        started = time.perf_counter()
    return outcome("finished", final=log.metric[-1])


def _warm_up(task: Task, contender: Contender, trial: Trial, device: str) -> None:
    """One step of a throwaway model: kernels are compiled or read from disk here, and not on the clock.

    Without it the first trial of AdamW in a fresh process took 2 s longer than the second, for 0.1 s of steps.
    """
    model = task.build(trial.seed).to(device)
    put_into_training(model)
    optimizer = _optimizer(contender, 0.0, model)
    _update(task, model, optimizer, _Log())(to_device(next(task.stream(trial.seed)), device))


def check_takes(task: Task, contender: Contender) -> None:
    """Raise UsageError where an optimizer of matrices finds none in the task's model, before anything is trained."""
    if find(contender.options.get("base") or contender.name).facts.matrices_only:
        _optimizer(contender, contender.low, task.build(0))


def _optimizer(contender: Contender, lr: float, model: nn.Module) -> Any:
    """The optimizer of a trial, from the model and not from its parameters: some treat tensors by their role."""
    options = dict(contender.options)
    if "model" in inspect.signature(find(contender.name)).parameters:  # SAM: for the statistics of batch norm
        options.setdefault("model", model)
    return create(contender.name, model, lr=lr, **options)


def _update(task: Task, model: nn.Module, optimizer: Any, log: _Log) -> Callable[[Any], Tensor]:
    """One update on a batch, which returns the loss: with as many evaluations of loss and gradients as the optimizer
    wants, or with estimates of the Hessian where it divides by them (Sophia: without any it would be Signum)."""
    if receiver(optimizer) is not None and not needs_closure(optimizer):
        step, loss_of = Step(optimizer, estimator=Hutchinson()), twice_differentiable(optimizer, task.loss)

        def estimated(batch: Any) -> Tensor:
            log.evaluations += 1
            loss: Tensor = loss_of(model, batch)
            step(loss)
            return loss

        return estimated

    def update(batch: Any) -> Tensor:
        def closure() -> Tensor:
            log.evaluations += 1
            optimizer.zero_grad(set_to_none=True)
            loss = task.loss(model, batch)
            loss.backward()
            return loss

        result: Tensor = optimizer.step(closure)
        return result

    return update


def evaluated_steps(steps: int, evaluations: int) -> list[int]:
    """After which steps the metric is taken: evenly spread, the last step among them.

    >>> evaluated_steps(10, 4)
    [2, 5, 7, 10]
    """
    count = min(steps, evaluations)
    return [steps * (i + 1) // count for i in range(count)]


def to_device(batch: Any, device: str) -> Any:
    """A batch on the device: tensors inside tuples, lists and dicts, to any depth; all else as it is."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):  # a named tuple
        return type(batch)(*(to_device(item, device) for item in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(to_device(item, device) for item in batch)
    if isinstance(batch, dict):
        return {key: to_device(item, device) for key, item in batch.items()}
    return batch
