"""Friedman's function of ten numbers, five of which have no effect, learned from 1000 noisy values.

y = 10 sin(pi x1 x2) + 20 (x3 - 0.5)^2 + 10 x4 + 5 x5 + noise; the x are uniform in [0, 1], the noise is a normal of
standard deviation 1. The metric is the mean squared distance to the function without noise, in the units of y: a
perfect model has 0, and the best constant has about 24. Smooth, full of noise, without norms: the usual problem of
fitting a curve, on which the last digits cost the most.

Reference: J. H. Friedman, Multivariate adaptive regression splines, Annals of Statistics 19, 1991, section 4.3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from stepwell.tasks.task import Metric, Task

BATCH = 50
TRAINED_ON, HELD_OUT = 1000, 2000
INPUTS, WIDTH = 10, 128
DATA_SEED = 0


def friedman(x: Tensor) -> Tensor:
    """The function without noise: x [n, 10] -> [n]."""
    return 10 * torch.sin(math.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]


@lru_cache(maxsize=1)
def points() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training points [1000, 10] with noisy values [1000], held-out points [2000, 10] with true values [2000]."""
    generator = torch.Generator().manual_seed(DATA_SEED)
    train, held_out = (torch.rand(count, INPUTS, generator=generator) for count in (TRAINED_ON, HELD_OUT))
    noise = torch.randn(TRAINED_ON, generator=generator)
    return train, friedman(train) + noise, held_out, friedman(held_out)


def model(seed: int) -> nn.Module:
    """points [n, 10] -> values [n, 1], with the weights of this seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(INPUTS, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, 1)
        )


def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """One shuffled epoch: 20 batches of points [50, 10] and noisy values [50]."""
    x, y, _, _ = points()
    for rows in torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).split(BATCH):
        yield x[rows], y[rows]


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The mean squared error."""
    x, y = batch
    return functional.mse_loss(model(x).squeeze(1), y)


def held_out_error(model: nn.Module) -> float:
    """The mean squared distance to the true function at the held-out points."""
    _, _, x, y = points()
    device = next(model.parameters()).device
    return loss(model, (x.to(device), y.to(device))).item()


task = Task(
    name="regression",
    summary="Friedman's function of ten numbers, fitted to noisy values",
    family="cnn",  # its ranges of learning rates fit small networks
    model=model,
    batches=batches,
    loss=loss,
    metric=Metric("held-out mean squared error, noise-free", "min", held_out_error),
    steps=2500,
    target=0.3,
    batch_size=BATCH,
    about={"data": "1000 values of Friedman's function with noise of variance 1; 2000 held out, without noise"},
)
