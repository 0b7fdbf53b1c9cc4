"""Averages of the weights (EMA, SWA), for evaluation and deployment. Training continues with the weights themselves.

`Average` is exponential and forgets old weights; `SWA` is uniform and does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from stepwell.arguments import flag, fraction, whole
from stepwell.engine.sharding import placed_like
from stepwell.errors import UsageError

Weights = Mapping[str, Tensor] | Sequence[Tensor]  # by name, or by place


class Averages:
    """Base class: a copy of the weights that is updated with them, saved with the run, and swapped in for evaluation.

    Each average is identified by the name of its tensor, so a buffer that a module creates with its first batch shifts
    no others.
    fp16 and bf16 weights are averaged in fp32: in bf16 an average of 0.999 would lose every update.
    """

    takes_buffers = True  # whether the model's floating-point buffers are averaged along

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    @property
    def averages(self) -> list[Tensor]:
        """The averages, in the order of their weights."""
        return list(self._held.values())

    def start(self, weights: Weights) -> None:
        """Called with the initial weights of the run."""

    def _copy(self, weights: Mapping[str, Tensor]) -> None:
        """Start an average for every weight that has none, or whose average has another shape (a buffer that was
        recreated)."""
        for name, tensor in weights.items():
            if name not in self._held or self._held[name].shape != tensor.shape:
                self._held[name] = _wide(tensor)
                self._begun(name)
        if len(self._held) > len(weights):  # the model has lost some
            self._held = {name: self._held[name] for name in weights}

    def _begun(self, name: str) -> None:
        """Called for an average that has just started."""

    def update(self, weights: Weights, number: int) -> None:
        """Add the weights after update `number`, counting from 1."""
        raise NotImplementedError

    def follow(
        self, order: Sequence[int], before: Sequence[str] | None = None, after: Sequence[str] | None = None
    ) -> None:
        """Reorder the averages: new position i takes the average that was at order[i].

        Args:
            before, after: the names of the weights, where they have names.
        """
        before = [str(place) for place in range(len(order))] if before is None else before
        after = [str(place) for place in range(len(order))] if after is None else after
        pairs = [(before[place], name) for place, name in zip(order, after, strict=True)]
        self._held = {new: self._held[old] for old, new in pairs if old in self._held}

    @torch.no_grad()
    def _towards(self, weights: Mapping[str, Tensor], shares: Mapping[str, float]) -> None:
        """average <- average + share * (weights - average)"""
        by_kind: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
        for name, tensor in weights.items():
            averages, current = by_kind.setdefault((tensor.device, tensor.dtype, shares[name]), ([], []))
            averages.append(self._held[name])
            current.append(tensor.detach())
        for (_, dtype, share), (averages, current) in by_kind.items():
            if averages[0].dtype != dtype:
                current = [tensor.to(averages[0].dtype) for tensor in current]
            torch._foreach_lerp_(averages, current, share)

    @contextmanager
    def swapped_in(self, weights: Weights) -> Iterator[None]:
        """Context manager: use the averages as weights inside, restore the training weights exactly on exit."""
        there = {
            name: tensor
            for name, tensor in _by_name(weights).items()
            if name in self._held and self._held[name].shape == tensor.shape  # others have no average yet
        }
        kept = self._exchange(there, {})
        try:
            yield
        finally:
            self._exchange(there, kept)

    @torch.no_grad()
    def _exchange(self, weights: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Swap in place, with one tensor of extra memory. A copy of fp16 and bf16 weights is kept, because the swap
        would round them."""
        result: dict[str, Tensor] = {}
        for name, tensor in weights.items():
            average, data = self._held[name], tensor.detach()
            if name in kept:
                data.copy_(kept[name])
            elif average.dtype == data.dtype:
                before = data.clone()
                data.copy_(average)
                average.copy_(before)
            else:
                result[name] = data.clone()
                data.copy_(average)
        return result

    def state_dict(self) -> dict[str, Any]:
        """The averages and the names of their weights."""
        return {"kind": type(self).__name__, "averages": self.averages, "names": list(self._held)}

    def check(self, state: Mapping[str, Any], weights: Weights) -> None:
        """Raise UsageError for the first average that does not fit."""
        name, kind = type(self).__name__, state.get("kind", "Average")
        if kind != name:
            raise UsageError(f"Step: the checkpoint has averages of {kind}, this Step has {name}; use the same kind")
        saved = state.get("averages", ())
        here = _by_name(weights)
        if not self._may_have(len(saved), len(here)):
            raise UsageError(
                f"{name}: the checkpoint has averages of {len(saved)} tensors, this model has {len(here)}; "
                "it was saved from a different model"
            )
        for label, theirs in self._assigned(state, here).items():
            if label not in here:
                raise UsageError(
                    f"{name}: the checkpoint contains an average of {label}, which this model does not have; "
                    "it was saved from a different model"
                )
            if not isinstance(theirs, Tensor) or here[label].shape != theirs.shape:
                found = tuple(theirs.shape) if isinstance(theirs, Tensor) else type(theirs).__name__
                raise UsageError(
                    f"{name}: the average of {label} has shape {found} in the checkpoint, "
                    f"the parameter {tuple(here[label].shape)}; it was saved from a different model"
                )
            if theirs.is_floating_point() != here[label].is_floating_point():
                raise UsageError(f"{name}: the average of {label} is {theirs.dtype} in the checkpoint")

    def _assigned(self, state: Mapping[str, Any], here: Mapping[str, Tensor]) -> dict[str, Any]:
        """The saved averages by the names of this model; by position where either side has no names."""
        saved = list(state["averages"])
        names = state.get("names")
        if names is None or (
            len(saved) == len(here) and set(names) != here.keys() and any(_is_place(one) for one in [*names, *here])
        ):
            names = list(here)[: len(saved)]
        if len(names) != len(saved):
            raise UsageError(
                f"{type(self).__name__}: the checkpoint has {len(saved)} averages and {len(names)} names; "
                "was it changed after it was saved?"
            )
        return dict(zip(names, saved, strict=True))

    def _may_have(self, averages: int, weights: int) -> bool:
        """Whether a state may have this many averages for this many weights."""
        return averages == weights

    def load_state_dict(self, state: Mapping[str, Any], weights: Weights) -> None:
        """Load the result of `state_dict`, after `check` has passed. The tensors held until now are not written to."""
        here = _by_name(weights)
        assigned = self._assigned(state, here)
        held: dict[str, Tensor] = {}
        for name, tensor in here.items():
            if name in assigned:
                held[name] = _wide(tensor)
                held[name].copy_(placed_like(assigned[name], tensor))
        self._held = held


