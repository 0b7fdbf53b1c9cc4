"""Many skipped updates in a row: one warning that names the first parameter whose gradient is not finite."""

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
        limit: with how many to warn; None: never.
        scaling: that of a GradScaler. Until the first update it may skip as many as it takes to come down to a scale
            of 1; that is how it finds its scale, and they are not counted.
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
        """Called with the gradients of an update that is about to be made. Reads the flag only where it may warn.

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
        found = "no single gradient is, their norm is not"
        if place is not None:
            name, tensor = named[place]
            shown = f"'{name}'" if name else f"parameter number {place} (of those that have one)"
            also = ", nor is the parameter itself" if _broken(tensor) else ""
            found = f"the first is that of {shown}{also}"
        warnings.warn(
            f"Step: {self._row + 1 - normal} updates in a row were skipped because the gradient is not finite: "
            f"{found}; look at the loss, lower lr, or go back to a checkpoint",
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
