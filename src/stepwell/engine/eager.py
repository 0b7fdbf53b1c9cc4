"""The backend that defines what the others must compute: the rule and its frame on torch tensors, one by one."""

from __future__ import annotations

import numpy as np
import torch

from stepwell.engine.formats import working_dtype
from stepwell.engine.frame import frame
from stepwell.engine.plan import Launch, LaunchKind


def refusal(kind: LaunchKind, tensor: torch.Tensor) -> str | None:
    """Nothing is refused: every tensor that torch can compute with."""
    return None


def prepare(launch: Launch) -> None:
    """Nothing is kept between steps."""


@torch.no_grad()
def run(launch: Launch, rows: np.ndarray, gradient_factor: float) -> None:
    """Update every tensor of `launch` that has a gradient."""
    kind = launch.kind
    dtype = working_dtype(kind.weights)
    for index in launch.active():
        tensor, gradient = launch.tensors[index].detach(), launch.gradients[index].detach()
        row = dict(zip(kind.row_names, rows[launch.groups[index]].tolist(), strict=True))
        launch.steps[index] += 1
        p, slots = frame(
            kind.rule,
            (gradient.to_dense() if gradient.is_sparse else gradient).to(dtype),
            tensor.to(dtype),
            float(launch.steps[index]),
            [None if stored is None else stored[index].to(dtype) for stored in launch.slots],
            lr=row["lr"],
            weight_decay=row["weight_decay"],
            gradient_factor=row["gradient_sign"] * gradient_factor,
            decay=kind.decay,
            **{name: row[name] for name in kind.number_arguments},
            **dict(kind.flags),
        )
        tensor.copy_(p)
        for stored, new in zip(launch.slots, slots, strict=True):
            if stored is not None:
                stored[index].copy_(new)