def _wide(tensor: Tensor) -> Tensor:
    wide = torch.float32 if tensor.dtype in (torch.float16, torch.bfloat16) else tensor.dtype
    return tensor.detach().to(wide, copy=True)


def _by_name(weights: Weights) -> Mapping[str, Tensor]:
    return weights if isinstance(weights, Mapping) else {str(place): one for place, one in enumerate(weights)}


def _is_place(name: str) -> bool:
    return name.startswith("number ") or name.isdecimal()


class Average(Averages):
    """An exponential moving average of the weights (EMA). It costs one more copy of the weights in memory.

        average <- average + (1 - d) * (weights - average),    d = min(decay, (1 + n) / (10 + n)) after update n

    The second term lets the average forget the initial weights; without it (`warmup=False`, d = decay) this takes about
    1 / (1 - decay) updates.

    Args:
        decay: in [0, 1). 0.999 averages over about 1,000 updates; 0.9999 suits runs of more than 100,000.
        warmup: whether d starts small.

    fp16 and bf16 weights are averaged in fp32. `Step(optimizer, ema=0.999)` is the short form;
    `with step.averaged(): evaluate(model)` uses the averages.

    References: Polyak, Juditsky, "Acceleration of stochastic approximation by averaging", 1992; the warmup is that of
    TensorFlow's ExponentialMovingAverage (num_updates).
    """

    def __init__(self, decay: float = 0.999, *, warmup: bool = True) -> None:
        self.decay = float(fraction("Average", "decay", decay, do="such as 0.999"))
        self.warmup = flag("Average", "warmup", warmup)
        super().__init__()

    def start(self, weights: Weights) -> None:
        self._copy(_by_name(weights))

    def update(self, weights: Weights, number: int) -> None:
        weights = _by_name(weights)
        self._copy(weights)  # those that were added since begin now
        decay = min(self.decay, (1 + number) / (10 + number)) if self.warmup else self.decay
        self._towards(weights, dict.fromkeys(weights, 1 - decay))

    def __repr__(self) -> str:
        return f"Average({self.decay:g})"


