"""The gradients and addresses of a step, looked up once, for a norm and the following update."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stepwell.arguments import number, refusal
from stepwell.engine.launch import Launch
from stepwell.engine.plan import Plan
from stepwell.engine.sharding import left_behind

if TYPE_CHECKING:
    from stepwell.engine.optimizer import Optimizer


class Gathered:
    """The gradients and addresses of one step, as found by `Optimizer.gathered`.

    Valid only inside the context `Optimizer.gathered`, and only while nothing except groups is changed: addresses are
    not read again.
    """

    def __init__(self, optimizer: Optimizer, plan: Plan, ready: list[Launch]) -> None:
        self._optimizer, self._plan, self._ready = optimizer, plan, ready

    def norm(self, gradients: Sequence[Tensor] = ()) -> Tensor:
        """The Euclidean norm of all gradients together (not unscaled), 0-D. Arguments are ignored: the gradients are
        known."""
        squared = self._plan.squared_norm(self._ready)
        if not squared:
            return torch.zeros(())
        total = squared[0]
        if len(squared) > 1:
            total = torch.stack([value.to(total.device) for value in squared]).sum()
        norm = total.sqrt()
        return norm if any(launch.kind.weights == "fp64" for launch in self._ready) else norm.float()

    def update(self, gradient_factor: float | Tensor = 1.0, found_inf: Tensor | None = None) -> None:
        """See `Optimizer.update`. Hyperparameters are read here, and may have changed since the gathering."""
        if not self._plan.fits(self._optimizer):  # a flag or a group has changed: other kernels
            self.release()
            self._plan, self._ready = self._optimizer.prepare()
        self.apply(gradient_factor, found_inf)

    def apply(self, gradient_factor: float | Tensor, found_inf: Tensor | None) -> None:
        """The update, where no hyperparameter has changed since the gathering."""
        plan, ready = self._plan, self._ready
        summed = [launch for launch in ready if launch.kind.sums]
        for launch in summed:
            launch.backend.measure(launch, plan.rows.values, gradient_factor)
        plan.pool(summed)
        if not ready:
            warn_left_behind(self._optimizer)
        plan.run(ready, gradient_factor, found_inf)

    def release(self) -> None:
        """Release the gradients."""
        self._plan.done(self._ready)


def warn_left_behind(optimizer: Optimizer) -> None:
    """Warn once where no parameter has a gradient, and others may have taken the place of all."""
    said = "no parameter has a gradient"
    cause = left_behind([p for group in optimizer.param_groups for p in group["params"]])
    if cause and said not in optimizer.said:
        optimizer.said.add(said)
        warnings.warn(f"{type(optimizer).__name__}: {said}, so nothing is updated; {cause}", UserWarning, stacklevel=7)


def checked(owner: str, factor: Any, found_inf: Any) -> tuple[float | Tensor, Tensor | None]:
    """The checked factor and flag of an update; each may be a tensor on the device."""
    if isinstance(factor, Tensor):
        if factor.numel() != 1 or not factor.is_floating_point() or factor.is_meta or factor.is_sparse:
            raise refusal(owner, "gradient_factor", factor, "a finite number, or a tensor of one number")
    elif type(factor) is not float or not math.isfinite(factor):
        factor = float(number(owner, "gradient_factor", factor))
    one = isinstance(found_inf, Tensor) and found_inf.numel() == 1 and not found_inf.is_meta
    if found_inf is not None and (not one or found_inf.is_complex() or found_inf.is_sparse):
        raise refusal(owner, "found_inf", found_inf, "a tensor of one number (not 0: nothing changes), or None")
    return factor, found_inf
