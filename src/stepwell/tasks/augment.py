"""Batches of training images: in a new order, cropped and mirrored at random, from one seed; and a small network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from stepwell.tasks.digits import Residual
from stepwell.tasks.task import Metric, Task

SIDE = 32  # pixels of a side, in the network


def random_crops(images: Tensor, generator: torch.Generator) -> Tensor:
    """uint8 images [n, 3, h, w], each cut to [3, 32, 32] at a random place and mirrored with chance 1/2."""
    n, _, height, width = images.shape
    top = torch.randint(height - SIDE + 1, (n, 1), generator=generator) + torch.arange(SIDE)
    left = torch.randint(width - SIDE + 1, (n, 1), generator=generator) + torch.arange(SIDE)
    left = torch.where(torch.rand(n, 1, generator=generator) < 0.5, left.flip(1), left)
    return images[torch.arange(n)[:, None, None, None], torch.arange(3)[:, None, None], top[:, None, :, None],
                  left[:, None, None, :]]  # fmt: skip


def center(images: Tensor) -> Tensor:
    """uint8 images [n, 3, h, w], the middle [n, 3, 32, 32]."""
    top, left = (images.shape[2] - SIDE) // 2, (images.shape[3] - SIDE) // 2
    return images[:, :, top : top + SIDE, left : left + SIDE]


def epoch(images: Tensor, labels: Tensor, batch: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """One shuffled pass: batches of cropped images [batch, 3, 32, 32], uint8, and labels [batch]. An incomplete last
    batch is dropped, unless there is no other."""
    generator = torch.Generator().manual_seed(seed)
    for rows in torch.randperm(len(images), generator=generator).split(batch):
        if len(rows) == batch or len(images) < batch:
            yield random_crops(images[rows], generator), labels[rows]


class ImageNet32(nn.Module):
    """uint8 images [n, 3, 32, 32] -> logits [n, classes]. The first layer scales pixels by the given mean and deviation
    of each color, 0 to 255, and halves the image; residual blocks of widths 16, 32 and 64 follow."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, classes: int, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.view(3, 1, 1))
        self.register_buffer("deviation", deviation.view(3, 1, 1))
        self.stem = nn.Conv2d(3, 16, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.blocks = nn.Sequential(Residual(16, 16, 1), Residual(16, 32, 2), Residual(32, 64, 2))
        self.head = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = (x.float() - self.mean) / self.deviation
        x = self.blocks(functional.relu(self.norm(self.stem(x))))
        return self.head(x.mean(dim=(2, 3)))


def colors(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each color, [3] each, over at most the first 2000 images; at least 1."""
    pixels = images[:2000].float().transpose(0, 1).flatten(1)
    return pixels.mean(1), pixels.std(1).clamp(min=1.0)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross entropy in nats."""
    x, y = batch
    return functional.cross_entropy(model(x), y)


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The accuracy on uint8 images [n, 3, 32, 32], 250 at a time."""
    device = next(model.parameters()).device
    right = [
        (model(x.to(device)).argmax(1).cpu() == y).sum().item()
        for x, y in zip(images.split(250), labels.split(250), strict=True)
    ]
    return sum(right) / len(labels)


Images = tuple[Tensor, Tensor, Tensor, Tensor]  # training images and labels, held-out images and labels


def task(
    name: str, summary: str, classes: int, images: Callable[[], Images], middle: Callable[[Tensor], Tensor],
    batch: int, steps: int, about: Mapping[str, str],
) -> Task:  # fmt: skip
    """A task over images.

    Args:
        images: reads them; called when they are needed, in each worker. middle: training images without their margin,
            from which the colors are taken. about: see `Task`.
    """

    def model(seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return ImageNet32(classes, *colors(middle(images()[0])))

    return Task(
        name=name,
        summary=summary,
        family="cnn",
        model=model,
        batches=lambda seed: epoch(*images()[:2], batch, seed),
        loss=loss,
        metric=Metric("held-out accuracy", "max", lambda model: accuracy(model, *images()[2:])),
        steps=steps,
        batch_size=batch,
        evaluations=10,
        about=about,
    )
