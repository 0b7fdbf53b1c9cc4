"""Gradient accumulation: the share of each micro-batch in the whole batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stepwell.arguments import FINITE, MOST, plain_number, whole
from stepwell.engine.gradients import Factor
from stepwell.errors import UsageError, shown

Weight = int | float | Tensor


class Shares:
    """Weights of the micro-batches in an accumulation. The gradient of the whole batch is sum_i w_i g_i / sum_i w_i,
    but the sum of the weights is known only at the last micro-batch.

    So each loss is multiplied by w_i / (w_0 * n) before backward. That is about its share, 1/n, so gradients keep their
    magnitude, as fp16 needs. The summed gradients are then multiplied by

        n * w_0 / sum_i w_i,

    which is 1 for equal weights and a full accumulation. The optimizer applies this number as part of its gradient
    factor.

    Args:
        length: n, the number of micro-batches in a full accumulation.
        groups: the process groups over which gradients are averaged: one, two for HSDP, none for one process. If
            weights are given, they may differ between processes: w_0 is 1, and the sum of the weights is taken over
            all processes. Whether they are given must be the same in every process; whether they are equal need not.

    Attributes:
        number: how many micro-batches have been accumulated so far.
        accumulate: how many micro-batches the next update takes. It may be set between updates; losses are divided by
            `length`.
    """

    def __init__(self, length: int, groups: Sequence[Any] = ()) -> None:
        self.length = self.accumulate = length
        self.groups = tuple(groups)
        self.number = 0
        self._first: Weight = 1
        self._total: Weight = 0
        self._losses: Tensor | None = None  # sum_i w_i loss_i
        self._given = False  # whether a micro-batch of this accumulation had a weight

    def __str__(self) -> str:
        return f"{self.number} of {self.accumulate} micro-batches"

    def check_none_in(self, instead: str) -> None:
        """Raise UsageError if an accumulation is incomplete."""
        if self.number:
            raise UsageError(
                f"Step: {self} of an update have been accumulated{instead} (done.updated), or call flush() first"
            )

    def check_length(self, batches: int | None) -> None:
        """Raise UsageError for a loader, of known length, with fewer batches than one accumulation."""
        if batches is not None and batches < self.accumulate:
            raise UsageError(
                f"Step: the loader has {batches} batches, fewer than accumulate={self.accumulate}; "
                f"set accumulate to at most {max(batches, 1)}, or make the batches smaller"
            )

    def next(self, weight: Weight | None) -> Factor:
        """The factor for the next loss. Without a weight it counts as much as the others."""
        self._given = self._given or weight is not None
        weight = 1 if weight is None else weight
        if self.number == 0:
            self._first = weight
            if isinstance(weight, Tensor):  # a micro-batch of padding alone must not become the measure of the others
                self._first = torch.where(weight > 0, weight, 1)
            if self.groups:
                self._first = 1
            self._total, self._losses = 0, None
        self._total = self._total + weight
        self.number += 1
        share = weight / (self._first * self.length)
        return share if isinstance(share, Tensor) else float(share)

    def rest(self) -> Factor:
        """The remaining factor for the summed gradients."""
        if not self._given and self.number == self.length:
            return 1.0
        if self.groups and self._given:
            device = self._total.device if isinstance(self._total, Tensor) else _device_of(self.groups[0])
            total = torch.as_tensor(self._total, dtype=torch.float64, device=device).clone()
            for group in self.groups:
                torch.distributed.all_reduce(total, group=group)
            processes = math.prod(torch.distributed.get_world_size(group) for group in self.groups)
            return self.length * processes / total.to(torch.float32)
        rest = self.length * self._first / self._total
        return rest if isinstance(rest, Tensor) else float(rest)

    def mean(self, loss: Tensor, weight: Weight | None) -> Tensor:
        """The mean loss of this process's accumulation, including `loss`."""
        weighted = _weighted(loss, 1 if weight is None else weight)
        if self.number == 1:
            self._losses = weighted
            return loss
        assert self._losses is not None
        self._losses = self._losses + weighted
        return self._losses / self._total

    def mean_so_far(self) -> Tensor:
        """The mean loss of the micro-batches accumulated so far."""
        assert self._losses is not None
        return self._losses / self._total

    def restart(self) -> None:
        """The next micro-batch is the first."""
        self.number = 0
        self._given = False


def _weighted(loss: Tensor, weight: Weight) -> Tensor:
    """The weighted loss in fp32 or wider: an fp16 loss times many tokens overflows. A micro-batch of weight 0 counts as
    loss 0: its mean over no samples is nan."""
    wide = loss.to(torch.promote_types(loss.dtype, torch.float32))
    if isinstance(weight, Tensor):
        return torch.where(weight.to(wide.device).reshape(()) > 0, wide * weight.to(wide.device), 0.0)
    return wide * weight if weight != 1 else wide


def checked_accumulate(accumulate: Any) -> int:
    """The number of micro-batches of an update, or UsageError."""
    return whole("Step", "accumulate", accumulate, least=1)


def checked_weight(weight: Any) -> Weight:
    """The weight of a micro-batch, or UsageError. A tensor may be 0 (a batch of padding); a tensor on a GPU is not
    waited for."""
    if isinstance(weight, Tensor):
        if weight.numel() != 1:
            raise UsageError(f"Step: weight has shape {tuple(weight.shape)}; it must be one number, as mask.sum()")
        real = weight.layout == torch.strided and not (weight.is_complex() or weight.is_meta)
        if real and (weight.device.type != "cpu" or 0 <= weight.item() < math.inf):
            return weight
    else:
        plain = plain_number(weight)
        if plain is not None and 0 < plain <= FINITE:
            return plain if plain <= MOST else float(plain)  # a tensor takes no larger whole number
    raise UsageError(
        f"Step: weight={shown(weight)}; it must be a finite number above 0, the number of samples or tokens that "
        "the loss averages over (skip a micro-batch that has none)"
    )


def _device_of(group: Any) -> str:
    return "cuda" if torch.distributed.get_backend(group) == "nccl" else "cpu"
