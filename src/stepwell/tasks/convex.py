"""Logistic regression over handwritten digits: a convex problem with one minimum, which is known to 15 digits.

The objective is the mean cross entropy over all 1797 images plus PENALTY / 2 times the sum of squared weights. The
metric is the gap between the objective and its minimum, in float64, over all images. Newton's method finds the minimum
when the task is first used, until the gradient is shorter than 1e-10.

Nothing is held out and nothing is random but the start and the batches: what is compared is optimization alone. The
pixels are divided by 4 (0 to 4) and not centered, so the curvature differs 600-fold between directions. AdamW's
default weight decay moves the point where it ends: an optimizer's own decay counts against it here.

References: L. Bottou, F. E. Curtis, J. Nocedal, Optimization methods for large-scale machine learning, 2018, section 2;
E. Alpaydin, C. Kaynak, Optical recognition of handwritten digits, 1998 (the data, as in scikit-learn).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from stepwell.errors import MissingExtra
from stepwell.tasks.task import Metric, Task

BATCH = 64
CLASSES, PIXELS = 10, 64
PENALTY = 1e-2
EXACT = 1e-10  # length of the gradient at which the minimum counts as found


@lru_cache(maxsize=1)
def images() -> tuple[Tensor, Tensor]:
    """All images [1797, 64] in [0, 4], float32, and their labels [1797]. Raises MissingExtra without scikit-learn."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingExtra("scikit-learn", "tools", "the task 'convex'") from None
    data = load_digits()
    return torch.as_tensor(data.data, dtype=torch.float32) / 4, torch.as_tensor(data.target).long()


def objective(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The function to be minimized, on the images x [n, 64] with labels y [n]. The bias has the penalty too: without
    it, one number added to all ten biases would change nothing, and the minimum would be a line."""
    penalty = PENALTY / 2 * (weight.square().sum() + bias.square().sum())
    return functional.cross_entropy(functional.linear(x, weight, bias), y) + penalty


@lru_cache(maxsize=1)
def solution() -> tuple[Tensor, Tensor]:
    """The weight [10, 64] and the bias [10] of the minimum, float64, by Newton's method with halved steps."""
    x, y = images()
    x = torch.cat([x.double(), torch.ones(len(x), 1, dtype=torch.float64)], dim=1)  # the last column is the bias
    size = CLASSES * (PIXELS + 1)
    eye = torch.eye(CLASSES, dtype=torch.float64)
    at = torch.zeros(CLASSES, PIXELS + 1, dtype=torch.float64)

    def value(at: Tensor) -> float:
        return objective(at[:, :-1], at[:, -1], x[:, :-1], y).item()

    for _ in range(100):
        chance = (x @ at.T).softmax(1)
        gradient = (chance - eye[y]).T @ x / len(x) + PENALTY * at
        if gradient.norm() < EXACT:
            break
        curvature = torch.empty(CLASSES, PIXELS + 1, CLASSES, PIXELS + 1, dtype=torch.float64)
        for one in range(CLASSES):
            for other in range(CLASSES):
                share = chance[:, one] * (eye[one, other] - chance[:, other])
                curvature[one, :, other] = x.T @ (share[:, None] * x) / len(x)
        hessian = curvature.reshape(size, size) + PENALTY * torch.eye(size, dtype=torch.float64)
        step = torch.linalg.solve(hessian, gradient.flatten()).view_as(at)
        length, here = 1.0, value(at)
        while value(at - length * step) > here and length > 1e-3:
            length /= 2
        at = at - length * step
    return at[:, :-1].contiguous(), at[:, -1].contiguous()


@lru_cache(maxsize=1)
def minimum() -> float:
    """The smallest value of the objective."""
    x, y = images()
    return objective(*solution(), x.double(), y).item()


def model(seed: int) -> nn.Module:
    """images [n, 64] -> logits [n, 10]; a small random start, so that the seeds differ."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(PIXELS, CLASSES)


def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """One shuffled epoch: 28 batches of images [64, 64] and labels [64]; the last 5 images are dropped."""
    x, y = images()
    for rows in torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).split(BATCH):
        if len(rows) == BATCH:
            yield x[rows], y[rows]


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The objective on one batch."""
    assert isinstance(model, nn.Linear)
    return objective(model.weight, model.bias, *batch)


def gap(model: nn.Module) -> float:
    """How far the objective over all images lies above its minimum; float64 on the CPU."""
    assert isinstance(model, nn.Linear)
    x, y = images()
    return objective(model.weight.double().cpu(), model.bias.double().cpu(), x.double(), y).item() - minimum()


task = Task(
    name="convex",
    summary="logistic regression over handwritten digits, scored by the gap to the known minimum",
    family="convex",
    model=model,
    batches=batches,
    loss=loss,
    metric=Metric("gap to the minimum", "min", gap),
    steps=2000,
    target=1e-3,
    batch_size=BATCH,
    about={
        "data": "scikit-learn's digits, all 1797 images",
        "objective": f"mean cross entropy plus {PENALTY:g} / 2 times the squared weights",
    },
)
