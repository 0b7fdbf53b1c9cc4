"""A task of your own: `stepwell compare examples/my_task.py:task --optimizers sgd,adamw,lion`.

A task is a small version of your problem that trains in seconds to minutes. All randomness in a task must follow from
the given seed, so that every optimizer gets the same weights and the same batches.

This task classifies points of three interleaved spirals: 2 inputs, 3 classes.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from stepwell.tasks import Metric, Task

CLASSES, BATCH = 3, 64


def spirals(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points [count, 2] on three noisy spirals and the spiral of each [count]."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(CLASSES, (count,), generator=generator)
    radius = torch.rand(count, generator=generator)
    turn = 2 * torch.pi * (label / CLASSES + radius) + 0.15 * torch.randn(count, generator=generator)
    return torch.stack([radius * turn.cos(), radius * turn.sin()], dim=1), label


# Your data sets go here. Load large data inside a function with functools.cache: each worker imports this file.
TRAIN = spirals(1000, seed=0)
HELD_OUT = spirals(1000, seed=1)


def model(seed: int) -> nn.Module:
    """The model of this seed; torch is seeded before the call."""
    return nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, CLASSES))


def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """One pass over the data in an order made from the seed. For the next pass, `batches` is called with another seed.

    You can also return a DataLoader with shuffle=True and generator=torch.Generator().manual_seed(seed).
    """
    points, labels = TRAIN
    for rows in torch.randperm(len(points), generator=torch.Generator().manual_seed(seed)).split(BATCH):
        yield points[rows], labels[rows]


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """A scalar to be minimized. The tensors of the batch are already on the requested device."""
    points, labels = batch
    return functional.cross_entropy(model(points), labels)


def accuracy(model: nn.Module) -> float:
    """The metric: any number. The model is in evaluation mode, and gradients are off."""
    points, labels = HELD_OUT
    device = next(model.parameters()).device
    return (model(points.to(device)).argmax(1) == labels.to(device)).float().mean().item()


task = Task(
    name="spirals",
    summary="three interleaved spirals, a small network",
    family="mlp",  # "cnn", "transformer", "toy" or your own word: chooses the learning rates to search
    model=model,
    batches=batches,
    loss=loss,
    metric=Metric("held-out accuracy", "max", accuracy),
    steps=400,
    target=0.9,  # or None
    batch_size=BATCH,
    about={"data": "1000 points to train on, 1000 held out"},
)
