"""Fine-tuning with layer-wise learning rates against one rate for all layers.

A residual network learns the digits 0 to 4. It then gets a new head, and ten images of each of the digits 5 to 9 (50
images). Lower layers have smaller rates: each block half the rate of the block above. Each way has the same number of
learning rates, and its best rate on half of the held-out images is judged on the other half.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
import torch
from exercise import COLORS, finish, options, panels
from torch import Tensor, nn
from torch.nn import functional

import stepwell as sw
from stepwell.tasks import digits

Data = tuple[Tensor, Tensor]
SHOTS, BATCH = 10, 25


def part(x: Tensor, y: Tensor, low: int) -> Data:
    """The images of the five digits from `low`, and their labels from 0 to 4."""
    keep = (y >= low) & (y < low + 5)
    return x[keep], y[keep] - low


@lru_cache(maxsize=1)
def data() -> tuple[Data, Data, Data, Data]:
    """Pretraining; and for the new digits: the images to draw the few from, those to choose lr with, those to judge."""
    x, y, held_x, held_y = digits.images()
    judge_x, judge_y = part(held_x, held_y, 5)
    return part(x, y, 0), part(x, y, 5), (judge_x[0::2], judge_y[0::2]), (judge_x[1::2], judge_y[1::2])


def batches(images: Data, epochs: int, seed: int) -> Iterator[Data]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for rows in torch.randperm(len(images[0]), generator=generator).split(BATCH):
            yield images[0][rows], images[1][rows]


def accuracy(model: nn.Module, images: Data) -> float:
    model.eval()
    with torch.no_grad():
        share = (model(images[0]).argmax(1) == images[1]).float().mean().item()
    model.train()
    return share


def train(model: nn.Module, optimizer: torch.optim.Optimizer, images: Data, epochs: int, seed: int) -> None:
    updates = epochs * -(-len(images[0]) // BATCH)
    step = sw.Step(optimizer, sw.warmup(0.1).then(sw.cosine(to=0.0)), total_steps=updates)
    for x, y in batches(images, epochs, seed):
        step(functional.cross_entropy(model(x), y))


def pretrained(epochs: int) -> nn.Module:
    torch.manual_seed(0)
    model = digits.SmallResNet()
    model.head = nn.Linear(32, 5)
    train(model, sw.AdamW(model.named_parameters(), lr=3e-3), data()[0], epochs, seed=0)
    return model


def few(seed: int) -> Data:
    """Ten images of each new digit."""
    x, y = data()[1]
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    rows = torch.cat([order[y[order] == label][:SHOTS] for label in range(5)])
    return x[rows], y[rows]


def one_rate(model: nn.Module, lr: float) -> sw.groups.Groups:
    return sw.groups.by_role(model, lr=lr, weight_decay=0.01)


def by_layer(model: nn.Module, lr: float) -> sw.groups.Groups:
    return sw.groups.by_layer(model, lr=lr, decay=0.5, weight_decay=0.01)


def head_alone(model: nn.Module, lr: float) -> sw.groups.Groups:
    model.requires_grad_(False)
    model.head.requires_grad_(True)
    return sw.groups.by_role(model, lr=lr, weight_decay=0.01)


WAYS: dict[str, Callable[[nn.Module, float], sw.groups.Groups]] = {
    "one rate": one_rate,
    "rates by layer": by_layer,
    "head alone": head_alone,
}


def fine_tune(base: nn.Module, way: str, lr: float, seed: int, epochs: int) -> tuple[float, float, float]:
    """The accuracies on the two halves, and how far the stem has moved, relative to its norm."""
    model = copy.deepcopy(base)
    torch.manual_seed(seed)
    model.head = nn.Linear(32, 5)
    before = model.stem.weight.detach().clone()
    train(model, sw.AdamW(WAYS[way](model, lr)), few(seed), epochs, seed)
    moved = float((model.stem.weight.detach() - before).norm() / before.norm())
    return accuracy(model, data()[2]), accuracy(model, data()[3]), moved


def main() -> None:
    chosen = options(__doc__)
    epochs, rates, seeds = (5, [3e-3], 1) if chosen.quick else (15, [1e-3, 3e-3, 1e-2, 3e-2], 4)
    base = pretrained(2 if chosen.quick else 12)
    print(by_layer(base, 1e-3))
    figure, (curves, ends) = panels(1, 2, (11, 4.2))
    numbers: dict[str, float] = {}
    for place, (color, way) in enumerate(zip(COLORS, WAYS, strict=False)):
        results = np.array([[fine_tune(base, way, lr, seed, epochs) for seed in range(seeds)] for lr in rates])
        choose, judge, moved = results[..., 0], results[..., 1], results[..., 2].mean(axis=1)
        best = int(choose.mean(axis=1).argmax())
        curves.plot(rates, judge.mean(axis=1), color=color, marker="o", label=way)
        curves.fill_between(rates, judge.min(axis=1), judge.max(axis=1), color=color, alpha=0.12)
        ends.plot(np.full(seeds, place), judge[best], "o", color=color)
        numbers |= {
            f"{way}, lr": rates[best],
            f"{way}, accuracy": round(float(judge[best].mean()), 4),
            f"{way}, accuracy, lowest seed": round(float(judge[best].min()), 4),
            f"{way}, accuracy, mean over all lr": round(float(judge.mean()), 4),
            f"{way}, stem moved": round(float(moved[best]), 3),
        }
    curves.set(title="accuracy on the new digits (band: seeds)", xlabel="lr of the head", xscale="log")
    curves.legend()
    ends.set(title="every seed at the best lr", xticks=range(len(WAYS)), xticklabels=WAYS, xlim=(-0.5, len(WAYS) - 0.5))
    finish(figure, numbers, chosen)


if __name__ == "__main__":
    main()
