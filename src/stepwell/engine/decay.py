"""How weight decay acts, in an optimizer of stepwell or of torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from stepwell.engine.optimizer import Optimizer

# Where torch's optimizers do not say it in their groups.
_OF_TORCH = {"AdamW": "decoupled", "Adafactor": "decoupled", "Muon": "decoupled"}


def decay_of(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> str | None:
    """How weight decay acts in a group: "coupled" (in the gradient), "decoupled" (by lr * weight_decay), or None for
    anything else or unknown."""
    name = type(optimizer).__name__
    if isinstance(optimizer, Optimizer):
        return optimizer.decay_of(group) or optimizer.decay_by_rule
    if "decoupled_weight_decay" in group:
        return "decoupled" if group["decoupled_weight_decay"] else "coupled"
    if type(optimizer).__module__.startswith("torch.optim"):
        return _OF_TORCH.get(name, "coupled")
    return None
