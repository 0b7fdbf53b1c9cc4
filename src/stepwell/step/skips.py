"""After many skipped updates in a row: one warning that names the first parameter whose gradient is not finite."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stepwell.arguments import whole
from stepwell.step.scaling import Scaling


class Skips:
    """Counts the skipped updates in a row.

    Args:
        limit: how many skipped updates in a row cause a warning; None never warns.
        scaling: the share in a GradScaler. A fresh scaler finds its scale by skipping updates until the scale is at
            most 1; these skips are not counted.
    """

    def __init__(self, limit: int | None, scaling: Scaling | None) -> None:
        self._limit = limit
        self._scaling = scaling
        self._row = 0
        self._warned = False

    def skipped(self) -> None:
        self._row += 1

    def updated(self) -> None:
        self._row, self._warned = 0, False

    def look(self, named: Sequence[tuple[str, Tensor]], found_inf: Tensor, first: bool) -> None:
        """Called with the gradients before an update. Reads the flag only if a warning is possible.

        Args:
            first: no update has happened yet.
        """
        if self._limit is None or self._warned or self._row + 1 < self._limit:
            return
        normal = self._scaling.normal_skips() if self._scaling is not None and first else 0
        if self._row + 1 < self._limit + normal or not bool(found_inf):
            return
        self._warned = True
        place = next((place for place, (_, tensor) in enumerate(named) if _broken(tensor.grad)), None)
        found = "every gradient is finite, their norm is not"
        if place is not None:
            name, tensor = named[place]
            shown = f"'{name}'" if name else f"parameter number {place} (of those that have a gradient)"
            also = ", nor is the parameter itself" if _broken(tensor) else ""
            found = f"the first is that of {shown}{also}"
        warnings.warn(
            f"Step: {self._row + 1 - normal} updates in a row were skipped because the gradient is not finite: "
            f"{found}; check the loss, lower lr, or resume from a checkpoint",
            UserWarning,
            stacklevel=6,
        )


def _broken(tensor: Tensor | None) -> bool:
    if tensor is None:
        return False
    if tensor.is_sparse:
        tensor = tensor.coalesce().values()
    return not bool(torch.isfinite(tensor.detach()).all())


def checked_warn_skipped(limit: Any) -> int | None:
    """`limit`, or UsageError."""
    return None if limit is None else whole("Step", "warn_skipped", limit, least=1, do="None never warns")
