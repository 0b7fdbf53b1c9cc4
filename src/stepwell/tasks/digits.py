"""Handwritten digits: scikit-learn's bundled images (8 x 8, 1797 of them) and a small residual network.

Real images without a download. The split is fixed: 600 training images and 1197 held out, stratified by class. There
are few training images because with 1347 every tuned optimizer reached 99.3 to 99.6 % accuracy, without a difference to
compare.

Reference: E. Alpaydin, C. Kaynak, Optical recognition of handwritten digits, UCI Machine Learning Repository, 1998.
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
HELD_OUT = 1197
SPLIT_SEED = 0


@lru_cache(maxsize=1)
def images() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images [600, 1, 8, 8] in about [-1, 2], their labels [600], held-out images [1197, 1, 8, 8], labels."""
    return split("digits", HELD_OUT)


def split(task: str, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The images with `count` of them held out, stratified by class, as `images` gives them; `task` needs them.

    Raises MissingExtra without scikit-learn.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise MissingExtra("scikit-learn", "tools", f"the task {task!r}") from None
    data = load_digits()
    train_x, test_x, train_y, test_y = train_test_split(
        data.images, data.target, test_size=count, random_state=SPLIT_SEED, stratify=data.target
    )
    mean, std = float(train_x.mean()), float(train_x.std())

    def pixels(values: object) -> Tensor:
        return ((torch.as_tensor(values, dtype=torch.float32) - mean) / std).unsqueeze(1)

    return pixels(train_x), torch.as_tensor(train_y).long(), pixels(test_x), torch.as_tensor(test_y).long()


class Residual(nn.Module):
    """Two 3 x 3 convolutions with batch norm and a shortcut; `stride` 2 halves the image."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outside)
        self.shortcut: nn.Module = (
            nn.Identity()
            if stride == 1 and inside == outside
            else nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))
        )

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        return functional.relu(inner + self.shortcut(x))


class SmallResNet(nn.Module):
    """images [n, 1, 8, 8] -> logits [n, 10]; 8 x 8 at width 16, then 4 x 4 at width 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.blocks = nn.Sequential(Residual(16, 16, 1), Residual(16, 32, 2))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(functional.relu(self.norm(self.stem(x))))
        return self.head(x.mean(dim=(2, 3)))


def model(seed: int) -> nn.Module:
    """The network with the weights of this seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SmallResNet()


def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """One shuffled epoch: 9 batches of images [64, 1, 8, 8] and labels [64]; the last 24 images are dropped."""
    x, y, _, _ = images()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    for rows in order.split(BATCH):
        if len(rows) == BATCH:  # all steps alike; which images are left out changes with every epoch
            yield x[rows], y[rows]


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross entropy in nats."""
    x, y = batch
    return functional.cross_entropy(model(x), y)


def held_out_accuracy(model: nn.Module) -> float:
    """The accuracy on the 1197 held-out images."""
    _, _, x, y = images()
    device = next(model.parameters()).device
    return (model(x.to(device)).argmax(1) == y.to(device)).float().mean().item()


task = Task(
    name="digits",
    summary="handwritten digits, a small residual network with batch norm",
    family="cnn",
    model=model,
    batches=batches,
    loss=loss,
    metric=Metric("held-out accuracy", "max", held_out_accuracy),
    steps=180,
    target=0.97,
    batch_size=BATCH,
    about={"data": "scikit-learn's digits, 600 images to train on, 1197 held out by class (fixed split)"},
)
