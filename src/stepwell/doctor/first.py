"""What the models are at the start: their tensors, whose they are, and whether their values are fresh."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from stepwell.doctor.processes import kind
from stepwell.doctor.record import Parameter
from stepwell.engine.sharding import local

SENSITIVE = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout,
             nn.modules.batchnorm._BatchNorm)  # fmt: skip


def parameters(models: Sequence[nn.Module], optimizers: Sequence[Any]) -> tuple[list[Parameter], list[torch.Tensor]]:
    """The tensors of all models, each once, in the order of the models."""
    owners: dict[int, tuple[int, int]] = {}
    for number, optimizer in enumerate(optimizers):
        for index, group in enumerate(optimizer.param_groups):
            for tensor in group["params"]:
                owners.setdefault(id(tensor), (number, index))
    found: list[Parameter] = []
    tensors: list[torch.Tensor] = []
    seen: set[int] = set()
    for number, model in enumerate(models):
        prefix = f"{number}." if len(models) > 1 else ""
        for path, module in model.named_modules():
            for name, tensor in module.named_parameters(recurse=False):
                if id(tensor) in seen:
                    continue
                seen.add(id(tensor))
                owner = owners.get(id(tensor))
                found.append(
                    Parameter(
                        name=f"{prefix}{path}.{name}" if path else f"{prefix}{name}",
                        shape=tuple(tensor.shape),
                        numel=tensor.numel(),
                        dtype=tensor.dtype,
                        module=f"{prefix}{path}",
                        kind=kind(module),
                        trainable=tensor.requires_grad,
                        optimizer=owner[0] if owner else None,
                        group=owner[1] if owner else 0,
                        fresh=_is_fresh(module, name, tensor),
                        scale=_scale(module, name, tensor),
                        constant=_is_constant(tensor),
                    )
                )
                tensors.append(tensor)
    return found, tensors


def _values(tensor: torch.Tensor) -> torch.Tensor | None:
    tensor = local(tensor).detach()
    if tensor.is_meta or not tensor.is_floating_point() or tensor.numel() == 0:
        return None
    flat = tensor.reshape(-1)
    return (flat if flat.numel() <= 65536 else flat[:: flat.numel() // 65536]).float()


def _is_constant(tensor: torch.Tensor) -> bool:
    values = _values(tensor)
    return values is not None and tensor.dim() > 1 and values.numel() > 1 and bool((values == values[0]).all())


def _fan_in(module: nn.Module, name: str, tensor: torch.Tensor) -> int:
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) or tensor.dim() < 2:
        return 0
    if isinstance(module, nn.RNNBase):
        return module.hidden_size
    return math.prod(tensor.shape[1:])  # of a sharded tensor, the whole shape


def _scale(module: nn.Module, name: str, tensor: torch.Tensor) -> float | None:
    """RMS in units of 1/sqrt(fan-in): 0.58 for torch's linear layers."""
    values, fan_in = _values(tensor), _fan_in(module, name, tensor)
    if values is not None and isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        fan_in = 1  # rows are not summed: 1 for torch's embeddings
    if values is None or fan_in == 0:
        return None
    return float(values.square().mean().sqrt()) * math.sqrt(fan_in)


def _is_fresh(module: nn.Module, name: str, tensor: torch.Tensor) -> bool | None:
    """Whether the values look drawn by torch's own initialization: uniform within 1/sqrt(fan-in), up to the edge."""
    values, fan_in = _values(tensor), _fan_in(module, name, tensor)
    if values is not None and isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and values.numel() >= 64:
        rms, mean = float(values.square().mean().sqrt()), float(values.mean())
        return abs(rms - 1) < 0.06 and abs(mean) < 0.06  # drawn from a normal distribution, and trained by nobody
    if values is None or fan_in == 0 or values.numel() < 16:
        return None
    if not isinstance(module, (nn.Linear, nn.modules.conv._ConvNd, nn.RNNBase)):
        return None
    bound = 1 / math.sqrt(fan_in)
    largest = float(values.abs().max())
    moment = float(values.square().mean()) / bound**2  # 1/3 for a uniform distribution
    return (
        largest <= bound * (1 + 1e-4)
        and largest > bound * 0.8
        and abs(moment - 1 / 3) < 0.3 / math.sqrt(values.numel()) + 0.02
    )


def sensitive(models: Sequence[nn.Module]) -> list[tuple[str, nn.Module]]:
    """The modules that act differently in the two modes."""
    return [
        (name, module)
        for model in models
        for name, module in model.named_modules()
        if isinstance(module, SENSITIVE) and getattr(module, "p", 1.0) != 0
    ]
