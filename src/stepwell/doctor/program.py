"""The calls between the first forward pass of a step and its loss, written down so that they can be made again.

A probe asks what the loss of this batch would be with other weights. Nobody hands the doctor a function for that, so
the doctor writes the calls down: those of the models as whole calls, and the operations on their outputs one by one.
Made again with other weights, they give the loss of the same batch, whatever the loss function is.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from stepwell.doctor.processes import plain
from stepwell.doctor.untouched import device_rng, set_device_rng

MOST = 4000  # calls of one step that are written down
_IN_PLACE = frozenset(
    f"__i{name}__" for name in ("add", "sub", "mul", "truediv", "floordiv", "pow", "mod", "and", "or")
)
_BACKWARD = ("backward", "register_hook", "retain_grad", "zero_grad")


@dataclass(eq=False)
class Call:
    run: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any
    name: str
    autocast: tuple[tuple[str, torch.dtype], ...]


class Program(TorchFunctionMode):
    """A recording. `calls` in their order; `is_whole` is False where something cannot be made again."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.is_whole = True
        self.is_open = True
        self.entered = False
        self.made: set[int] = set()  # ids of tensors that the calls have computed; the calls keep them alive
        self.derived: set[int] = set()  # of those, the ids that depend on weights
        self.rng = torch.get_rng_state()
        self.device_rng = device_rng()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in _BACKWARD:
            self.is_open = False
        result = func(*args, **(kwargs or {}))
        if self.is_open:
            self._note(func, name, args, kwargs or {}, result)
        return result

    def pause(self) -> None:
        if self.entered:
            self.entered = False
            self.__exit__(None, None, None)

    def resume(self) -> None:
        if not self.entered and self.is_open:
            self.__enter__()
            self.entered = True

    def close(self) -> None:
        self.pause()
        self.is_open = False

    def add(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """A call of a whole model, made while the recording paused."""
        self._keep(Call(plain(module), args, kwargs, result, type(module).__name__, _autocast()))

    def _note(self, func: Any, name: str, args: Any, kwargs: dict[str, Any], result: Any) -> None:
        tensors = [one for one in pytree.tree_leaves(result) if isinstance(one, torch.Tensor)]
        changes = name in _IN_PLACE or name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
        if (changes and args and id(args[0]) not in self.made) or kwargs.get("out") is not None:
            self.is_whole = False  # a tensor of the user would be changed again
        if tensors or changes:
            self._keep(Call(func, tuple(args), kwargs, result, name, _autocast()))

    def _keep(self, call: Call) -> None:
        if len(self.calls) >= MOST:
            self.is_whole = self.is_open = False
            return
        self.calls.append(call)
        results = [id(one) for one in pytree.tree_leaves(call.result) if isinstance(one, torch.Tensor)]
        self.made.update(results)
        given = (one for one in pytree.tree_leaves((call.args, call.kwargs)) if isinstance(one, torch.Tensor))
        if isinstance(call.run, nn.Module) or any(id(one) in self.derived or one.requires_grad for one in given):
            self.derived.update(results)

    def computes(self, loss: torch.Tensor) -> bool:
        return self.is_whole and id(loss) in self.made

    def again(self, loss: torch.Tensor) -> float:
        """The loss, computed again with the weights of now, with the same random numbers."""
        torch.set_rng_state(self.rng)
        set_device_rng(self.device_rng)
        new: dict[int, Any] = {}

        def swap(value: Any) -> Any:
            return new.get(id(value), value) if isinstance(value, torch.Tensor) else value

        with torch.no_grad():
            for call in self.calls:
                with ExitStack() as stack:
                    for device, dtype in call.autocast:
                        stack.enter_context(torch.autocast(device, dtype=dtype))
                    args, kwargs = pytree.tree_map(swap, (call.args, call.kwargs))
                    result = call.run(*args, **kwargs)
                for old, now in zip(pytree.tree_leaves(call.result), pytree.tree_leaves(result), strict=True):
                    if isinstance(old, torch.Tensor):
                        new[id(old)] = now
                if call.result is loss:
                    break
        return float(new[id(loss)].float().sum()) if id(loss) in new else float("nan")


def _autocast() -> tuple[tuple[str, torch.dtype], ...]:
    devices = (device for device in ("cpu", "cuda") if torch.is_autocast_enabled(device))
    return tuple((device, torch.get_autocast_dtype(device)) for device in devices)
