"""What one trial trains: a model and the Step around its optimizer, put together as a user would."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from typing import Any

from torch import Tensor, nn

from stepwell.anatomy.modes import put_into_training
from stepwell.compare.plan import Contender, schedule_of
from stepwell.engine.update import needs_closure
from stepwell.errors import UsageError
from stepwell.optimizers import create, find
from stepwell.step import Hutchinson, Step
from stepwell.step.estimators import receiver, twice_differentiable
from stepwell.tasks.task import Task


class Training:
    """A task's model of one seed, and the Step that trains it.

    Args:
        task, contender, seed: what is trained, with what, from which weights.
        lr: the peak of the schedule.
        device: where.
        steps: updates of the run, over which the schedule is spread; None keeps `lr` throughout.
    """

    def __init__(
        self, task: Task, contender: Contender, lr: float, seed: int, device: str, steps: int | None = None
    ) -> None:
        self.task, self.device = task, device
        self.model = task.build(seed).to(device)
        put_into_training(self.model)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = _optimizer(contender, lr, self.model)
        self.evaluations = 0  # of the loss with its gradients
        self._loss = twice_differentiable(self.optimizer, task.loss)
        self.step = Step(
            self.optimizer,
            None if steps is None else schedule_of(contender.schedule, steps),
            estimator=None if receiver(self.optimizer) is None else Hutchinson(),
            warn_skipped=None,  # a skipped update ends the trial, which says more than a warning
        )

    def update(self, batch: Any) -> Tensor:
        """One update. Returns the loss before it, left on the device: nothing waits for it here."""
        batch = to_device(batch, self.device)
        losses: list[Any] = []

        def compute() -> Tensor:
            self.evaluations += 1
            loss: Tensor = self._loss(self.model, batch)
            losses.append(loss)
            return loss

        if needs_closure(self.optimizer):
            self.step.closure(compute)
        else:
            self.step(compute())
        first: Tensor = losses[0].detach().reshape(())
        return first

    def measure(self) -> float:
        """The metric, at the weights that the optimizer means to be evaluated (Schedule-Free, Lookahead)."""
        with self.optimizer.evaluating() if hasattr(self.optimizer, "evaluating") else nullcontext():
            return self.task.measure(self.model)


def check_takes(task: Task, contender: Contender) -> None:
    """Raise UsageError for a contender that can train nothing here, before anything is trained: an optimizer of
    matrices where the task's model has none, or a Sophia whose wrapper leaves no room for its estimates."""
    inside = find(contender.options.get("base") or contender.name)
    if not inside.facts.matrices_only and inside is find(contender.name):
        return
    optimizer = _optimizer(contender, contender.low, task.build(0))
    taker = receiver(optimizer)
    if taker is not None and needs_closure(optimizer):
        raise UsageError(
            f"compare: {contender.name} around {type(taker).__name__} gets no estimates of the Hessian, which need one "
            f"gradient per update; compare {type(taker).__name__} itself, or put {contender.name} around another base"
        )


def _optimizer(contender: Contender, lr: float, model: nn.Module) -> Any:
    """The optimizer of a trial, from the model and not from its parameters: some treat tensors by their role."""
    options = dict(contender.options)
    if "model" in inspect.signature(find(contender.name)).parameters:  # SAM: for the statistics of batch norm
        options.setdefault("model", model)
    return create(contender.name, model, lr=lr, **options)


def is_of_the_step(error: UsageError) -> bool:
    """Whether a Step refuses what it was handed: a loss without a graph, a model that is frozen. That is a fault of
    one model or one batch. What an optimizer or a task refuses would hit every trial alike."""
    return str(error).startswith("Step: ")


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
