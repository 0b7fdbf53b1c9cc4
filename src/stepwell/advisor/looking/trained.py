"""Whether the weights of a module look trained: a hint, not a proof."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parameter import is_lazy

_SAMPLE = 20_000  # elements of a tensor that are looked at


@torch.no_grad()
def trained(model: nn.Module) -> str:
    """Why the weights look trained, in words; empty if they look as after an initialization.

    Every initialization leaves the weights of a norm equal to one another, and draws matrices from a uniform or a
    normal distribution. Training changes both.
    """
    norms = spread = matrices = heavy = 0
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, torch.Tensor) or is_lazy(weight):
            continue
        if (
            weight.device.type == "meta"
            or not weight.is_floating_point()
            or (not weight.requires_grad and weight.numel() == 0)
        ):
            continue
        if "Norm" in type(module).__name__ and weight.ndim == 1 and weight.numel() > 4:
            norms += 1
            spread += bool(weight.float().std() > 0.02)
        elif isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) and weight.numel() >= 4096:
            matrices += 1
            values = weight.flatten()[:_SAMPLE].float()
            values = values - values.mean()
            kurtosis = float(values.pow(4).mean() / values.pow(2).mean().clamp_min(1e-30).square())
            heavy += kurtosis > 3.6  # uniform 1.8, normal 3.0 with an error below 0.1 for 4,096 elements
    if norms and spread > norms / 2:
        return f"the weights of {spread} of {norms} norm layers differ from one another"
    if matrices >= 2 and heavy > matrices / 2:
        return f"{heavy} of {matrices} weight matrices are neither uniform nor normal"
    return ""
