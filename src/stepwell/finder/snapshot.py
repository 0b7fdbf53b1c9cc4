"""A snapshot of everything that a sweep changes, restored bit for bit into the same tensors.

A snapshot contains weights, buffers, gradients, `requires_grad` and training modes of the modules, and their other
attributes (a counter, a generator); state (or its absence) and groups of the optimizer; the scaler; the random
generators; the loader, its samplers and its data set; and further objects with `state_dict` and `load_state_dict`.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stepwell.engine.update import takes_factor
from stepwell.errors import UsageError
from stepwell.step.generators import generator_states, set_generator_states

Restore = Callable[[], None]


class Snapshot:
    """The values at the time of the snapshot. `restore` may be called any number of times.

    Args:
        modules, optimizer, scaler: the objects of the training; the scaler may be None.
        others: schedulers and the like.
        generators: random generators by name, in addition to the global generators.
        sources: the loader and its sources of data, restored only by `close`, so that a loader that continues from its
            position gives each order other data.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        optimizer: torch.optim.Optimizer,
        scaler: Any,
        others: Sequence[Any],
        generators: dict[str, Any],
        sources: Sequence[Any] = (),
    ) -> None:
        self._parts: list[Restore] = [_optimizer(optimizer)]
        self._parts += [_module(module) for module in modules]
        self._parts += [_tensor(p) for group in optimizer.param_groups for p in group["params"]]
        if scaler is not None:
            self._parts.append(_scaler(scaler))
        self._parts += [_stateful(other) for other in others]
        states = generator_states(generators)
        self._parts.append(lambda: set_generator_states(generators, states))
        self._sources = [_kept_beside(source, tensors=False) for source in sources]

    def restore(self) -> None:
        for part in self._parts:
            part()

    def close(self) -> None:
        """Restore everything, for the last time."""
        self.restore()
        for source in self._sources:
            source()


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
    """Parameters, buffers (including buffers that are not in the state_dict, and replaced buffers) and training
    modes."""
    parameters = [_tensor(p) for p in module.parameters()]
    parts = [(part, part.training, dict(part._buffers)) for part in module.modules()]
    # torch's own keep all in buffers, or what is no business of the finder's (DDP and FSDP: how they communicate).
    beside = [_kept_beside(p, tensors=True) for p in module.modules() if not type(p).__module__.startswith("torch.")]
    buffers = {id(b): (b, b.detach().clone()) for _, _, held in parts for b in held.values() if b is not None}

    def restore() -> None:
        for part in parameters:
            part()
        with torch.no_grad():
            for buffer, values in buffers.values():
                buffer.detach().copy_(values)
        for put_back in beside:
            put_back()
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
            # only a wrapper has something inside, and it has `own`
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
    """Each entry with a copy: a tensor is restored as the same tensor, any other value as a new copy."""
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
    """Tensors and plain values among the attributes; later attributes are removed."""
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


def _scaler(scaler: Any) -> Restore:
    """The scale, and whether the scaler has unscaled gradients since its last update: after an interruption between the
    two, the scaler would refuse to unscale again."""
    attributes = _attributes(scaler)
    stages = {key: dict(stage) for key, stage in getattr(scaler, "_per_optimizer_states", {}).items()}

    def restore() -> None:
        attributes()
        states = getattr(scaler, "_per_optimizer_states", {})
        states.clear()
        states.update({key: dict(stage) for key, stage in stages.items()})

    return restore


_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


def _generator(generator: Any) -> Restore:
    if isinstance(generator, random.Random):
        drawn = generator.getstate()
        return lambda: generator.setstate(drawn)
    if isinstance(generator, np.random.Generator):
        bits = copy.deepcopy(generator.bit_generator.state)
        return lambda: setattr(generator.bit_generator, "state", copy.deepcopy(bits))
    state = generator.get_state()
    return lambda: generator.set_state(state)


def _kept_beside(owner: Any, *, tensors: bool) -> Restore:
    """Numbers, generators, lists (their items, not the contents of the items) and, if requested, tensors among the
    attributes of an object of a user's class; later attributes are removed."""
    held = vars(owner)
    names = set(held)
    plain = {name: value for name, value in held.items() if _is_plain(value) or isinstance(value, list)}
    if not tensors:
        plain = {name: value for name, value in plain.items() if not isinstance(value, Tensor)}
    copies = [(v, v.detach().clone()) for v in plain.values() if isinstance(v, Tensor) and _is_comparable(v)]
    lists = [(value, list(value)) for value in plain.values() if isinstance(value, list)]
    generators = [_generator(value) for value in held.values() if _has_state(value)]

    def restore() -> None:
        for name in held.keys() - names:
            del held[name]
        held.update(plain)
        with torch.no_grad():
            for tensor, values in copies:
                if not torch.equal(tensor.detach(), values):  # what is expanded cannot be written to
                    tensor.detach().copy_(values)
        for items, before in lists:
            items[:] = before
        for put_back in generators:
            put_back()

    return restore


def _is_comparable(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and tensor.device.type != "meta"


def _has_state(value: Any) -> bool:
    return isinstance(value, _GENERATORS) and not isinstance(value, random.SystemRandom)


def _stateful(other: Any) -> Restore:
    if isinstance(other, nn.Module):
        return _module(other)
    if isinstance(other, torch.optim.Optimizer):
        return _optimizer(other)
    if isinstance(other, torch.amp.GradScaler):
        return _scaler(other)
    if not (hasattr(other, "state_dict") and hasattr(other, "load_state_dict")):
        raise UsageError(
            f"find_lr: also has a {type(other).__name__}, which has no state_dict and load_state_dict, "
            "so find_lr could not restore it; remove it from also"
        )
    state = copy.deepcopy(other.state_dict())
    return lambda: other.load_state_dict(copy.deepcopy(state))
