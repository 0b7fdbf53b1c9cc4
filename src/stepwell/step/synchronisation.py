"""When the processes of a distributed run add up their gradients: once per update instead of once per micro-batch.

Nothing is left switched off between the calls of a Step. What is switched off, and for how long, depends on the model:

    FSDP2   `set_requires_gradient_sync` is read in the backward pass: off during one that a Step runs itself
    FSDP1   `no_sync` is read in the backward pass: likewise
    DDP     `no_sync` is read in the forward pass, before anybody knows who will run the backward pass. A hook on the
            model asks the Step that was made or called last, and leaves `no_sync` again when the forward pass ends.
            Where the backward pass then turns out to be another one (of a loop without a Step, of another Step's last
            micro-batch), the reducer is made ready as that backward pass begins, and synchronises after all.

A forward pass that is synchronised although it need not be costs time and nothing else: the mean over the processes of
gradients that are equal already is the same.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor

from stepwell.errors import UsageError


class Synchronisation:
    """The side of one Step: whether its micro-batches are synchronised.

    Args:
        module: the model of the Step, or None.
    """

    def __init__(self, module: Any) -> None:
        self._gate = _gate_of(module)
        self.group = None if self._gate is None else self._gate.group
        self.quiet = False  # whether the coming micro-batch is not synchronised
        self._kept = False  # whether a model that is sharded may keep gradients outside of `grad`
        self.missed = False  # whether the last backward pass was not, so that its gradients are this process's own

    def before(self, last: bool) -> None:
        """Called before the forward pass of a micro-batch: whether it is the last of its accumulation."""
        if self._gate is not None:
            self.quiet = not last
            self._gate.asked = weakref.ref(self)
            if self.quiet:
                self._gate.watch()

    @contextmanager
    def during_backward(self) -> Iterator[None]:
        """Around a backward pass that the Step runs: synchronised or not, as `before` said."""
        if self._gate is None:
            yield
            return
        self._kept = self._kept or self.quiet
        with self._gate.during_backward(self.quiet):
            yield
        self.missed = self._kept = self.quiet

    @property
    def keeps_gradients_in_place(self) -> bool:
        """Whether the gradients of an accumulation stay where a backward pass left them: a sharded model moves them."""
        return self._gate is None or isinstance(self._gate, _Replicated)

    def drop(self) -> None:
        """Forget what a sharded model keeps of backward passes that were not synchronised."""
        if self._kept and self._gate is not None:
            self._gate.drop()
        self.missed = self._kept = False

    def check_cut_short(self) -> None:
        """Raise UsageError if gradients that were left unsynchronised cannot be synchronised now."""
        if self.missed and self.group is None:
            raise UsageError(
                "Step: flush() comes after a micro-batch whose gradients were not synchronised, and this model cannot "
                "do it afterwards; iterate with `for batch in step.batches(loader)`, which knows which is last"
            )

    def catch_up(self, tensors: list[Tensor]) -> None:
        """Average over the processes the gradients of an accumulation that was cut short, as DDP would have."""
        if not self.missed:
            return
        size = torch.distributed.get_world_size(self.group)
        for tensor in tensors:
            if tensor.grad is None:  # another process may have one
                tensor.grad = torch.zeros_like(tensor)
            torch.distributed.all_reduce(tensor.grad, group=self.group)
            tensor.grad.div_(size)


_GATES: weakref.WeakKeyDictionary[Any, _Gate] = weakref.WeakKeyDictionary()  # one for all Steps of a model


def _gate_of(module: Any) -> _Gate | None:
    """The gate of a distributed model, None of any other."""
    if hasattr(module, "set_requires_gradient_sync"):
        kind: type[_Gate] = _Sharded
        inner = module
    elif hasattr(module, "no_sync"):
        inner = getattr(module.no_sync, "__self__", module)  # a compiled model hands on what is asked of it
        is_ddp = isinstance(inner, torch.nn.parallel.DistributedDataParallel)
        kind = _Replicated if is_ddp else _Other
    else:
        return None
    if inner not in _GATES:
        _GATES[inner] = kind(inner)
    gate = _GATES[inner]
    if module is not inner:
        _GATES[module] = gate
    gate.called.add(module)
    return gate


class _Gate:
    """What decides, for one distributed model, whether a pass is synchronised.

    Attributes:
        asked: the Synchronisation of the Step that was made or called last.
        called: the model, and what is compiled around it.
    """

    def __init__(self, module: Any) -> None:
        self._module = weakref.ref(module)
        self.group = getattr(module, "process_group", None) if hasattr(module, "no_sync") else None
        self.asked: Any = lambda: None
        self.called: weakref.WeakSet[Any] = weakref.WeakSet()
        self.backward: bool | None = None  # whether the backward pass that a Step runs is quiet; None: none runs

    @property
    def module(self) -> Any:
        module = self._module()
        assert module is not None
        return module

    def watch(self) -> None:
        """Decide about forward passes from now on, where they matter."""

    @contextmanager
    def during_backward(self, quiet: bool) -> Iterator[None]:
        self.backward = quiet
        try:
            if quiet:
                with self.switched_off():
                    yield
            else:
                yield
        finally:
            self.backward = None

    def switched_off(self) -> AbstractContextManager[Any]:
        """Not synchronised inside."""
        return self.module.no_sync()

    def drop(self) -> None:
        """Forget gradients that are kept outside of `grad`."""


class _Sharded(_Gate):
    """FSDP2."""

    @contextmanager
    def switched_off(self) -> Iterator[None]:
        module = self.module
        module.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            module.set_requires_gradient_sync(True)

    def drop(self) -> None:
        for part in self.module.modules():
            state = part._get_fsdp_state() if hasattr(part, "_get_fsdp_state") else None
            groups = getattr(state, "_fsdp_param_groups", None) or [getattr(state, "_fsdp_param_group", None)]
            for group in groups:
                for parameter in getattr(group, "fsdp_params", ()):
                    parameter.unsharded_accumulated_grad = None
                    if hasattr(parameter, "_unsharded_param"):
                        parameter._unsharded_param.grad = None


class _Other(_Gate):
    """A model with `no_sync` of another kind (FSDP1), entered in the forward pass, too, in case it is read there."""

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self._watched: weakref.WeakSet[Any] = weakref.WeakSet()
        self._open: AbstractContextManager[Any] | None = None  # during a forward pass
        self._opened_by: Any = lambda: None

    def watch(self) -> None:
        for module in self.called - self._watched:
            module.register_forward_pre_hook(_before_forward)
            module.register_forward_hook(_after_forward, always_call=True)
            self._watched.add(module)

    def enter(self, module: Any) -> None:
        """A forward pass begins."""
        if self._open is not None and self._opened_by() is module:
            self._leave()  # from a forward pass that an interrupt ended
        asked = self.asked()
        if self._open is None and asked is not None and asked.quiet and torch.is_grad_enabled():
            context = self.switched_off()
            self._open, self._opened_by = context, weakref.ref(module)
            context.__enter__()

    def end(self, module: Any, output: Any) -> None:
        """A forward pass has ended."""
        if self._open is not None and self._opened_by() is module:
            self._leave()
            self._guard(output)

    def _leave(self) -> None:
        context, self._open = self._open, None
        assert context is not None
        context.__exit__(None, None, None)

    def _guard(self, output: Any) -> None:
        """See to it that a backward pass through `output` that is no Step's is synchronised or refused."""
        if hasattr(self.module, "_fsdp_wrapped_module"):  # FSDP1 asks in the backward pass
            return
        gate = weakref.ref(self)

        def as_backward_begins(gradient: Tensor) -> None:
            mine = gate()
            if mine is not None and mine.backward is not True:
                mine.synchronise_after_all()

        found = [tensor for tensor in _tensors(output) if tensor.requires_grad]
        for tensor in found:
            tensor.register_hook(as_backward_begins)
        if not found and output is not None:
            self.unguarded()

    def unguarded(self) -> None:
        """No tensor was found in what a forward pass returned, so nobody will say when its backward pass begins."""

    def synchronise_after_all(self) -> None:
        """A forward pass was not synchronised, and its backward pass is to be."""
        raise UsageError(
            "Step: this forward pass was left unsynchronised for a Step with accumulate, and its backward pass is not "
            "that Step's; delete the Step before a loop without it (del step)"
        )


