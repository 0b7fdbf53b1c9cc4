"""Sharpness-aware minimization: the step at the weights uses the gradient from the highest loss nearby.

g        = gradient at p
e        = rho * g / ||g||                (one norm over all tensors)
g_sharp  = gradient at p + e
p       <- the step of the wrapped optimizer at p, with g_sharp
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from stepwell.anatomy.batch_norm import statistics_kept
from stepwell.engine.gradients import Factor, global_norm, values
from stepwell.engine.pointers import is_wrapper, layout_of
from stepwell.engine.rule import FLAG, Range, check_hyperparameters, read
from stepwell.engine.update import Evaluate, needs_closure, update
from stepwell.errors import UsageError
from stepwell.optimizers.facts import Facts
from stepwell.wrappers.perturbation import Part, Perturbation, can_move
from stepwell.wrappers.weights import copy_all, wide
from stepwell.wrappers.wrapper import Wrapper

RHO = "sam_rho"  # in the groups: Adadelta and Sophia have a `rho` of their own


class _Moved(NamedTuple):
    """A tensor that is to be moved by e."""

    name: str
    tensor: Tensor
    gradient: Tensor
    rho: float  # negative where the objective is maximized: the worst nearby is then the lowest


class SAM(Wrapper):
    """SAM, around any optimizer: for flat minima, which often generalize better, at two gradients per step.

    Use it for vision models trained for long, small data sets and fine-tuning, usually around SGD with momentum, for
    vision transformers around AdamW. Cost: twice the time of a step, and a copy of the weights, which
    is not saved. Learning rate, schedule and weight decay stay as tuned for the wrapped optimizer.

    Args:
        optimizer: the wrapped optimizer, of this package or of torch.
        rho: length of e, at least 0. 0.05 is usual, 0.1 to 0.2 for vision transformers, 0.02 for little noise. In the
            parameter groups its key is `sam_rho`: there it may differ, and schedules change it by that name.
        model: the model whose batch norm statistics are updated by the first evaluation only, as in the authors' code.
            `create("sam", model, ...)` passes it on.

    A step needs a closure. Gradients are cleared between its two evaluations, so the second gradient is that of the
    second point alone. Afterwards the weights are restored from a copy, bit for bit, also if the second evaluation
    raises or is interrupted. bf16 weights move as far as their precision shows, split weights keep their low bits.

    In the authors' code weight decay is a part of the loss, so it also changes e. Here e is computed from the gradient
    of the loss alone (algorithm 1), and the wrapped optimizer applies weight decay at the weights themselves.

    Reference: Foret, Kleiner, Mobahi, Neyshabur, "Sharpness-aware minimization for efficiently improving
    generalization", arXiv 2010.01412, algorithm 1 with p = 2.

    >>> optimizer = SAM(SGD(model.parameters(), lr=0.1, momentum=0.9), rho=0.05, model=model)
    >>> done = Step(optimizer, cosine(9_500)).closure(lambda: loss_fn(model(x), y))
    """

    settings: ClassVar[tuple[str, ...]] = ("rho",)
    group_options: ClassVar[tuple[str, ...]] = (RHO,)
    usual_base = "sgd"
    evaluates = True
    ranges: ClassVar[dict[str, Range]] = {"rho": Range(0)}
    facts: ClassVar[Facts] = Facts(
        lr={"default": (3e-3, 1.0), "cnn": (1e-2, 1.0), "transformer": (1e-2, 3.0), "toy": (1e-5, 1e-1)},
        source="that of SGD inside; Foret et al. 2010.01412 (0.1 with rho 0.05), Chen et al. 2106.01548 (rho to 0.2)",
        compare_options=MappingProxyType({"base": "sgd", "momentum": 0.9}),
        method="perturbed",
        kind="wrapper",
        lr_against_adamw=100.0,
        needs_closure=True,
    )

    def __init__(self, optimizer: torch.optim.Optimizer, rho: float = 0.05, model: nn.Module | None = None) -> None:
        super().__init__(optimizer)
        if model is not None and not isinstance(model, nn.Module):
            raise UsageError(f"{type(self).__name__}: model is a {type(model).__name__}; it must be a torch.nn.Module")
        self.rho = float(self._read("rho", rho))
        self.model = model
        self._forget()
        rhos = [self._read("rho", group.get(RHO, self.rho)) for group in self.param_groups]
        for group, one in zip(self.param_groups, rhos, strict=True):
            group[RHO] = one

    def _forget(self) -> None:
        """What is kept from step to step, and made again by each object."""
        self._kept: Any = WeakIdKeyDictionary()
        self._perturbation = Perturbation()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in super().__getstate__().items() if k not in ("_kept", "_perturbation")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._forget()

    def _read(self, name: str, value: Any, place: str = "") -> Any:
        return read(type(self).__name__, name, value, self.ranges[name], place)

    def _check_settings(self, settings: Mapping[str, Any], groups: list[dict[str, Any]]) -> None:
        owner = f"{type(self).__name__}: the checkpoint"
        check_hyperparameters(owner, settings, self.ranges)
        for group in groups:
            if RHO in group:
                check_hyperparameters(owner, {"rho": group[RHO]}, self.ranges)

    def _loaded(self, with_settings: bool) -> None:
        for group in self.param_groups:  # those of a checkpoint without SAM have none
            group.setdefault(RHO, self.rho)

    def _checked(self, optimizer: Any) -> torch.optim.Optimizer:
        optimizer = super()._checked(optimizer)
        if needs_closure(optimizer):
            raise UsageError(
                f"{type(self).__name__}: {type(optimizer).__name__} evaluates the loss at places of its own, and so "
                f"does {type(self).__name__}; wrap an optimizer that takes one gradient per step"
            )
        return optimizer

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the wrapped optimizer; it may contain `sam_rho`."""
        if not isinstance(param_group, dict):
            return super().add_param_group(param_group)  # which refuses it
        rho = read(type(self).__name__, RHO, param_group.get(RHO, self.rho), self.ranges["rho"])
        super().add_param_group({k: v for k, v in param_group.items() if k != RHO})
        self.param_groups[-1][RHO] = rho

    # The step

    def update(self, gradient_factor: Factor = 1.0, found_inf: Tensor | None = None) -> None:
        """Not supported: SAM must compute its own gradients, so use `update_with`. Only gradients that are zero
        everywhere are accepted, because e is 0 then: distributed checkpoints initialize the state with such a step."""
        self._refuse_without_closure()
        update(self.base, gradient_factor, found_inf)

    def _evaluates_nothing(self) -> bool:
        found = [tensor.grad for _, tensor in self.named() if tensor.grad is not None]
        return bool(found) and not any(bool(values(gradient).any()) for gradient in found)

    def update_with(self, evaluate: Evaluate) -> tuple[Any, Tensor | None]:
        """Evaluate at p and at p + e, then let the wrapped optimizer make its step at p."""
        self._refuse_inside("update")
        loss, found_inf = evaluate()
        moved = self._moved()
        kept = self._copies(moved)
        try:
            with torch.no_grad():
                self._move(moved)
            for _, tensor in self.named():
                tensor.grad = None
            with statistics_kept(self.model):
                _, late = evaluate()
        finally:
            with torch.no_grad():
                copy_all([item.tensor.detach() for item in moved], kept)
            self._kept.update(zip((item.tensor for item in moved), kept, strict=True))
        flags = [flag for flag in (found_inf, late) if flag is not None]
        flag = torch.stack([one.to(flags[0].device) for one in flags]).amax(0) if flags else None
        with torch.no_grad():
            update(self.base, 1.0, flag)
        return loss, flag

    def _moved(self) -> list[_Moved]:
        result = []
        for place, group in enumerate(self.param_groups):
            given = group.get(RHO, self.rho)
            group[RHO] = read(type(self).__name__, RHO, given, self.ranges["rho"], f" in group {place}")
            maximize = read(type(self).__name__, "maximize", group.get("maximize", False), FLAG, f" in group {place}")
            rho = -float(group[RHO]) if maximize else float(group[RHO])
            names = group.get("param_names") or [""] * len(group["params"])
            for name, tensor in zip(names, group["params"], strict=True):
                gradient = tensor.grad
                if gradient is None or tensor.numel() == 0:
                    continue
                gradient = gradient.to_dense() if gradient.is_sparse else gradient
                result.append(_Moved(name, tensor, gradient.detach(), rho))
        return result

    @torch.no_grad()
    @torch.inference_mode(False)  # what is kept must outlive an inference mode
    def _copies(self, moved: Sequence[_Moved]) -> list[Tensor]:
        """Copies of the weights, in memory that is kept from step to step: new memory costs more than the copy. A step
        inside of this step finds none, and makes its own."""
        copies = []
        for item in moved:
            tensor, copy = item.tensor.detach(), self._kept.pop(item.tensor, None)
            if copy is None or layout_of(copy) != layout_of(tensor) or is_wrapper(tensor):
                copy = torch.empty_like(tensor)
            copies.append(copy)
        copy_all(copies, [item.tensor.detach() for item in moved])
        return copies

    def _parts(self) -> list[Part]:
        """All parameters, for the kernels that move them."""
        parts: list[Part] = []
        for group in self.param_groups:
            rho = -float(group[RHO]) if group.get("maximize", False) else float(group[RHO])
            names = group.get("param_names") or [""] * len(group["params"])
            for adaptive in (False, True):
                pairs = zip(names, group["params"], strict=True)
                tensors = [p for name, p in pairs if p.numel() and self._is_adaptive(name, p) == adaptive]
                if tensors:
                    parts.append(Part(tensors, rho, adaptive))
        return parts

    def _is_adaptive(self, name: str, tensor: Tensor) -> bool:
        """Whether a tensor moves by its own magnitude."""
        return False

    def _move_by_kernels(self, eta: float) -> bool:
        """Move all parameters that have a gradient, if kernels can; whether they could."""
        parts = self._parts()
        if not all(can_move(tensor) for part in parts for tensor in part.tensors):
            return False
        try:
            self._perturbation.move(parts, eta)
        except UsageError:  # what the engine refuses, before anything moves; torch's operations may do it
            return False
        return True

    def _move(self, moved: Sequence[_Moved]) -> None:
        """p <- p + e."""
        if not moved or self._move_by_kernels(0.0):
            return
        inverse = _inverse(global_norm([item.gradient for item in moved]))
        plain: dict[Any, list[_Moved]] = {}
        for item in moved:
            if item.tensor.dtype in (torch.float32, torch.float64):
                plain.setdefault((item.tensor.device, item.tensor.dtype, item.rho), []).append(item)
            else:
                length = self._length(item, inverse)
                self._write(item, item.gradient.to(length.dtype) * length)
        for (device, dtype, rho), items in plain.items():
            scale = (rho * inverse).to(device, dtype)
            torch._foreach_add_(
                [item.tensor.detach() for item in items], torch._foreach_mul([item.gradient for item in items], scale)
            )

    def _length(self, item: _Moved, inverse: Tensor) -> Tensor:
        """rho / norm, on the device of a tensor and in the precision of its arithmetic."""
        return (item.rho * inverse).to(item.tensor.device, torch.promote_types(item.tensor.dtype, torch.float32))

    def _write(self, item: _Moved, step: Tensor) -> None:
        """p <- p + step, computed in fp32 or wider and rounded to the nearest."""
        tensor = item.tensor.detach()
        if step.dtype == tensor.dtype:
            tensor.add_(step)
        else:
            tensor.copy_(wide(item.tensor, self) + step)


def _inverse(norm: Tensor) -> Tensor:
    """1 / norm, and 0 for 0: without a gradient e is 0."""
    return torch.where(norm > 0, 1 / norm, torch.zeros_like(norm))
