"""Data-parallel training in several processes: `torchrun --nproc-per-node 2 examples/ddp.py`.

Every process has the whole model and its own part of every batch; DistributedDataParallel averages the gradients, once
per update. Stop the program with Ctrl-C and start it again, with as many processes: training resumes bit for bit from
the end of the last epoch, with the dropout of each process.
"""

from __future__ import annotations

import argparse
import gc
from pathlib import Path

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import stepwell as sw

ACCUMULATE, EPOCHS, BATCH = 2, 6, 16  # the batch of one process and one micro-batch


def digits() -> tuple[TensorDataset, TensorDataset]:
    """8 x 8 images of digits, scaled to [0, 1]: 1,500 to train on, 297 held out."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
    return TensorDataset(x[:1500], y[:1500]), TensorDataset(x[1500:], y[1500:])


def accuracy(model: nn.Module, data: TensorDataset) -> float:
    x, y = data.tensors
    model.eval()
    with torch.no_grad():
        share = (model(x).argmax(1) == y).float().mean().item()
    model.train()
    return share


def train(options: argparse.Namespace) -> float:
    """Train, or resume training; returns the accuracy on held-out images."""
    first = dist.get_rank() == 0
    torch.manual_seed(0)  # the same weights everywhere
    network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10))
    model = DistributedDataParallel(network)
    torch.manual_seed(dist.get_rank())  # and another dropout in every process

    data, held_out = digits()
    sampler: DistributedSampler[tuple[torch.Tensor, ...]] = DistributedSampler(data)
    loader = DataLoader(data, BATCH, sampler=sampler)
    step = sw.Step(
        sw.AdamW(network.named_parameters(), lr=3e-3),
        sw.warmup(0.1).then(sw.cosine(to=0.01)),
        clip_norm=1.0,
        accumulate=ACCUMULATE,
        ema=0.98,
        total_steps=EPOCHS * -(-len(loader) // ACCUMULATE),
        model=model,
    )
    checkpoint, begin = options.out / "checkpoint.pt", 0
    if checkpoint.exists():
        begin = step.load(checkpoint)["epochs"]

    for epoch in range(begin, options.epochs):
        sampler.set_epoch(epoch)  # another order in every epoch, the same for all processes
        losses = [step(functional.cross_entropy(model(x), y), weight=len(y)) for x, y in step.batches(loader)]
        with step.averaged():
            share = accuracy(network, held_out)
        if first:  # the loss is that of the batches of this process
            mean = sum(done.loss or 0.0 for done in losses) / len(losses)
            print(f"epoch {epoch + 1}: loss {mean:.3f}, lr {losses[-1].lr:.2g}, held-out accuracy {share:.3f}")
        step.save(checkpoint, extra={"epochs": epoch + 1})  # by all: each process saves its generators
    with step.averaged():
        share = accuracy(network, held_out)
    return share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/ddp"), help="folder of the checkpoints")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="stop after this one; the schedule is for all")
    options = parser.parse_args()

    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    train(options)
    gc.collect()  # torch 2.13 may abort where FSDP's objects outlive the groups of gloo
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
