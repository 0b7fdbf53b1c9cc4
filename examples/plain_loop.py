"""A complete training run in a plain loop: `python examples/plain_loop.py`.

It has a learning rate found by a range test, warmup and decay, clipping, gradient accumulation, an average of the
weights for evaluation, and checkpoints. Stop the program with Ctrl-C and start it again: training resumes bit for bit
from the end of the last epoch.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import stepwell as sw
from stepwell.finder import find_lr
from stepwell.step import Step

ACCUMULATE, EPOCHS, BATCH = 2, 8, 32


def rings(count: int, seed: int) -> TensorDataset:
    """Points [count, 2] on four noisy rings around the origin, and the ring of each [count]."""
    generator = torch.Generator().manual_seed(seed)
    ring = torch.randint(4, (count,), generator=generator)
    angle = 2 * torch.pi * torch.rand(count, generator=generator)
    radius = 1 + ring + 0.2 * torch.randn(count, generator=generator)
    return TensorDataset(torch.stack([radius * angle.cos(), radius * angle.sin()], 1), ring)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross entropy of the ring, nats."""
    points, ring = batch
    return functional.cross_entropy(model(points), ring)


def accuracy(model: nn.Module, data: TensorDataset) -> float:
    """The share of points whose ring is named rightly."""
    points, ring = data.tensors
    model.eval()
    with torch.no_grad():
        share = (model(points).argmax(1) == ring).float().mean().item()
    model.train()
    return share


def main() -> float:
    """Train, or resume training; returns the accuracy on held-out points."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/plain_loop"), help="folder of the checkpoints")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="stop after this one; the schedule is for all")
    options = parser.parse_args()

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    shuffle = torch.Generator().manual_seed(0)
    loader = DataLoader(rings(1000, seed=1), BATCH, shuffle=True, generator=shuffle)
    optimizer = sw.AdamW(model.named_parameters())

    found = find_lr(model, optimizer, loader, loss, accumulate=ACCUMULATE, progress=False)
    print(found)
    if found.suggestion is not None:
        for group in optimizer.param_groups:
            group["lr"] = found.suggestion

    updates = EPOCHS * -(-len(loader) // ACCUMULATE)
    step = Step(
        optimizer,
        sw.warmup(0.05).then(sw.cosine(to=0.01)),
        clip_norm=1.0,
        accumulate=ACCUMULATE,
        ema=0.98,
        total_steps=updates,
        model=model,
        generators={"shuffle": shuffle},
    )
    checkpoint, begin = options.out / "checkpoint.pt", 0
    if checkpoint.exists():
        begin = step.load(checkpoint)["epochs"]
        print(f"resuming after epoch {begin}")

    held_out = rings(1000, seed=2)
    for epoch in range(begin, options.epochs):
        losses = []
        for batch in step.batches(loader):
            done = step(loss(model, batch), weight=len(batch[0]))  # the last batch of a pass is shorter
            losses.append(done)
        mean = sum(done.loss or 0.0 for done in losses) / len(losses)  # read once per epoch: nothing waited before
        with step.averaged():
            share = accuracy(model, held_out)
        print(f"epoch {epoch + 1}: loss {mean:.3f}, lr {losses[-1].lr:.2g}, held-out accuracy {share:.3f}")
        step.save(checkpoint, extra={"epochs": epoch + 1})
    with step.averaged():
        return accuracy(model, held_out)


if __name__ == "__main__":
    main()
