"""SWATS: switch from Adam to SGD once the learning rate that would give SGD steps of the same length has settled.

step        = the change of the weights by Adam's last update
gamma       = step @ step / -(step @ g)            (over all tensors: SGD's step, projected on Adam's, is as long)
average    <- beta2 * average + (1 - beta2) * gamma
settled     : |average / (1 - beta2**k) - gamma| < tolerance, k > 1
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from stepwell.arguments import fraction, number
from stepwell.engine.decay import decay_of
from stepwell.engine.gradients import Factor
from stepwell.engine.rule import Range, check_hyperparameters
from stepwell.engine.update import needs_closure, takes_factor
from stepwell.errors import UsageError
from stepwell.wrappers.weights import wide
from stepwell.wrappers.wrapper import Wrapper

_NUMBER, _AVERAGE, _GAMMA, _SETTLED_AT, _RATE = range(5)


class Swats(Wrapper):
    """Watches an Adam, and reports when to switch to SGD and at which learning rate. It changes no step.

    Cost: each step copies the weights and makes a pass over them. No operation waits for the device until `ready` is
    read.

    Args:
        optimizer: Adam, AdamW, or another with two `betas`; of this package or of torch.
        tolerance: the largest difference of the average and the current gamma that counts as settled, above 0. Both are
            learning rates of SGD, so compare it with `rate`; the paper's 1e-9 is met when they cross.

    `ready` is True once gamma has settled, `rate` is the learning rate for plain SGD (the paper's Lambda), and
    `lr(momentum)` that for SGD with momentum, (1 - momentum) * rate. They keep their first values. Skipped updates are
    not counted.

    gamma uses the gradient that Adam used: unscaled, clipped, with coupled weight decay. The change of the weights by
    decoupled weight decay is not a part of the step. A negative average never counts as settled (the paper does not
    say).

    Reference: Keskar, Socher, "Improving generalization performance by switching from Adam to SGD", arXiv 1712.07628,
    algorithm 1.

    >>> step = Step(Swats(Adam(model.parameters(), lr=1e-3)), schedule)
    >>> for batch in step.batches(loader):
    ...     step(loss_fn(model(batch.x), batch.y))
    ...     if isinstance(step.optimizer, Swats) and step.optimizer.ready:
    ...         step.switch("sgd", lr=step.optimizer, momentum=0.9)
    """

    settings: ClassVar[tuple[str, ...]] = ("tolerance", "estimate")

    def __init__(self, optimizer: torch.optim.Optimizer, tolerance: float = 1e-9) -> None:
        super().__init__(optimizer)
        self.tolerance = float(number("Swats", "tolerance", tolerance, above=0))
        self.estimate = torch.zeros(5, dtype=torch.float64)  # _NUMBER, _AVERAGE, ..., on the device from the first step
        self._weights: list[tuple[dict[str, Any], Tensor, Tensor]] = []

    def _checked(self, optimizer: Any) -> torch.optim.Optimizer:
        optimizer = super()._checked(optimizer)
        name = type(optimizer).__name__
        if needs_closure(optimizer) or isinstance(optimizer, Wrapper):
            raise UsageError(f"Swats: it watches the steps of an Adam itself, not of {name}; wrap the Adam inside")
        if any(len(group.get("betas", ())) != 2 for group in optimizer.param_groups):
            raise UsageError(f"Swats: {name} has no two betas; it watches an Adam, and averages with its beta2")
        return optimizer

    # What it has found

    @property
    def ready(self) -> bool:
        """Whether the rate has settled. Waits for the device."""
        return bool(self.estimate[_SETTLED_AT] > 0)

    @property
    def settled_at(self) -> int | None:
        """The number of the update at which it settled."""
        return int(self.estimate[_SETTLED_AT]) or None

    @property
    def rate(self) -> float | None:
        """Lambda: the learning rate for SGD without momentum; None before it has settled."""
        return float(self.estimate[_RATE]) if self.ready else None

    @property
    def average(self) -> float | None:
        """The average of gamma now, corrected for its start; None before the first update."""
        number, average = float(self.estimate[_NUMBER]), float(self.estimate[_AVERAGE])
        return average / (1 - self._beta2() ** number) if number else None

    def lr(self, momentum: float = 0.0) -> float:
        """The learning rate for SGD with this momentum: a step of a constant gradient is as long as without.

        Raises UsageError before it has settled, and for a momentum outside [0, 1).
        """
        momentum = fraction("Swats", "momentum", momentum)
        rate = self.rate
        if rate is None:
            raise UsageError(
                f"Swats: no rate has settled after {int(self.estimate[_NUMBER])} updates (the average is "
                f"{self.average if self.average is not None else 'not there yet'}); wait for `ready`, or choose lr"
            )
        return (1 - momentum) * rate

    def _check_settings(self, settings: Mapping[str, Any], groups: list[dict[str, Any]]) -> None:
        if not settings:
            return
        check_hyperparameters("Swats: the checkpoint", settings, {"tolerance": Range(0, open_low=True)})
        estimate = settings["estimate"]
        if not isinstance(estimate, Tensor) or estimate.shape != (5,) or estimate.dtype != torch.float64:
            raise UsageError("Swats: 'estimate' of the checkpoint must be a tensor of 5 float64 numbers")

    def _beta2(self) -> float:
        return float(self.param_groups[0]["betas"][1])

    # The step

    @torch.no_grad()
    def _before(self) -> None:
        self._weights = [
            (group, tensor, wide(tensor, self).clone())
            for group in self.param_groups
            for tensor in group["params"]
            if tensor.requires_grad and tensor.numel()
        ]

    @torch.no_grad()
    def _after(self, factor: Factor, found_inf: Tensor | None) -> None:
        weights, self._weights = self._weights, []
        sums: list[tuple[Tensor, Tensor]] = []
        for group, tensor, before in weights:
            if tensor.grad is None:
                continue
            gradient = tensor.grad.to_dense() if tensor.grad.is_sparse else tensor.grad
            if takes_factor(self.base):  # torch's optimizers have been handed gradients that it is in already
                gradient = gradient.to(before.dtype) * _there(factor, before)
            gradient = -gradient if group.get("maximize") else gradient
            step = wide(tensor, self) - before
            decay, kind = float(group.get("weight_decay", 0.0)), decay_of(self.base, group)
            if decay and kind == "coupled":
                gradient = gradient + decay * before
            elif decay and kind == "decoupled":
                step = step + float(group["lr"]) * decay * before
            sums.append((_sum(step * step), _sum(step * gradient)))
        if not sums:
            return
        device = sums[0][0].device
        squared, along = (torch.stack([one[i].to(device) for one in sums]).sum() for i in range(2))
        skipped = torch.zeros((), device=device) if found_inf is None else found_inf.to(device)
        self.estimate = self._taken_in(self.estimate.to(device), squared, along, skipped != 0)

    def _taken_in(self, before: Tensor, squared: Tensor, along: Tensor, skipped: Tensor) -> Tensor:
        number, average, gamma, settled_at, rate = before.unbind()
        beta2 = self._beta2()
        number = torch.where(skipped, number, number + 1)
        counts = ~skipped & (along != 0)
        gamma = torch.where(counts, squared / -along, gamma)
        average = torch.where(counts, beta2 * average + (1 - beta2) * gamma, average)
        corrected = average / (1 - beta2**number)
        close = (corrected - gamma).abs() < self.tolerance
        now = counts & (number > 1) & close & (corrected > 0) & (settled_at == 0)
        return torch.stack(
            [number, average, gamma, torch.where(now, number, settled_at), torch.where(now, corrected, rate)]
        )


def _sum(values: Tensor) -> Tensor:
    total: Any = values.sum(dtype=torch.float64)
    return total.full_tensor() if hasattr(total, "full_tensor") else total  # over the mesh


def _there(factor: Factor, like: Tensor) -> Factor:
    return factor.to(like.device, like.dtype) if isinstance(factor, Tensor) else factor
