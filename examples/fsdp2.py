"""Sharded training in several processes: `torchrun --nproc-per-node 2 examples/fsdp2.py`.

Every process has a part of every weight and of its optimizer state (`fully_shard`, FSDP2). The checkpoint is a folder
that all processes write together and that any number of processes can load: stop the program with Ctrl-C and start it
again, with another `--nproc-per-node` if you like.
"""

from __future__ import annotations

import argparse
import gc
from pathlib import Path

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn import functional
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import stepwell as sw

EPOCHS, BATCH = 6, 32  # the batch of one process


class Block(nn.Module):
    """x + W2 relu(W1 norm(x)), of width [width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(functional.relu(self.up(self.norm(x))))


def train(options: argparse.Namespace) -> float:
    """Train, or resume training; returns the accuracy on held-out images."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 96), *(Block(96) for _ in range(3)), nn.Linear(96, 10))
    for block in model:
        fully_shard(block)
    fully_shard(model)

    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
    data, held_out = TensorDataset(x[:1500], y[:1500]), (x[1500:], y[1500:])
    sampler: DistributedSampler[tuple[torch.Tensor, ...]] = DistributedSampler(data)
    loader = DataLoader(data, BATCH, sampler=sampler)
    step = sw.Step(  # after fully_shard, which replaces the parameters
        sw.AdamW(model.named_parameters(), lr=3e-3, state="bf16"),
        sw.warmup(0.1).then(sw.linear(to=0.0)),
        clip_norm=1.0,
        total_steps=EPOCHS * len(loader),
        model=model,
    )
    checkpoint, begin = options.out / "checkpoint", 0
    if checkpoint.exists():
        begin = step.load(checkpoint)["epochs"]

    share = 0.0
    for epoch in range(begin, options.epochs):
        sampler.set_epoch(epoch)
        losses = [step(functional.cross_entropy(model(a), b), weight=len(b)) for a, b in step.batches(loader)]
        with torch.no_grad():  # by all processes: each has a part of the weights
            share = (model(held_out[0]).argmax(1) == held_out[1]).float().mean().item()
        if dist.get_rank() == 0:
            mean = sum(done.loss or 0.0 for done in losses) / len(losses)
            print(f"epoch {epoch + 1}: loss {mean:.3f}, norm {losses[-1].grad_norm:.2f}, held-out accuracy {share:.3f}")
        step.save(checkpoint, extra={"epochs": epoch + 1})
    return share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/fsdp2"), help="folder of the checkpoints")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="stop after this one; the schedule is for all")
    options = parser.parse_args()

    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    train(options)
    gc.collect()  # torch 2.13 may abort where FSDP's objects outlive the groups of gloo
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
