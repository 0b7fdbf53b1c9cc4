"""Where the first value that is not finite comes from: the input, a weight, a module, or the loss itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from stepwell.doctor.processes import plain
from stepwell.doctor.record import Parameter
from stepwell.doctor.untouched import untouched
from stepwell.engine.sharding import local


def hunt(
    inputs: Sequence[torch.Tensor], call: Any, tensors: Sequence[torch.Tensor], parameters: Sequence[Parameter],
    calls: bool = True,
) -> tuple[str, str]:  # fmt: skip
    """(origin, name). The model is called once more, with the same input, and put back, unless `calls` is False."""
    given = (
        [*inputs, *(one for one in pytree.tree_leaves(call[1:]) if isinstance(one, torch.Tensor))] if call else inputs
    )
    if any(x.is_floating_point() and not x.requires_grad and not bool(torch.isfinite(x).all()) for x in given):
        return "input", ""
    for tensor, parameter in zip(tensors, parameters, strict=True):
        if tensor.is_floating_point() and not bool(torch.isfinite(local(tensor).detach()).all()):
            return "weight", parameter.name
    if call is None:
        return "loss", ""
    if not calls:
        return "unknown", ""
    module, args, kwargs = call
    found = _first_module(plain(module), args, kwargs)
    return ("unknown", "") if found is None else ("module", found) if found else ("loss", "")


def _first_module(root: nn.Module, args: Any, kwargs: Any) -> str | None:
    """The first module whose output is not finite while its inputs are; "" if all are, None if that is not known."""
    first: list[str] = []
    handles = []

    def look(name: str) -> Any:
        def hook(module: nn.Module, given: Any, output: Any) -> None:
            if not first and not _finite(output) and _finite(given):
                first.append(f"{name} ({type(module).__name__})" if name else type(module).__name__)

        return hook

    for name, module in root.named_modules():
        if not any(True for _ in module.children()):
            handles.append(module.register_forward_hook(look(name)))
    try:
        with untouched([root]), torch.no_grad():
            output = root(*args, **kwargs)
        if not first and not _finite(output):
            first.append(type(root).__name__)
    except Exception:  # whatever the user's code raises when it is called again, and any collective
        return None
    finally:
        for handle in handles:
            handle.remove()
    return first[0] if first else ""


def _finite(values: Any) -> bool:
    return all(
        bool(torch.isfinite(one).all())
        for one in pytree.tree_leaves(values)
        if isinstance(one, torch.Tensor) and one.is_floating_point()
    )
