"""What all processes that have parts of the same tensors must know of an update before it begins: which gradients there
are. A process that lacks one would leave its part as it is, or be missed by the others, which wait for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stepwell.errors import UsageError


def check(counts: Sequence[float], sizes: Sequence[int], names: Sequence[str]) -> None:
    """Raise UsageError if some of the processes that have parts of a tensor have a gradient for it, and others none.

    Args:
        counts: of each tensor, how many processes have a gradient; the same in every process.
        sizes: of each tensor, how many processes have parts.
    """
    for count, size, name in zip(counts, sizes, names, strict=True):
        if count not in (0, size):
            raise UsageError(
                f"{name!r} has a gradient in {count:.0f} of {size} processes; all processes that have parts of a "
                "parameter must update it together, so nothing is updated"
            )


def agree(
    group: Any, names: Sequence[str], gradients: Sequence[Tensor | None], skips: bool, device: torch.device
) -> bool:
    """Whether the processes of a group make an update, which they do not if `skips`. Every one of them calls this: one
    all-reduce of 4 bytes for each tensor.

    Raises UsageError in all of them if they do not agree on that, or on the tensors that have a gradient.
    """
    present = [*(gradient is not None for gradient in gradients), skips]
    counts = torch.tensor(present, dtype=torch.int32, device=device)
    torch.distributed.all_reduce(counts, group=group)
    *found, skipping = counts.tolist()
    size = torch.distributed.get_world_size(group)
    if skipping not in (0, size):
        raise UsageError(
            f"found_inf is not 0 in {skipping} of {size} processes; all processes that have parts of a matrix must "
            "skip an update together, so nothing is updated"
        )
    check(found, [size] * len(names), names)
    return skipping == 0
