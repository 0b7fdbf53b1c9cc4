"""A check that nothing changes the gradients of an accumulation between two micro-batches."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

from torch import Tensor

from stepwell.errors import UsageError


class Left:
    """The gradients after the last micro-batch: each tensor, and its version counter.

    Two attributes per tensor and micro-batch; nothing is read from the device, and no gradient is kept alive.
    """

    def __init__(self) -> None:
        self._marks: list[tuple[int, int] | None] = []
        self._warned = False

    def note(self, named: Iterable[tuple[str, Tensor]]) -> None:
        self._marks = [_mark(tensor) for _, tensor in named]

    def drop(self) -> None:
        self._marks = []

    def check(self, named: Sequence[tuple[str, Tensor]], number: int) -> str | None:
        """Raise UsageError if gradients of the `number` accumulated micro-batches were dropped.

        Returns the name of the first parameter whose gradient was changed, for `warn`.
        """
        changed = None
        for (name, tensor), mark in zip(named, self._marks, strict=False):
            if mark is None or _mark(tensor) == mark:
                continue
            if tensor.grad is None or not bool((tensor.grad != 0).any() if not tensor.grad.is_sparse else True):
                raise UsageError(
                    f"Step: the gradients of {number} micro-batches of an update were dropped before the next "
                    f"micro-batch ({f'{name!r} has none' if name else 'by zero_grad()'}); remove zero_grad(): the Step "
                    "clears gradients itself, after the update"
                )
            changed = changed or name or "a parameter"
        return changed

    def warn(self, changed: str | None) -> None:
        if changed is not None and not self._warned:
            self._warned = True
            warnings.warn(
                f"Step: the gradient of {changed!r} was changed between two micro-batches, and the update uses "
                "the changed gradient; did another backward pass (freeze this model in it) or clipping in the loop "
                "change it?",
                UserWarning,
                stacklevel=4,
            )


def _mark(tensor: Tensor) -> tuple[int, int] | None:
    gradient = tensor.grad
    if gradient is None or hasattr(tensor, "_fsdp_flattened"):  # FSDP1 makes new views of gradients in each pass
        return None
    return id(gradient), gradient._version
