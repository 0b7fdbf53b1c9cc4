"""Everything a sweep touches, and putting it back bit for bit, into the same tensors.

Weights, buffers, gradients, what requires gradients and training modes of the modules; state (and its absence) and
groups of the optimizer; the scaler; the random generators, those of the loader among them; and whatever else has
`state_dict` and `load_state_dict`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stepwell.errors import UsageError
from stepwell.optimizers.stepping import takes_factor
from stepwell.step.generators import generator_states, set_generator_states

Restore = Callable[[], None]


class Snapshot:
    """What was there when it was taken. `restore` may be called any number of times.

    Args:
        modules, optimizer, scaler: what is trained; the scaler may be None.
        others: schedulers and the like.
        generators: random generators by name, beside the global ones.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        optimizer: torch.optim.Optimizer,
        scaler: Any,
        others: Sequence[Any],
        generators: dict[str, Any],
    ) -> None:
        self._parts: list[Restore] = [_optimizer(optimizer)]
        self._parts += [_module(module) for module in modules]
        self._parts += [_tensor(p) for group in optimizer.param_groups for p in group["params"]]
        if scaler is not None:
            self._parts.append(_attributes(scaler))
        self._parts += [_stateful(other) for other in others]
        states = generator_states(generators)
        self._parts.append(lambda: set_generator_states(generators, states))

    def restore(self) -> None:
        for part in self._parts:
            part()


def _tensor(tensor: Tensor) -> Restore:
    """A parameter: its values, its gradient (the same tensor) and whether it requires one."""
    values, gradient, requires = tensor.detach().clone(), tensor.grad, tensor.requires_grad
    gradient_values = None if gradient is None else gradient.detach().clone()

    def restore() -> None:
        with torch.no_grad():
            tensor.detach().copy_(values)
            if gradient is not None and gradient_values is not None:
                gradient.detach().copy_(gradient_values)
        tensor.grad = gradient
        tensor.requires_grad_(requires)

    return restore


def _module(module: nn.Module) -> Restore:
    """Parameters, buffers (also those that are no part of its state_dict, and those replaced) and training modes."""
    parameters = [_tensor(p) for p in module.parameters()]
    parts = [(part, part.training, dict(part._buffers)) for part in module.modules()]
    buffers = {id(b): (b, b.detach().clone()) for _, _, held in parts for b in held.values() if b is not None}

    def restore() -> None:
        for part in parameters:
            part()
        with torch.no_grad():
            for buffer, values in buffers.values():
                buffer.detach().copy_(values)
        for part, training, held in parts:
            part.training = training
            part._buffers.clear()
            part._buffers.update(held)

    return restore


def _optimizer(optimizer: torch.optim.Optimizer) -> Restore:
    state = {tensor: _contents(slots) for tensor, slots in optimizer.state.items()}
    groups = [_contents({k: v for k, v in group.items() if k != "params"}) for group in optimizer.param_groups]
    attributes = _attributes(optimizer)
    own = {tensor: _contents(kept) for tensor, kept in getattr(optimizer, "own", {}).items()}  # a wrapper's
    inside = _optimizer(optimizer.base) if takes_factor(optimizer) and hasattr(optimizer, "base") else None

    def restore() -> None:
        attributes()
        if inside is not None:
            inside()
            optimizer.own = {tensor: _given_back(kept) for tensor, kept in own.items()}  # type: ignore[attr-defined]
            return
        optimizer.state.clear()
        for tensor, slots in state.items():
            optimizer.state[tensor] = _given_back(slots)
        for group, content in zip(optimizer.param_groups, groups, strict=True):
            for key in group.keys() - content.keys() - {"params"}:
                del group[key]
            group.update(_given_back(content))

    return restore


def _contents(values: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Each entry with a copy: a tensor is given back as the same tensor, all else as a new copy."""
    return {
        key: (value, value.detach().clone()) if isinstance(value, Tensor) else (None, copy.deepcopy(value))
        for key, value in values.items()
    }


def _given_back(contents: dict[str, tuple[Any, Any]]) -> dict[str, Any]:
    result = {}
    for key, (original, kept) in contents.items():
        if original is None:
            result[key] = copy.deepcopy(kept)
        else:
            with torch.no_grad():
                original.detach().copy_(kept)
            result[key] = original
    return result


_PLAIN = (bool, int, float, str, type(None))


def _attributes(owner: Any) -> Restore:
    """Tensors and plain values among the attributes; attributes that come later are taken away."""
    names = set(vars(owner))
    kept = {k: v.clone() if isinstance(v, Tensor) else v for k, v in vars(owner).items() if _is_plain(v)}

    def restore() -> None:
        for name in set(vars(owner)) - names:
            delattr(owner, name)
        for name, value in kept.items():
            setattr(owner, name, value.clone() if isinstance(value, Tensor) else value)

    return restore


def _is_plain(value: Any) -> bool:
    return isinstance(value, (*_PLAIN, Tensor))


def _stateful(other: Any) -> Restore:
    if isinstance(other, nn.Module):
        return _module(other)
    if isinstance(other, torch.optim.Optimizer):
        return _optimizer(other)
    if isinstance(other, torch.amp.GradScaler):
        return _attributes(other)
    if not (hasattr(other, "state_dict") and hasattr(other, "load_state_dict")):
        raise UsageError(
            f"find_lr: also has a {type(other).__name__}, which has no state_dict and load_state_dict; "
            "the finder could not put it back"
        )
    state = copy.deepcopy(other.state_dict())
    return lambda: other.load_state_dict(copy.deepcopy(state))
