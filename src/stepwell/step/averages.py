"""Averages of the weights (EMA): what is evaluated and deployed, while training goes on with the weights themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from stepwell.engine.gradients import is_finite_number
from stepwell.errors import UsageError


class Average:
    """An exponential moving average of the weights, one more copy of them in memory.

        average <- average + (1 - d) * (weights - average),    d = min(decay, (1 + n) / (10 + n)) after update n

    The second term lets the average forget the initial weights; without it (`warmup=False`, d = decay) it takes about
    1 / (1 - decay) updates until they are gone.

    Args:
        decay: in [0, 1). 0.999 averages over about 1,000 updates; 0.9999 suits runs of more than 100,000.
        warmup: whether d begins small.

    fp16 and bf16 weights are averaged in fp32: in bf16 an average of 0.999 would lose every update.
    `Step(optimizer, ema=0.999)` is the short form; `with step.averaged(): evaluate(model)` shows them.

    References: Polyak, Juditsky, "Acceleration of stochastic approximation by averaging", 1992; the warmup is that of
    TensorFlow's ExponentialMovingAverage (num_updates).
    """

    def __init__(self, decay: float = 0.999, *, warmup: bool = True) -> None:
        if not is_finite_number(decay) or not 0 <= decay < 1:
            raise UsageError(f"Average: decay={decay!r}; it must be in [0, 1), such as 0.999")
        self.decay, self.warmup = float(decay), warmup
        self.averages: list[Tensor] = []

    def start(self, weights: Sequence[Tensor]) -> None:
        """Begin with the weights as they are; weights that are added later begin when they come."""
        for tensor in weights[len(self.averages) :]:
            wide = torch.float32 if tensor.dtype in (torch.float16, torch.bfloat16) else tensor.dtype
            self.averages.append(tensor.detach().to(wide, copy=True))

    @torch.no_grad()
    def update(self, weights: Sequence[Tensor], number: int) -> None:
        """Take in the weights after update `number`, counting from 1."""
        self.start(weights)
        decay = min(self.decay, (1 + number) / (10 + number)) if self.warmup else self.decay
        by_kind: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
        for average, tensor in zip(self.averages, weights, strict=True):
            averages, current = by_kind.setdefault((tensor.device, tensor.dtype), ([], []))
            averages.append(average)
            current.append(tensor.detach())
        for (_, dtype), (averages, current) in by_kind.items():
            if averages[0].dtype != dtype:
                current = [tensor.to(averages[0].dtype) for tensor in current]
            torch._foreach_lerp_(averages, current, 1 - decay)

    @contextmanager
    def swapped_in(self, weights: Sequence[Tensor]) -> Iterator[None]:
        """The weights are the averages inside, and bit for bit what they were afterwards."""
        kept = self._exchange(weights, None)
        try:
            yield
        finally:
            self._exchange(weights, kept)

    @torch.no_grad()
    def _exchange(self, weights: Sequence[Tensor], kept: list[Tensor | None] | None) -> list[Tensor | None]:
        """Swap in place, with one tensor of extra memory; narrow weights, which lose bits, are kept as they are."""
        result: list[Tensor | None] = []
        for place, (average, tensor) in enumerate(zip(self.averages, weights, strict=True)):
            data = tensor.detach()
            original = None if kept is None else kept[place]
            if original is not None:
                data.copy_(original)
                result.append(None)
            elif average.dtype == data.dtype:
                before = data.clone()
                data.copy_(average)
                average.copy_(before)
                result.append(None)
            else:
                result.append(data.clone())
                data.copy_(average)
        return result

    def state_dict(self) -> dict[str, Any]:
        """The averages in the order of the weights."""
        return {"averages": list(self.averages)}

    def check(self, state: Mapping[str, Any], names: Sequence[str]) -> None:
        """Raise UsageError for the first average that does not fit."""
        saved = state.get("averages", ())
        if len(saved) != len(self.averages):
            raise UsageError(
                f"Average: the checkpoint has averages of {len(saved)} tensors, here there are {len(self.averages)}; "
                "it was saved from another model"
            )
        for name, mine, theirs in zip(names, self.averages, saved, strict=True):
            if mine.shape != theirs.shape:
                raise UsageError(
                    f"Average: the average of {name} has shape {tuple(theirs.shape)} in the checkpoint, "
                    f"the parameter {tuple(mine.shape)}; it was saved from another model"
                )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` gave; `check` has passed."""
        for mine, theirs in zip(self.averages, state["averages"], strict=True):
            mine.copy_(theirs)

    def __repr__(self) -> str:
        return f"Average({self.decay:g})"
