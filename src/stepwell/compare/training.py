"""The model of one trial and the Step around its optimizer, composed as in a user's code."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from torch import Tensor, nn

from stepwell.anatomy.modes import put_into_training
from stepwell.compare.axes import WARMUP, applied
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
        task, contender, seed: the task, the optimizer, and the seed of the initial weights.
        lr: the peak learning rate of the schedule.
        device: the device of the training.
        steps: number of updates, the length of the schedule; None uses a constant `lr`.
        settings: tuned values besides the rate, by the names of `axes`.
    """

    def __init__(
        self, task: Task, contender: Contender, lr: float, seed: int, device: str, steps: int | None = None,
        settings: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        self.task, self.device = task, device
        self.model = task.build(seed).to(device)
        put_into_training(self.model)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        settings = settings or {}
        self.optimizer = _optimizer(contender, lr, self.model, settings)
        self.gradients = 0  # computed so far, an estimate of the Hessian counted as one
        self._loss = twice_differentiable(self.optimizer, task.loss)
        self.step = Step(
            self.optimizer,
            None if steps is None else schedule_of(contender.schedule, steps, settings.get("warmup", WARMUP)),
            estimator=None if receiver(self.optimizer) is None else Hutchinson(),
            warn_skipped=None,  # a skipped update ends the trial, which says more than a warning
        )

    def update(self, batch: Any) -> Tensor:
        """One update. Returns the loss before the update, as a tensor on the device, without waiting for it."""
        batch = to_device(batch, self.device)
        losses: list[Any] = []

        def compute() -> Tensor:
            self.gradients += 1
            loss: Tensor = self._loss(self.model, batch)
            losses.append(loss)
            return loss

        estimator = self.step.estimator
        if estimator is not None and estimator.updates % estimator.every == 0:
            self.gradients += 1
        if needs_closure(self.optimizer):
            self.step.closure(compute)
        else:
            self.step(compute())
        first: Tensor = losses[0].detach().reshape(())
        return first

    def measure(self) -> float:
        """The metric, at the evaluation weights of the optimizer (Schedule-Free, Lookahead)."""
        with self.optimizer.evaluating() if hasattr(self.optimizer, "evaluating") else nullcontext():
            return self.task.measure(self.model)


def check_takes(task: Task, contender: Contender) -> None:
    """Raise UsageError, before training, for a contender that cannot train this task: an optimizer of matrices if the
    task's model has no matrices, or Sophia inside a wrapper that prevents its estimates."""
    inside = find(contender.options.get("base") or contender.optimizer)
    if not inside.facts.matrices_only and inside is find(contender.optimizer):
        return
    optimizer = _optimizer(contender, contender.low, task.build(0), {})
    taker = receiver(optimizer)
    if taker is not None and needs_closure(optimizer):
        raise UsageError(
            f"compare: {contender.name} around {type(taker).__name__} gets no estimates of the Hessian, which need one "
            f"gradient per update; compare {type(taker).__name__} itself, or use {contender.name} with another base"
        )


def _optimizer(contender: Contender, lr: float, model: nn.Module, settings: Mapping[str, float]) -> Any:
    """The optimizer of a trial, made from the model and not from its parameters, because some optimizers treat tensors
    by role."""
    options = applied(contender, settings)
    if "model" in inspect.signature(find(contender.optimizer)).parameters:  # SAM: for the statistics of batch norm
        options.setdefault("model", model)
    return create(contender.optimizer, model, lr=lr, **options)


def is_of_the_step(error: UsageError) -> bool:
    """Whether the error comes from a Step: a loss without a graph, a frozen model. Such an error concerns one model or
    one batch. An error from an optimizer or a task would occur in every trial."""
    return str(error).startswith("Step: ")


def to_device(batch: Any, device: str) -> Any:
    """A batch on the device: tensors inside nested tuples, lists and dicts are moved; other values are unchanged."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):  # a named tuple
        return type(batch)(*(to_device(item, device) for item in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(to_device(item, device) for item in batch)
    if isinstance(batch, dict):
        return {key: to_device(item, device) for key, item in batch.items()}
    return batch