class _Replicated(_Other):
    """DistributedDataParallel."""

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self._done = -1  # the backward pass that was made ready last

    def synchronise_after_all(self) -> None:
        module = self.module
        if module.find_unused_parameters or module.static_graph:  # the reducer would need the outputs
            super().synchronise_after_all()
        now = torch._C._current_graph_task_id() if hasattr(torch._C, "_current_graph_task_id") else -1
        if now == -1 or now != self._done:
            self._done = now
            module.reducer.prepare_for_forward()
            module.reducer.prepare_for_backward([])
            module.require_forward_param_sync = True

    def unguarded(self) -> None:
        if not (self.module.find_unused_parameters or self.module.static_graph):
            self.synchronise_after_all()


# Hooks are functions of the module, not closures: a copy of the model carries them along, and they do nothing there.


def _before_forward(module: Any, inputs: Any) -> None:
    gate = None if torch.compiler.is_compiling() else _GATES.get(module)
    if isinstance(gate, _Other):
        gate.enter(module)


def _after_forward(module: Any, inputs: Any, output: Any) -> None:
    gate = None if torch.compiler.is_compiling() else _GATES.get(module)
    if isinstance(gate, _Other):
        gate.end(module, output)


def _tensors(output: Any) -> list[Tensor]:
    """The tensors in what a forward pass returned, as DDP finds them."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, dict):
        output = list(output.values())
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        output = [getattr(output, field.name) for field in dataclasses.fields(output)]
    if isinstance(output, (list, tuple)):
        return [tensor for item in output for tensor in _tensors(item)]
    return []
