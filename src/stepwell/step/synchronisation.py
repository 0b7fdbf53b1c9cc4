"""When the processes of a distributed run reduce their gradients: once per update instead of once per micro-batch.

Synchronization is never left disabled between the calls of a Step. How it is disabled depends on the model:

    FSDP2   `set_requires_gradient_sync` is read in the backward pass: disabled while a Step runs backward
    FSDP1   `no_sync` is read in the backward pass: likewise
    DDP     `no_sync` is read in the forward pass, before it is known who will run the backward pass. A hook on the
            model asks the Step that was made or called last, and exits `no_sync` when the forward pass ends.
            If the backward pass is then run by something else (a loop without a Step, another Step's last
            micro-batch), the reducer is prepared as that backward pass begins, and synchronizes after all.

An unneeded synchronization costs only time: the mean over the processes of gradients that are already equal is the
same.
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
    """The synchronization of one Step: whether its micro-batches are synchronized.

    Args:
        module: the model of the Step, or None.
    """

    def __init__(self, module: Any) -> None:
        self._gate = _gate_of(module)
        self.group = None if self._gate is None else self._gate.group  # by which `catch_up` averages
        self.groups = () if self._gate is None else self._gate.groups  # over which a backward pass averages
        self.quiet = False  # whether the coming micro-batch is not synchronised
        self._kept = False  # whether a model that is sharded may keep gradients outside of `grad`
        self.missed = False  # whether the last backward pass was not, so that its gradients are this process's own

    def before(self, last: bool) -> None:
        """Called before the forward pass of a micro-batch, with whether it is the last of its accumulation."""
        if self._gate is not None:
            self.quiet = not last
            self._gate.asked = weakref.ref(self)
            if self.quiet:
                self._gate.watch()

    @contextmanager
    def during_backward(self) -> Iterator[None]:
        """Context manager around a backward pass of the Step: synchronized or not, as set by `before`."""
        if self._gate is None:
            yield
            return
        self._kept = self._kept or self.quiet
        with self._gate.during_backward(self.quiet):
            yield
        self.missed = self._kept = self.quiet

    @property
    def keeps_gradients_in_place(self) -> bool:
        """Whether the gradients of an accumulation stay in `grad`: a sharded model may move them."""
        return self._gate is None or isinstance(self._gate, _Replicated)

    def drop(self) -> None:
        """Drop the gradients that a sharded model keeps of backward passes without synchronization."""
        if self._kept and self._gate is not None:
            self._gate.drop()
        self.missed = self._kept = False

    def check_cut_short(self) -> None:
        """Raise UsageError if unsynchronized gradients cannot be synchronized now."""
        if self.missed and self.group is None:
            raise UsageError(
                "Step: flush() follows a micro-batch whose gradients were not synchronized, and this model cannot "
                "synchronize them afterwards; iterate with `for batch in step.batches(loader)`, which knows the last "
                "batch"
            )

    def catch_up(self, tensors: list[Tensor]) -> None:
        """Average the gradients of a partial accumulation over the processes, as DDP would have done."""
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
    """The gate of a distributed model; None for any other model."""
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
    """Decides, for one distributed model, whether a pass is synchronized.

    Attributes:
        asked: the Synchronisation of the Step that was made or called last.
        called: the model, and compiled modules around it.
    """

    def __init__(self, module: Any) -> None:
        self._module = weakref.ref(module)
        self.group = getattr(module, "process_group", None) if hasattr(module, "no_sync") else None
        self.groups: tuple[Any, ...] = () if self.group is None else (self.group,)
        self.asked: Any = lambda: None
        self.called: weakref.WeakSet[Any] = weakref.WeakSet()
        self.backward: bool | None = None  # whether the backward pass that a Step runs is quiet; None: none runs

    @property
    def module(self) -> Any:
        module = self._module()
        assert module is not None
        return module

    def watch(self) -> None:
        """Decide about forward passes from now on, if the model reads `no_sync` there."""

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
        """Context manager: no synchronization inside."""
        return self.module.no_sync()

    def drop(self) -> None:
        """Drop gradients that are kept outside of `grad`."""


class _Sharded(_Gate):
    """FSDP2."""

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        found = next((group.mesh_info for group in self._groups_of_parameters()), None)
        names = ("replicate_process_group", "shard_process_group")  # HSDP has both
        self.groups = tuple(getattr(found, name) for name in names if hasattr(found, name))

    def _groups_of_parameters(self) -> Iterator[Any]:
        """FSDP's own objects for the parameters that it gathers together."""
        for part in self.module.modules():
            state = part._get_fsdp_state() if hasattr(part, "_get_fsdp_state") else None
            groups = getattr(state, "_fsdp_param_groups", None) or [getattr(state, "_fsdp_param_group", None)]
            yield from (group for group in groups if group is not None)

    @contextmanager
    def switched_off(self) -> Iterator[None]:
        module = self.module
        module.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            module.set_requires_gradient_sync(True)

    def drop(self) -> None:
        for group in self._groups_of_parameters():
            for parameter in getattr(group, "fsdp_params", ()):
                parameter.unsharded_accumulated_grad = None
                if hasattr(parameter, "_unsharded_param"):
                    parameter._unsharded_param.grad = None


class _Other(_Gate):
    """A model with another `no_sync` (FSDP1). It is entered in the forward pass as well, because it may be read
    there."""

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
        """Called when a forward pass begins."""
        if self._open is not None and self._opened_by() is module:
            self._leave()  # from a forward pass that an interrupt ended
        asked = self.asked()
        if self._open is None and asked is not None and asked.quiet and torch.is_grad_enabled():
            context = self.switched_off()
            self._open, self._opened_by = context, weakref.ref(module)
            context.__enter__()

    def end(self, module: Any, output: Any) -> None:
        """Called when a forward pass has ended."""
        if self._open is not None and self._opened_by() is module:
            self._leave()
            self._guard(output)

    def _leave(self) -> None:
        context, self._open = self._open, None
        assert context is not None
        context.__exit__(None, None, None)

    def _guard(self, output: Any) -> None:
        """Ensure that a backward pass through `output` outside a Step is synchronized or refused."""
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
        """Called if a forward pass returned no tensor, so that the start of its backward pass is not observed."""

    def synchronise_after_all(self) -> None:
        """Synchronize a backward pass whose forward pass was not synchronized."""
        raise UsageError(
            "Step: this forward pass was not synchronized because of a Step with accumulate, and its backward pass is "
            "not "
            "run by that Step; delete the Step before a loop without it (del step)"
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
    """The tensors in the result of a forward pass, as DDP finds them."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, dict):
        output = list(output.values())
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        output = [getattr(output, field.name) for field in dataclasses.fields(output)]
    if isinstance(output, (list, tuple)):
        return [tensor for item in output for tensor in _tensors(item)]
    return []
