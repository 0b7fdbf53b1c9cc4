"""The tensors that optimizers are timed on: sizes, gradients, and what they stand for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

COLUMNS = 256  # of the large matrices: whole blocks of every 8-bit and 4-bit format, of peers, too


@dataclass(frozen=True)
class Workload:
    """Shapes of tensors, and the words for them.

    Args:
        rows_touched: 1, or the share of rows that a row-sparse gradient has.
        evaluated: whether a step is handed a closure (see `quadratic`).
    """

    name: str
    shapes: tuple[tuple[int, ...], ...]
    rows_touched: float = 1.0
    evaluated: bool = False

    @property
    def elements(self) -> int:
        """Of all tensors."""
        return sum(torch.Size(shape).numel() for shape in self.shapes)

    def make(self, device: str, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        """Parameters with gradients; the same numbers each time. A device draws them itself: a processor takes a
        minute for the numbers of a billion elements."""
        generator = torch.Generator(device).manual_seed(0)
        result = []
        for shape in self.shapes:
            p = torch.randn(shape, generator=generator, device=device).to(dtype).requires_grad_()
            gradient = torch.randn(shape, generator=generator, device=device)
            if self.rows_touched < 1:
                rows = torch.arange(0, shape[0], round(1 / self.rows_touched), device=device)
                gradient = torch.sparse_coo_tensor(
                    rows[None], gradient[rows], shape, is_coalesced=True, check_invariants=True
                )
            p.grad = gradient.to(dtype)
            result.append(p)
        return result


def large(scale: float = 1.0) -> Workload:
    """38M elements in 20 matrices: bound by memory."""
    rows = max(16, round(7422 * scale))
    return Workload(f"{_words(20 * rows * COLUMNS)} elements in 20 tensors", ((rows, COLUMNS),) * 20)


def small(scale: float = 1.0) -> Workload:
    """400 tensors of 64 to 4,096 elements: bound by what a launch costs."""
    sizes = torch.randint(64, 4097, (400,), generator=torch.Generator().manual_seed(0)).tolist()
    sizes = sizes[: max(8, round(400 * scale))]
    return Workload(f"{len(sizes)} tensors of 64 to 4,096 elements", tuple((size,) for size in sizes))


def equal_matrices(scale: float = 1.0) -> Workload:
    """24 matrices of 512 x 512, as a small transformer has them: bound by products."""
    count, side = max(2, round(24 * scale)), max(16, round(512 * scale))
    return Workload(f"{count} matrices of {side} x {side}", ((side, side),) * count)


def small_matrices(scale: float = 1.0) -> Workload:
    """200 matrices of 64 x 64: bound by launches unless they are batched."""
    count, side = max(2, round(200 * scale)), max(8, round(64 * min(1.0, 4 * scale)))
    return Workload(f"{count} matrices of {side} x {side}", ((side, side),) * count)


def transformer(scale: float = 1.0) -> Workload:
    """The tensors of a decoder with 1.1B parameters, in the shapes of TinyLlama: 22 layers of width 2,048."""
    side = min(1.0, scale ** (1 / 3))
    width, hidden, few = (16 * max(1, round(tiles * side)) for tiles in (128, 352, 16))
    layers, vocabulary = max(1, round(22 * side)), max(64, round(32_000 * side))
    attention = ((width, width), (few, width), (few, width), (width, width))
    layer = (*attention, (hidden, width), (hidden, width), (width, hidden), (width,), (width,))
    shapes = ((vocabulary, width), *layer * layers, (width,), (vocabulary, width))
    name = f"a decoder of {layers} layers of width {width}"
    return Workload(f"{_words(Workload(name, shapes).elements)} elements of {name}", shapes)


def embedding(scale: float = 1.0) -> Workload:
    """A table of 100,000 x 256 of which one row in a hundred has a gradient."""
    rows = max(200, round(100_000 * scale))
    return Workload(f"1% of the rows of {rows:,} x {COLUMNS}", ((rows, COLUMNS),), rows_touched=0.01)


def evaluated(scale: float = 1.0) -> Workload:
    """1M elements in 20 matrices, and a closure: for methods that choose where gradients are taken."""
    rows = max(16, round(200 * scale))
    return Workload(
        f"{_words(20 * rows * COLUMNS)} elements in 20 tensors, with a closure",
        ((rows, COLUMNS),) * 20,
        evaluated=True,
    )


def quadratic(params: list[Tensor]) -> Callable[[], Tensor]:
    """A closure for a bowl with curvatures from 0.1 to 10: cheap, so that a step costs what the optimizer costs."""
    curvatures = [torch.logspace(-1, 1, p.numel(), device=p.device).view_as(p) for p in params]

    def closure() -> Tensor:
        loss = torch.zeros((), device=params[0].device)
        with torch.no_grad():
            for p, curvature in zip(params, curvatures, strict=True):
                p.grad = curvature * p
                loss += 0.5 * torch.linalg.vecdot(p.flatten(), p.grad.flatten())
        return loss

    return closure


def _words(elements: int) -> str:
    return f"{elements / 1e6:.0f}M" if elements >= 5e5 else f"{elements:,}"


def step_of(optimizer: Any, params: list[Tensor], workload: Workload) -> Callable[[], Any]:
    """What is timed: a call that takes one step."""
    if not workload.evaluated:
        return optimizer.step
    closure = quadratic(params)
    return lambda: optimizer.step(closure)
