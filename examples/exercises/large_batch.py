"""A batch of 1,024 from 16 batches of 64: accumulation, LARS and mixed precision.

The images are scikit-learn's digits, each shifted by up to one pixel: 5,400 images to train on, so that a batch of
1,024 has no image twice. Two questions have exact answers: does one accumulated update equal one update of the whole
batch, and how many bytes do the layers keep for the backward pass? The others are measured: seconds and accuracy.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from exercise import COLORS, finish, options, panels
from torch import Tensor, nn
from torch.nn import functional

import stepwell as sw
from stepwell.tasks import digits

SMALL, LARGE, EPOCHS = 64, 1024, 6


def shifted() -> tuple[Tensor, Tensor]:
    """The training images [5400, 1, 8, 8], in all nine shifts by at most one pixel, and their labels."""
    x, y, _, _ = digits.images()
    moved = [torch.roll(x, (down, right), dims=(2, 3)) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    return torch.cat(moved), y.repeat(9)


def network(seed: int, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> nn.Module:
    """A small convolutional network."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), norm(12), nn.ReLU(),
        nn.Conv2d(12, 24, 3, stride=2, padding=1), norm(24), nn.ReLU(),
        nn.Flatten(), nn.Linear(24 * 16, 10),
    )  # fmt: skip


def batches(data: tuple[Tensor, Tensor], size: int, seed: int, together: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
    """One shuffled epoch. What would leave an update of `together` batches incomplete is dropped."""
    x, y = data
    count = len(x) // (size * together) * size * together
    for rows in torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:count].split(size):
        yield x[rows], y[rows]


def autocast(bf16: bool) -> contextlib.AbstractContextManager[object]:
    return torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext()


def kept_bytes(size: int, bf16: bool = False) -> int:
    """Bytes that the layers keep for the backward pass of one batch, without the weights."""
    model, kept = network(0), {}
    weights = {p.data_ptr() for p in model.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    x, y = (tensor[:size].clone() for tensor in shifted())
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast(bf16):
        loss = functional.cross_entropy(model(x), y)
    del loss
    return sum(kept.values())


def difference(norm: Callable[[int], nn.Module]) -> float:
    """How far one update of 16 x 64 is from one update of 1,024, relative to the length of the update.

    In float64, so that what remains is not rounding.
    """
    x, y = (tensor[:LARGE] for tensor in shifted())
    ends = []
    for size in (LARGE, SMALL):
        model = network(0, norm).double()
        before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        step = sw.Step(sw.SGD(model.parameters(), lr=0.1), accumulate=LARGE // size)
        for rows in torch.arange(LARGE).split(size):
            step(functional.cross_entropy(model(x[rows].double()), y[rows]))
        ends.append(nn.utils.parameters_to_vector(model.parameters()).detach() - before)
    return float((ends[1] - ends[0]).norm() / ends[0].norm())


def train(
    make: Callable[..., torch.optim.Optimizer], lr: float, size: int, accumulate: int, epochs: int, bf16: bool = False
) -> tuple[list[float], float]:
    """Train: the held-out accuracy after every epoch, and the seconds of a usual epoch (the first one compiles)."""
    model, data = network(1), shifted()
    seconds, accuracies = [], []
    optimizer = make(model, lr=lr)
    updates = epochs * (len(data[0]) // (size * accumulate))
    schedule = sw.warmup(0.1).then(sw.cosine(to=0.0))
    step = sw.Step(optimizer, schedule, accumulate=accumulate, total_steps=updates)
    for epoch in range(epochs):
        begin = time.perf_counter()
        for x, y in batches(data, size, seed=epoch, together=accumulate):
            with autocast(bf16):
                loss = functional.cross_entropy(model(x), y)
            step(loss)
        seconds.append(time.perf_counter() - begin)
        accuracies.append(digits.task.measure(model))
    return accuracies, float(np.median(seconds))


def sgd(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    return sw.SGD(model.named_parameters(), lr=lr, momentum=0.9, weight_decay=1e-4)


def lars(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    return sw.LARS(model, lr=lr, momentum=0.9, weight_decay=1e-4, trust_coefficient=0.01)


def main() -> None:
    chosen = options(__doc__)
    epochs = 1 if chosen.quick else EPOCHS
    sgd_rates, lars_rates = ([0.2], [1.0]) if chosen.quick else ([0.05, 0.2, 0.8], [1.0, 3.0, 10.0])
    numbers: dict[str, object] = {
        "16 x 64 against 1024, batch norm": difference(nn.BatchNorm2d),
        "16 x 64 against 1024, group norm": difference(lambda width: nn.GroupNorm(4, width)),
        "MiB kept for backward, 64": round(kept_bytes(SMALL) / 2**20, 2),
        "MiB kept for backward, 1024": round(kept_bytes(LARGE) / 2**20, 2),
        "MiB kept for backward, 64 in bf16": round(kept_bytes(SMALL, bf16=True) / 2**20, 2),
    }

    # The best of the rates: three for each way to train on 1,024 images. The small batch has the rate that it likes.
    runs = {
        "batch 64, SGD": [(lr, train(sgd, lr, SMALL, 1, epochs)) for lr in [0.05]],
        "64 x 16, SGD": [(lr, train(sgd, lr, SMALL, 16, epochs)) for lr in sgd_rates],
        "64 x 16, LARS": [(lr, train(lars, lr, SMALL, 16, epochs)) for lr in lars_rates],
    }
    best = {name: max(tried, key=lambda run: run[1][0][-1]) for name, tried in runs.items()}
    rate = best["64 x 16, SGD"][0]
    best["1024 directly, SGD"] = (rate, train(sgd, rate, LARGE, 1, epochs))
    best["64 x 16, SGD, bf16"] = (rate, train(sgd, rate, SMALL, 16, epochs, bf16=True))

    figure, (curves, bars, rates) = panels(1, 3, (13, 4.2))
    for color, (name, (lr, (accuracies, seconds))) in zip(COLORS, best.items(), strict=False):
        curves.plot(np.arange(1, epochs + 1), accuracies, color=color, marker=".", label=f"{name}, lr {lr:g}")
        bars.barh(name, seconds, color=color)
        numbers |= {f"{name}, accuracy": round(accuracies[-1], 4), f"{name}, s per epoch": round(seconds, 2)}
    for color, name in zip(COLORS[1:], ("64 x 16, SGD", "64 x 16, LARS"), strict=False):
        tried = runs[name]
        rates.plot([lr for lr, _ in tried], [run[0][-1] for _, run in tried], color=color, marker="o", label=name)
        numbers[f"{name}, accuracy by lr"] = str({lr: round(run[0][-1], 4) for lr, run in tried})
    curves.set(title="held-out accuracy", xlabel="epoch")
    curves.legend(fontsize=8)
    bars.set(title="seconds per epoch, one thread")
    bars.grid(axis="y", visible=False)
    bars.invert_yaxis()
    rates.set(title="final accuracy by learning rate", xlabel="lr", xscale="log")
    rates.legend(fontsize=8)
    finish(figure, numbers, chosen)


if __name__ == "__main__":
    main()
