"""Gradient release: a parameter is updated as soon as its gradient is complete, and the gradient is freed. Of all
gradients, memory holds only those that backward has not finished.

What needs all gradients together is another thing then, or is refused by name:

    clipping    by value and by unit (AdaptiveClip) as ever. The norm of the whole gradient is known when all weights
                have moved, so `ClipRecentNorm` clips by the norms of recent updates.
    skipping    a parameter whose gradient is not finite is left as it is, with its state. The update counts as skipped
                if that is so for all parameters, as after a loss that is not finite.
    accumulate  where the sum of the gradients can be kept in the optimizer's state: momentum alone, without Nesterov's
                form, dampening and clipping (`Optimizer.summing`). What is not finite is left out of the sum, and
                `done.grad_norm` is that of the gradients of all micro-batches side by side.

An exception inside a backward pass leaves the parameters updated whose gradients were complete, and the gradients of
earlier micro-batches in the buffers. Signal handlers (Ctrl-C) wait until the pass has ended. Hooks that are registered
on a parameter after the first update see no gradient.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from stepwell.engine.reading import Reading
from stepwell.engine.released import Released, refusal
from stepwell.engine.sharding import is_one_of_several
from stepwell.engine.update import has_hooks_before
from stepwell.errors import UsageError
from stepwell.step.clipping import AdaptiveClip, Clip, ClipRecentNorm, ClipValue
from stepwell.step.interrupts import Held
from stepwell.step.model_and_optimizer import Trained

_CLIPS = (ClipValue, AdaptiveClip, ClipRecentNorm)


class Release:
    """The updates inside the backward passes of one Step."""

    def __init__(self, trained: Trained) -> None:
        self._trained = trained
        self._released: Released | None = None
        self._hooks: Any = WeakIdKeyDictionary()  # of each parameter, the handle of its hook
        self._active = False
        self._clip: Clip | None = None
        self._names: dict[Tensor, str] = {}
        self._accumulate = 1  # micro-batches of this update
        self._is_last = True  # whether this pass is that of the last of them
        self._begun: dict[Tensor, None] = {}  # whose buffer has a gradient of this update, and which have not moved
        self._seen: set[Tensor] = set()
        # Of each parameter of this update: found_inf, the square of the norm, and whether it was clipped
        self._outcomes: list[tuple[Tensor, Tensor, Tensor]] = []
        self._square: Tensor | None = None  # the sum of all finite squares of this update

    def check(self, clip: Clip | None, accumulate: int, scaler: Any, estimator: Any, groups: Any) -> None:
        """Raise UsageError for what cannot be combined with the release of gradients."""
        optimizer: Any = self._trained.optimizer
        reason = refusal(optimizer)
        if reason is None and scaler is not None:
            reason = "a scaler decides by all gradients whether they are finite; train in bf16 or fp32"
        if reason is None and estimator is not None:
            reason = f"{estimator} makes further backward passes"
        if reason is None and (groups or is_one_of_several()):
            reason = "the processes of a distributed model average their gradients after they are complete"
        if reason is None and clip is not None and not isinstance(clip, _CLIPS):
            reason = (
                f"{clip} needs the norm of the whole gradient, which is known when all weights have moved; clip by "
                "recent norms, clip=ClipRecentNorm(1.0), or by ClipValue or AdaptiveClip"
            )
        if reason is None and accumulate != 1:
            reason = _not_summed(optimizer, accumulate, clip)
        if reason is not None:
            raise UsageError(f"Step: release=True is not possible: {reason}")
        if has_hooks_before(optimizer):
            raise UsageError(
                "Step: release=True is not possible: a hook before the optimizer's step would see no gradient"
            )

    @contextmanager
    def during(self, clip: Clip | None, number: int, accumulate: int) -> Iterator[None]:
        """Context manager around the backward pass of micro-batch `number` (from 1) of an update."""
        released = self._released
        if released is None or not released.is_current(self._trained.optimizer):
            released = self._released = Released(self._trained.optimizer)
        self._names = {tensor: name for name, tensor in self._trained.named()}
        for tensor in self._names:
            if tensor.requires_grad and tensor not in self._hooks:
                self._hooks[tensor] = tensor.register_post_accumulate_grad_hook(_hook(weakref.ref(self)))
        self._clip, self._seen, self._is_last = clip, set(), number == accumulate
        if number == 1:
            self._outcomes, self._square, self._begun, self._accumulate = [], None, {}, accumulate
        if accumulate != self._accumulate:
            refuse(self, f"accumulate cannot change from {self._accumulate} to {accumulate} within an update")
        try:
            with Held():
                self._active = True
                yield
                if self._is_last:
                    self._end()
        finally:
            self._active = False

    def take(self, tensor: Tensor) -> None:
        """Update one parameter whose gradient is complete, and free the gradient."""
        if not self._active or self._released is None or tensor not in self._names:
            return
        if tensor in self._seen:
            name = self._names.get(tensor)
            raise UsageError(
                f"Step: {repr(name) if name else 'a parameter'} got gradients twice in one backward pass, and was "
                "updated after the first; with release=True, checkpointed parts of a model need use_reentrant=False"
            )
        self._seen.add(tensor)
        norm = self._released.norm(tensor)
        found_inf = (~torch.isfinite(norm)).float()
        square = norm.double().square()
        finite = torch.where(found_inf != 0, 0.0, square)
        self._square = finite if self._square is None else self._square.to(finite.device) + finite
        factor, clipped = self._clipped(tensor, norm)
        if self._accumulate == 1:
            self._released.update(tensor, factor, found_inf, {})
        elif not found_inf:
            self._add(tensor, is_last=self._is_last)
        tensor.grad = None
        self._outcomes.append((found_inf, square, clipped.float() * (1 - found_inf)))

    def _add(self, tensor: Tensor, is_last: bool) -> None:
        """Add a gradient to the buffer of a parameter. The buffer decays and the step is counted with the first
        gradient of an update; the weights move with the last micro-batch."""
        assert self._released is not None
        has_begun = tensor in self._begun
        optimizer: Any = self._trained.optimizer
        changed = optimizer.summing(optimizer.param_groups[0]) if has_begun else {}
        changed = {**changed, **({} if is_last else {"lr": 0.0, "weight_decay": 0.0})}
        self._released.update(tensor, 1.0, torch.zeros(()), changed)
        if has_begun:
            self._released.uncount(tensor)
        self._begun[tensor] = None
        if is_last:
            del self._begun[tensor]

    def _end(self) -> None:
        """Move the weights of parameters that had a gradient in this update, and none, or one that is not finite, in
        the last micro-batch."""
        for tensor in list(self._begun):
            tensor.grad = torch.zeros_like(tensor)
            self._add(tensor, is_last=True)
            tensor.grad = None

    def _clipped(self, tensor: Tensor, norm: Tensor) -> tuple[Any, Tensor]:
        if self._clip is None:
            return 1.0, torch.zeros_like(norm)
        if isinstance(self._clip, ClipRecentNorm):
            assert self._square is not None
            return self._clip.ratio(self._square.sqrt().to(norm.dtype))
        return self._clip.clip([(self._names.get(tensor, ""), tensor)], 1.0, norm)

    def outcome(self) -> Reading:
        """found_inf, the norm of the whole gradient and whether it was clipped, of the update that has ended.

        Raises UsageError if no parameter had a gradient.
        """
        if not self._outcomes:
            self._trained.check_gradients()
        device = self._outcomes[0][0].device
        flags, squares, clipped = (
            torch.stack([one.to(device) for one in column]) for column in zip(*self._outcomes, strict=True)
        )
        norm = squares.sum().sqrt().float()
        if isinstance(self._clip, ClipRecentNorm):
            self._clip.remember(norm)
        return Reading(flags.min(), norm, clipped.max())

    def check_got_gradients(self) -> None:
        """Raise UsageError if the backward pass that has ended gave no parameter a gradient."""
        if not self._seen:
            self._trained.check_gradients()


def refuse(release: Release | None, reason: str) -> None:
    """Raise UsageError for a call that gradient release does not allow."""
    if release is not None:
        raise UsageError(f"Step: with release=True, {reason}")


def _hook(release: weakref.ref[Release]) -> Callable[[Tensor], None]:
    def take(tensor: Tensor) -> None:
        one = release()
        if one is not None:
            one.take(tensor)

    return take


def _not_summed(optimizer: Any, accumulate: int, clip: Clip | None) -> str | None:
    """Why the optimizer cannot add up gradients in its state, or None."""
    name = type(optimizer).__name__
    instead = f"take accumulate=1 with batches {accumulate} times as large, or release=False"
    if optimizer.summing is None:
        return (
            f"accumulate={accumulate} adds up gradients in the optimizer's state, and {name} keeps no plain sum of "
            f"them; {instead}"
        )
    for group in optimizer.param_groups:
        found = optimizer.summing(group)
        if isinstance(found, str):
            return f"accumulate={accumulate} adds up gradients in the state of {name}, which needs {found}; {instead}"
    if clip is not None:
        return f"{clip} would clip the gradient of each of {accumulate} micro-batches, and not their sum; {instead}"
    return None
