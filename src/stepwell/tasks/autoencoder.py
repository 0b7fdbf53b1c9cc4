"""Handwritten digits through a bottleneck: a deep network of nine layers copies 64 pixels through 6 numbers.

No layer normalizes, and the narrow middle scales gradients very differently from layer to layer: the problem on which
second-order methods were shown. The metric is the mean squared error of a held-out pixel in units of the variance of a
pixel. The best linear code of 6 numbers (the principal components of the training images) has the
error 0.214, and the mean image has 0.524.

Data: scikit-learn's digits, 1347 images to train on, 450 held out by class (fixed split).

References: G. E. Hinton, R. R. Salakhutdinov, Reducing the dimensionality of data with neural networks, 2006; J.
Martens, Deep learning via Hessian-free optimization, 2010, section 6.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from stepwell.tasks.digits import split
from stepwell.tasks.task import Metric, Task

BATCH = 64
HELD_OUT = 450
WIDTHS = (64, 96, 48, 24, 6, 24, 48, 96, 64)


@lru_cache(maxsize=1)
def pixels() -> tuple[Tensor, Tensor]:
    """Training images [1347, 64] and held-out images [450, 64], with mean 0 and variance 1 over the training pixels."""
    train, _, held_out, _ = split("autoencoder", HELD_OUT)
    return train.flatten(1), held_out.flatten(1)


def model(seed: int) -> nn.Module:
    """images [n, 64] -> images [n, 64], with the weights of this seed."""
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for inside, outside in pairwise(WIDTHS):
            linear = nn.Linear(inside, outside)
            nn.init.xavier_uniform_(linear.weight)
            layers += [linear, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def batches(seed: int) -> Iterator[Tensor]:
    """One shuffled epoch: 21 batches of images [64, 64]; the last 3 images are dropped."""
    x, _ = pixels()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    for rows in order.split(BATCH):
        if len(rows) == BATCH:
            yield x[rows]


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    """The mean squared error of a pixel."""
    return functional.mse_loss(model(batch), batch)


def held_out_error(model: nn.Module) -> float:
    """The mean squared error over the held-out images."""
    _, x = pixels()
    return loss(model, x.to(next(model.parameters()).device)).item()


task = Task(
    name="autoencoder",
    summary="handwritten digits through a bottleneck of 6 numbers, a deep network without norms",
    family="cnn",  # its ranges of learning rates fit small networks
    model=model,
    batches=batches,
    loss=loss,
    metric=Metric("held-out mean squared error, in variances of a pixel", "min", held_out_error),
    steps=1500,
    target=0.12,
    batch_size=BATCH,
    about={"data": "scikit-learn's digits, 1347 images to train on, 450 held out by class (fixed split)"},
)
