"""What both Schedule-Free methods share: the mean of the iterates, and switching the parameters to the mean.

Every parameter has three points: z, the plain iterate, in a slot; x, the mean of all z, for evaluation; and y between
them, where gradients are computed. During training the parameter holds y. x is not stored:
x = y + (1 - 1 / beta) * (z - y).

lr_t        = lr * min(1, t / warmup_steps)
lr_max     <- max(lr_max, lr_t)
weight      = t**r * lr_max**weight_lr_power
weight_sum <- weight_sum + weight
c           = weight / weight_sum
z          <- z - lr_t * direction
x          <- (1 - c) * x + c * z
y           = beta * x + (1 - beta) * z
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from stepwell.arguments import flag
from stepwell.engine import Optimizer, Range, Slot, formats, halves
from stepwell.errors import UsageError
from stepwell.ops import maximum, minimum, where


def average(p, t, z, weight_sum, lr_max, direction, *, beta, lr, warmup_steps, r, weight_lr_power):
    """The step of y, with the new z, weight_sum and lr_max. `beta` is that of y = beta * x + (1 - beta) * z."""
    lr = lr * minimum(1, t / maximum(warmup_steps, 1))
    lr_max = maximum(lr_max, lr)
    weight = t**r * lr_max**weight_lr_power
    weight_sum = weight_sum + weight
    c = weight / maximum(weight_sum, 1e-300)  # 0 as long as lr is
    z = where(t == 1, p, z)
    return c * (p - z) + (lr * (1 - beta * (1 - c))) * direction, z - lr * direction, weight_sum, lr_max


# z is a copy of the weights
Z, WEIGHT_SUM, LR_MAX = Slot("z", wide=True), Slot("weight_sum", per="tensor"), Slot("lr_max", per="tensor")


class ScheduleFree(Optimizer):
    """Base class of the Schedule-Free methods, with their modes: `train()` sets the parameters to y, `eval()` to x.

    A new optimizer is in train mode. Each switch rounds the weights once.
    """

    decay = None  # the rule adds decay at y to the step of z
    decay_by_rule = "decoupled"
    modes = ("train_mode",)
    ranges = {
        "betas": Range(0, 1, open_low=True),
        "momentum": Range(0, 1, open_low=True),
        "warmup_steps": Range(0, whole=True),
        "r": Range(0),
        "weight_lr_power": Range(0),
    }

    def __init__(self, params: Any, defaults: dict[str, Any], options: Mapping[str, Any]) -> None:
        super().__init__(params, {**defaults, "train_mode": True}, options)

    def train(self) -> None:
        """Set the parameters to y, where gradients are computed. No effect in train mode."""
        self._switch(True)

    def eval(self) -> None:
        """Set the parameters to x, the mean of the iterates, to evaluate or to save. No effect in eval mode.

        Batch norm statistics belong to y: update them with `stepwell.recalibrate(model, loader)`.
        """
        self._switch(False)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """`with optimizer.evaluating():` evaluates at x and then restores the mode."""
        modes = self._modes()
        self.eval()
        try:
            yield
        finally:
            if any(modes):
                self.train()

    def update(self, gradient_factor: float | Tensor = 1.0, found_inf: Tensor | None = None) -> None:
        if not all(self._modes()):
            raise UsageError(f"{type(self).__name__}: a step in eval mode; call optimizer.train() before training")
        super().update(gradient_factor, found_inf)

    def state_dict(self) -> dict[str, Any]:
        if self.state and any(self._modes()):
            warnings.warn(
                f"{type(self).__name__} is saved in train mode: the model's weights are not the averaged ones. "
                "Save model and optimizer inside `with optimizer.evaluating():`",
                stacklevel=2,
            )
        return super().state_dict()

    def _modes(self) -> list[bool]:
        """Whether each group is in train mode."""
        return [flag(type(self).__name__, "train_mode", group["train_mode"]) for group in self.param_groups]

    @torch.no_grad()
    def _switch(self, train: bool) -> None:
        self.bring_back()
        first = "beta1" if "betas" in self.defaults else "momentum"
        for group, mode in zip(self.param_groups, self._modes(), strict=True):
            if mode == train:
                continue
            beta = self.signature.value(first, group)
            for tensor in group["params"]:
                if "z" in self.state.get(tensor, ()):
                    self._towards_z(tensor, 1 - beta if train else 1 - 1 / beta)
            group["train_mode"] = train

    def _towards_z(self, tensor: Tensor, weight: float) -> None:
        z, low = self.state[tensor]["z"], self.state[tensor].get(formats.LOW_BITS)
        here = tensor.to(z.dtype) if low is None else halves.join(tensor, low)
        new = here + weight * (z - here)
        if low is None:
            tensor.copy_(new)
        else:
            for kept, part in zip((tensor, low), halves.split(new, tensor.dtype), strict=True):
                kept.copy_(part)
