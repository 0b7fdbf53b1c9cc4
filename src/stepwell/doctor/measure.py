"""What is measured around an update: sizes of gradients, weights and changes, on few coordinates where that will do.

Of a tensor that is sharded over processes each process measures its own shard: nothing is sent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from stepwell.doctor.record import Sample
from stepwell.engine.sharding import local

COORDINATES = 1 << 16  # that are remembered between two steps, of all tensors together


class Coordinates:
    """A few fixed elements of every tensor: all of them where a tensor is small."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        tensors = [local(tensor) for tensor in tensors]
        total = sum(tensor.numel() for tensor in tensors) or 1
        generator = torch.Generator().manual_seed(0)  # one of its own: the run's random numbers are left alone
        self.places: list[torch.Tensor | None] = []
        for tensor in tensors:
            number = max(16, COORDINATES * tensor.numel() // total)
            if tensor.is_meta or not tensor.is_floating_point() or tensor.numel() == 0:
                self.places.append(None)
            elif tensor.numel() <= number:
                self.places.append(torch.arange(tensor.numel(), device=tensor.device))
            else:
                self.places.append(torch.randint(tensor.numel(), (number,), generator=generator).to(tensor.device))

    def of(self, number: int, tensor: torch.Tensor) -> torch.Tensor | None:
        place = self.places[number]
        if place is None:
            return None
        return torch.take(local(tensor).detach(), place)


class Around:
    """One sampled update: made before it, ended after it."""

    def __init__(self, step: int, optimizer: int, numbers: Sequence[int], tensors: Sequence[torch.Tensor],
                 coordinates: Coordinates, last: tuple[int, dict[int, torch.Tensor]] | None) -> None:  # fmt: skip
        self.sample = Sample(step, optimizer)
        self.numbers, self.tensors, self.coordinates = numbers, tensors, coordinates
        self.before = {n: coordinates.of(n, tensors[n]) for n in numbers}
        self.grads: dict[int, torch.Tensor] = {}
        size = len(tensors)
        self.sample.grad, self.sample.weight = [None] * size, [None] * size
        self.sample.update, self.sample.unchanged = [None] * size, [None] * size
        self._gradients(last)

    def _gradients(self, last: tuple[int, dict[int, torch.Tensor]] | None) -> None:
        found: list[tuple[int, torch.Tensor]] = []
        for n in self.numbers:
            dense = _dense(self.tensors[n].grad)
            if dense is not None:
                found.append((n, dense))
        if not found:
            self.sample.norm = 0.0
            return
        norms = torch.stack([one.float() for one in _norms([grad for _, grad in found])]).tolist()
        total = 0.0
        for (n, grad), norm in zip(found, norms, strict=True):
            self.sample.grad[n] = norm / math.sqrt(max(grad.numel(), 1))
            total += norm * norm
            if grad.shape == local(self.tensors[n]).shape:
                part = self.coordinates.of(n, grad)
                if part is not None:
                    self.grads[n] = part.float()
        self.sample.norm = math.sqrt(total) if math.isfinite(total) else total
        if last is not None:
            self.sample.previous = last[0]
            self.sample.cosine = _cosine(self.grads, last[1])

    def end(self) -> Sample:
        """After the update."""
        rows: list[torch.Tensor] = []
        kept: list[int] = []
        for n in self.numbers:
            before = self.before[n]
            if before is None or before.numel() == 0:
                continue
            after = self.coordinates.of(n, self.tensors[n])
            assert after is not None
            change = after.double() - before.double()
            grad = self.grads.get(n)
            wanted = grad != 0 if grad is not None and grad.numel() == change.numel() else change == change
            share = ((change == 0) & wanted).double().sum() / wanted.double().sum().clamp_min(1)
            rows.append(torch.stack([before.double().square().mean().sqrt(), change.square().mean().sqrt(), share]))
            kept.append(n)
        if rows:
            for n, (weight, update, share) in zip(kept, torch.stack(rows).tolist(), strict=True):
                self.sample.weight[n], self.sample.update[n], self.sample.unchanged[n] = weight, update, share
        return self.sample


def _norms(grads: list[torch.Tensor]) -> Sequence[torch.Tensor]:
    return torch._foreach_norm(grads) if len({grad.device for grad in grads}) == 1 else [grad.norm() for grad in grads]


def _dense(grad: Any) -> torch.Tensor | None:
    """The values of a gradient, those of the rows where it is sparse."""
    if grad is None:
        return None
    grad = local(grad).detach()
    return grad.coalesce().values() if grad.is_sparse else grad if grad.layout == torch.strided else None


def _cosine(now: dict[int, torch.Tensor], before: dict[int, torch.Tensor]) -> float | None:
    dot = one = other = 0.0
    for n, grad in now.items():
        old = before.get(n)
        if old is not None and old.shape == grad.shape:
            dot += float(grad @ old)
            one += float(grad @ grad)
            other += float(old @ old)
    return dot / math.sqrt(one * other) if one > 0 and other > 0 else None
