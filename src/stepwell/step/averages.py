"""Averages of the weights (EMA, SWA): what is evaluated and deployed, while training goes on with the weights.

Two ways: `Average`, exponential, forgets; `SWA`, uniform, does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from stepwell.engine.gradients import is_finite_number
from stepwell.errors import UsageError


class Averages:
    """What both have in common: a copy of the weights that follows them, saved with the run, swapped in to be used.

    fp16 and bf16 weights are averaged in fp32: in bf16 an average of 0.999 would lose every update.
    """

    takes_buffers = True  # whether the model's floating-point buffers are averaged along

    def __init__(self) -> None:
        self.averages: list[Tensor] = []

    def start(self, weights: Sequence[Tensor]) -> None:
        """Called with the weights as they are where the run begins."""

    def _copy(self, weights: Sequence[Tensor]) -> None:
        """Begin an average of every weight that has none."""
        for tensor in weights[len(self.averages) :]:
            wide = torch.float32 if tensor.dtype in (torch.float16, torch.bfloat16) else tensor.dtype
            self.averages.append(tensor.detach().to(wide, copy=True))

    def update(self, weights: Sequence[Tensor], number: int) -> None:
        """Take in the weights after update `number`, counting from 1."""
        raise NotImplementedError

    def follow(self, order: Sequence[int]) -> None:
        """From now on the weights come in another order: place i has those that were at place order[i]."""
        held = len(self.averages)
        self.averages = [self.averages[place] for place in order if place < held]

    @torch.no_grad()
    def _towards(self, weights: Sequence[Tensor], shares: Sequence[float]) -> None:
        """average <- average + share * (weights - average)"""
        by_kind: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
        for average, tensor, share in zip(self.averages, weights, shares, strict=True):
            averages, current = by_kind.setdefault((tensor.device, tensor.dtype, share), ([], []))
            averages.append(average)
            current.append(tensor.detach())
        for (_, dtype, share), (averages, current) in by_kind.items():
            if averages[0].dtype != dtype:
                current = [tensor.to(averages[0].dtype) for tensor in current]
            torch._foreach_lerp_(averages, current, share)

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
        return {"kind": type(self).__name__, "averages": list(self.averages)}

    def check(self, state: Mapping[str, Any], names: Sequence[str], weights: Sequence[Tensor]) -> None:
        """Raise UsageError for the first average that does not fit."""
        name, kind = type(self).__name__, state.get("kind", "Average")
        if kind != name:
            raise UsageError(f"Step: the checkpoint has averages of {kind}, this Step has {name}; make them alike")
        saved = state.get("averages", ())
        if not self._may_have(len(saved), len(weights)):
            raise UsageError(
                f"{name}: the checkpoint has averages of {len(saved)} tensors, here there are {len(weights)}; "
                "it was saved from another model"
            )
        for label, tensor, theirs in zip(names, weights, saved, strict=False):
            if tensor.shape != theirs.shape:
                raise UsageError(
                    f"{name}: the average of {label} has shape {tuple(theirs.shape)} in the checkpoint, "
                    f"the parameter {tuple(tensor.shape)}; it was saved from another model"
                )

    def _may_have(self, averages: int, weights: int) -> bool:
        """Whether a state may have so many averages of so many weights."""
        return averages == weights

    def load_state_dict(self, state: Mapping[str, Any], weights: Sequence[Tensor]) -> None:
        """Continue from what `state_dict` gave; `check` has passed."""
        saved = state["averages"]
        del self.averages[len(saved) :]
        self._copy(weights[: len(saved)])
        for mine, theirs in zip(self.averages, saved, strict=True):
            mine.copy_(theirs)


class Average(Averages):
    """An exponential moving average of the weights (EMA), one more copy of them in memory.

        average <- average + (1 - d) * (weights - average),    d = min(decay, (1 + n) / (10 + n)) after update n

    The second term lets the average forget the initial weights; without it (`warmup=False`, d = decay) it takes about
    1 / (1 - decay) updates until they are gone.

    Args:
        decay: in [0, 1). 0.999 averages over about 1,000 updates; 0.9999 suits runs of more than 100,000.
        warmup: whether d begins small.

    fp16 and bf16 weights are averaged in fp32. `Step(optimizer, ema=0.999)` is the short form;
    `with step.averaged(): evaluate(model)` shows them.

    References: Polyak, Juditsky, "Acceleration of stochastic approximation by averaging", 1992; the warmup is that of
    TensorFlow's ExponentialMovingAverage (num_updates).
    """

    def __init__(self, decay: float = 0.999, *, warmup: bool = True) -> None:
        if not is_finite_number(decay) or not 0 <= decay < 1:
            raise UsageError(f"Average: decay={decay!r}; it must be in [0, 1), such as 0.999")
        super().__init__()
        self.decay, self.warmup = float(decay), warmup

    def start(self, weights: Sequence[Tensor]) -> None:
        self._copy(weights)

    def update(self, weights: Sequence[Tensor], number: int) -> None:
        self._copy(weights)  # those that were added since begin now
        decay = min(self.decay, (1 + number) / (10 + number)) if self.warmup else self.decay
        self._towards(weights, [1 - decay] * len(weights))

    def __repr__(self) -> str:
        return f"Average({self.decay:g})"


class SWA(Averages):
    """Stochastic weight averaging: the plain mean of the weights at regular points of the end of training.

        average <- (n * average + weights) / (n + 1)    after the updates start, start + every, start + 2 * every, ...

    It finds flatter minima than the path that it averages, if that path goes on with a learning rate that stays high,
    constant or cyclic (then the lowest points of the cycles are taken).

    Args:
        start: the update after which the weights are taken in first, at least 1; 75 % of the run is usual.
        every: updates from one point to the next, at least 1: an epoch, or the length of a cycle.

    Before the first point there is no average, and no copy: `step.averaged()` shows the weights. fp16 and bf16 weights
    are averaged in fp32. Running statistics of batch norm are not averaged, they must be taken anew; with `model` the
    Step puts those of the training weights back:

    >>> step = Step(optimizer, average=SWA(start=7_500, every=100), model=model)
    >>> with step.averaged():
    ...     recalibrate(model, loader)
    ...     accuracy = evaluate(model)

    Reference: Izmailov, Podoprikhin, Garipov, Vetrov, Wilson, "Averaging weights leads to wider optima and better
    generalization", arXiv 1803.05407, algorithm 1.
    """

    takes_buffers = False

    def __init__(self, start: int, every: int = 1) -> None:
        for name, value in (("start", start), ("every", every)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UsageError(f"SWA: {name}={value!r}; it must be a whole number of updates, at least 1")
        super().__init__()
        self.first, self.every = start, every
        self.counts: list[int] = []  # how many points are in each average

    def update(self, weights: Sequence[Tensor], number: int) -> None:
        if number < self.first or (number - self.first) % self.every:
            return
        self._copy(weights)
        self.counts += [0] * (len(weights) - len(self.counts))
        self._towards(weights, [1 / (count + 1) for count in self.counts])
        self.counts = [count + 1 for count in self.counts]

    @contextmanager
    def swapped_in(self, weights: Sequence[Tensor]) -> Iterator[None]:
        with super().swapped_in(weights[: len(self.averages)]):  # what came after the last point has no average yet
            yield

    def follow(self, order: Sequence[int]) -> None:
        if 0 < len(self.averages) < len(order) and sorted(order) != list(order):
            raise UsageError(
                "SWA: some weights have come after its last point, and the new optimizer has them in another order; "
                "switch after the next point"
            )
        super().follow(order)
        self.counts = [self.counts[place] for place in order] if self.counts else []

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "counts": list(self.counts)}

    def _may_have(self, averages: int, weights: int) -> bool:
        return averages <= weights

    def load_state_dict(self, state: Mapping[str, Any], weights: Sequence[Tensor]) -> None:
        super().load_state_dict(state, weights)
        self.counts = list(state["counts"])

    def __repr__(self) -> str:
        return f"SWA(start={self.first}, every={self.every})"
