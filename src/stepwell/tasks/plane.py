"""The base of the two-parameter tasks: one point that moves over a plane with a known minimum."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from stepwell.tasks.task import Metric, Surface, Task


class Point(nn.Module):
    """The "model": one parameter vector, `position` [2]."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.position = nn.Parameter(start.clone())


def plane_task(
    name: str,
    summary: str,
    surface: Surface,
    start: tuple[float, float],
    *,
    steps: int,
    target: float,
    spread: float,
    noise: float,
    about: str,
) -> Task:
    """A task whose loss is the height of a point plus gradient noise.

    `start` is moved by a normal random vector of standard deviation `spread`, drawn from the seed. A batch is a random
    vector [2] of standard deviation `noise` that is added to the gradient, like the noise of a mini-batch; the metric
    is the height without noise.
    """

    def height(point: Point) -> Tensor:
        return surface.height(point.position[0], point.position[1])

    def model(seed: int) -> Point:
        generator = torch.Generator().manual_seed(seed)
        return Point(torch.tensor(start) + spread * torch.randn(2, generator=generator))

    def batches(seed: int) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            yield from noise * torch.randn(64, 2, generator=generator)

    def loss(point: nn.Module, batch: Tensor) -> Tensor:
        assert isinstance(point, Point)
        return height(point) + (point.position * batch.to(point.position.device)).sum()

    def evaluate(point: nn.Module) -> float:
        assert isinstance(point, Point)
        return height(point).item()

    return Task(
        name=name,
        summary=summary,
        family="toy",
        model=model,
        batches=batches,
        loss=loss,
        metric=Metric("height above the minimum", "min", evaluate),
        steps=steps,
        target=target,
        evaluations=50,
        surface=surface,
        about={"surface": about, "start": f"{start}, moved by a normal of {spread} per seed", "noise": f"{noise}"},
    )
