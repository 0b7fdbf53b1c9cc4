"""The hooks by which a doctor sees a run, and how all of them are taken off again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from stepwell.engine.sharding import is_spread, local

FIRST = 3  # updates during which every module is watched, to see which of them run


class Hook:
    """A hook that a copy of the model does not take along: copied or pickled, it does nothing."""

    def __init__(self, call: Callable[..., None] | None) -> None:
        self.call = call

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        if self.call is not None and not torch.compiler.is_compiling():  # a compiled graph has no hooks
            self.call(*args, **kwargs)

    def __deepcopy__(self, memo: Any) -> Hook:
        return Hook(None)

    def __reduce__(self) -> tuple[Any, ...]:
        return Hook, (None,)


class Hooks:
    """Handles, all removed by `remove()`."""

    def __init__(self) -> None:
        self._handles: list[Any] = []
        self._passing: list[Any] = []

    def around_steps(self, before: Callable[..., None], after: Callable[..., None]) -> None:
        """Of every optimizer of the process: those that are made later, too."""
        self._handles += [register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)]

    def around_forward(self, module: nn.Module, before: Callable[..., None], after: Callable[..., None]) -> None:
        self._handles.append(module.register_forward_pre_hook(Hook(before), with_kwargs=True))
        self._handles.append(module.register_forward_hook(Hook(after), with_kwargs=True, always_call=True))

    def while_first(self, module: nn.Module, before: Callable[..., None], after: Callable[..., None]) -> None:
        """As `around_forward`, until `end_first()`."""
        self._passing.append(module.register_forward_pre_hook(Hook(before), with_kwargs=True))
        self._passing.append(module.register_forward_hook(Hook(after), with_kwargs=True, always_call=True))

    def on_gradient(self, tensor: torch.Tensor, before: Callable[..., None], after: Callable[..., None]) -> None:
        if tensor.requires_grad and tensor.is_leaf:
            self._handles.append(tensor.register_hook(before))
            self._handles.append(tensor.register_post_accumulate_grad_hook(after))

    def end_first(self) -> None:
        for handle in self._passing:
            handle.remove()
        self._passing = []

    def remove(self) -> None:
        self.end_first()
        for handle in self._handles:
            handle.remove()
        self._handles = []


class Staleness:
    """Whether an update uses gradients that the update before has used already: nobody has reset them.

    Read from one or two tensors of an optimizer, without looking at values: a gradient that is neither gone nor written
    to since the update, when the next backward pass comes to it, is added to.
    """

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self.tensors = list(tensors)
        self._used: list[tuple[int, int] | None] = [None] * len(self.tensors)
        self._last: list[tuple[int, int] | None] = [None] * len(self.tensors)
        self.flags = [False] * len(self.tensors)
        self.measures = False  # whether sizes are taken, for the next update
        self.sizes: list[torch.Tensor | None] = [None] * len(self.tensors)  # of the gradients as they were computed
        self.passes = 0  # backward passes that are summed in the gradient of the first tensor, for the next update

    def hook(self, hooks: Hooks) -> None:
        for number, tensor in enumerate(self.tensors):
            hooks.on_gradient(tensor, self._before(number), self._after(number))

    def begins(self) -> None:
        """A backward pass begins. The hooks of tensors that FSDP has sharded never run: these are looked at here."""
        for number, tensor in enumerate(self.tensors):
            if is_spread(tensor):
                self._before(number)(tensor)

    def _before(self, number: int) -> Callable[[torch.Tensor], None]:
        def before(_: torch.Tensor) -> None:
            now = _state(self.tensors[number])
            if number == 0 and (now is None or now not in (self._used[0], self._last[0])):
                self.passes = 0  # what came before was reset: the first pass of sharpness-aware minimization
            if now is None:
                self.flags[number] = False
            elif now == self._used[number]:
                self.flags[number] = True
            elif now != self._last[number]:
                self.flags[number] = False

        return before

    def _after(self, number: int) -> Callable[[torch.Tensor], None]:
        def after(_: torch.Tensor) -> None:
            self._last[number] = _state(self.tensors[number])
            if number == 0:
                self.passes += 1
            if self.measures:
                self.sizes[number] = _size(self.tensors[number])

        return after

    def cleared(self) -> bool:
        """Whether backward passes have written gradients, and somebody has touched or dropped all of them since."""
        now = [_state(tensor) for tensor in self.tensors]
        return self.passes > 0 and all(one != last or one is None for one, last in zip(now, self._last, strict=True))

    def shrunk(self) -> float | None:
        """By which factor gradients are shorter than the backward pass has made them: what clipping has left."""
        sizes, self.sizes = self.sizes, [None] * len(self.tensors)
        found = [(was, _size(tensor)) for was, tensor in zip(sizes, self.tensors, strict=True) if was is not None]
        pairs = [torch.stack([was, now]) for was, now in found if now is not None and now.device == was.device]
        numbers = [pair.tolist() for pair in pairs]
        factors = [now / was for was, now in numbers if was > 0]
        return max(factors) if factors else None

    def updated(self) -> bool:
        """After an update: whether it used old gradients. The next ones are counted from here."""
        stale = any(self.flags)
        self.flags = [False] * len(self.tensors)
        self._used = [_state(tensor) for tensor in self.tensors]
        self.passes = 0
        return stale


def _size(tensor: torch.Tensor) -> torch.Tensor | None:
    grad = tensor.grad
    if grad is None or grad.layout != torch.strided:
        return None
    return local(grad).detach().norm().float()


def _state(tensor: torch.Tensor) -> tuple[int, int] | None:
    grad = None if tensor.grad is None else local(tensor.grad)  # FSDP adds to the local part
    return None if grad is None else (id(grad), grad._version)