class SWA(Averages):
    """Stochastic weight averaging: the plain mean of the weights at regular points of the end of training.

        average <- (n * average + weights) / (n + 1)    after the updates start, start + every, start + 2 * every, ...

    SWA finds flatter minima than training alone, if the learning rate stays high during averaging: constant, or cyclic
    with points at the ends of the cycles.

    Args:
        start: the first update whose weights are averaged, at least 1; 75 % of the run is usual.
        every: updates from one point to the next, at least 1: an epoch, or the length of a cycle.

    Before the first point there is no average and no copy: `step.averaged()` then uses the weights. fp16 and bf16
    weights are averaged in fp32. Running statistics of batch norm are not averaged and must be recomputed; with `model`
    the Step restores the statistics of the training weights on exit:

    >>> step = Step(optimizer, average=SWA(start=7_500, every=100), model=model)
    >>> with step.averaged():
    ...     recalibrate(model, loader)
    ...     accuracy = evaluate(model)

    Reference: Izmailov, Podoprikhin, Garipov, Vetrov, Wilson, "Averaging weights leads to wider optima and better
    generalization", arXiv 1803.05407, algorithm 1.
    """

    takes_buffers = False

    def __init__(self, start: int, every: int = 1) -> None:
        super().__init__()
        self.first, self.every = whole("SWA", "start", start, least=1), whole("SWA", "every", every, least=1)
        self._counts: dict[str, int] = {}  # how many points are in each average

    @property
    def counts(self) -> list[int]:
        """How many points are in each average."""
        return [self._counts[name] for name in self._held]

    def update(self, weights: Weights, number: int) -> None:
        if number < self.first or (number - self.first) % self.every:
            return
        weights = _by_name(weights)
        self._copy(weights)
        self._towards(weights, {name: 1 / (self._counts[name] + 1) for name in weights})
        self._counts = {name: self._counts[name] + 1 for name in weights}

    def _begun(self, name: str) -> None:
        self._counts[name] = 0

    def follow(
        self, order: Sequence[int], before: Sequence[str] | None = None, after: Sequence[str] | None = None
    ) -> None:
        if 0 < len(self._held) < len(order) and sorted(order) != list(order):
            raise UsageError(
                "SWA: some weights were added after the last point, and the new optimizer has another order of "
                "parameters; "
                "switch after the next point"
            )
        counts = self.counts
        held = {id(tensor): count for tensor, count in zip(self.averages, counts, strict=True)}
        super().follow(order, before, after)
        self._counts = {name: held[id(tensor)] for name, tensor in self._held.items()}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "counts": self.counts}

    def check(self, state: Mapping[str, Any], weights: Weights) -> None:
        super().check(state, weights)
        counts = state.get("counts")
        if not isinstance(counts, list) or len(counts) != len(state["averages"]):
            raise UsageError("SWA: the checkpoint does not say how many points are in each average; it is damaged")

    def _may_have(self, averages: int, weights: int) -> bool:
        return averages <= weights

    def load_state_dict(self, state: Mapping[str, Any], weights: Weights) -> None:
        names = self._assigned(state, _by_name(weights))
        super().load_state_dict(state, weights)
        self._counts = dict(zip(names, state["counts"], strict=True))

    def __repr__(self) -> str:
        return f"SWA(start={self.first}, every={self.every})"
