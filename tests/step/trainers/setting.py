"""What the runs under every trainer have in common: the data, the network, the optimizers, the schedule."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import stepwell as sw
from stepwell.groups import by_role

SAMPLES, BATCH, EPOCHS, ACCUMULATE = 104, 16, 3, 2
BATCHES = -(-SAMPLES // BATCH)  # 7: the last accumulation of an epoch has one micro-batch, of 8 samples
UPDATES = EPOCHS * -(-BATCHES // ACCUMULATE)

OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "AdamW in groups": lambda network: sw.AdamW(by_role(network, lr=1e-2, weight_decay=0.1)),
    "AdamW int8": lambda network: sw.AdamW(network.named_parameters(), lr=1e-2, weight_decay=0.1, state="int8"),
    "Lion bf16": lambda network: sw.Lion(network.named_parameters(), lr=1e-3, weight_decay=0.1, state="bf16"),
}
SCHEDULE = {"lr": sw.warmup(0.25).then(sw.cosine(to=0.1)), "weight_decay": sw.linear(to=0.5)}


class Stopped(Exception):
    """What stops a run where no process is to be killed."""


@dataclass(frozen=True)
class Setting:
    """One run.

    Args:
        optimizer: one of `OPTIMIZERS`.
        clip: the largest norm of the gradient, far below what it has; None does not clip.
        random: dropout and shuffled data.
        folder: where checkpoints are written; None writes none.
        resume: begin with the newest checkpoint in `folder`.
        stop_at: the number of the forward pass, from 0, that does not return.
        kill: kill the process there, instead of raising `Stopped`.
    """

    optimizer: str = "AdamW in groups"
    clip: float | None = 0.05
    random: bool = False
    folder: Path | None = None
    resume: bool = False
    stop_at: int | None = None
    kill: bool = False


@dataclass(frozen=True)
class Outcome:
    """The weights at the end, as one vector, the optimizer's state (with what stands in its groups), and how many
    forward passes this process made."""

    weights: Tensor
    state: dict[str, Any]
    passes: int


class Network(nn.Module):
    """Which of four classes a point is in, as the Hugging Face Trainer wants it: the loss comes out of `forward`.

    The second layer has 4,096 weights, the fewest that have int8 state.
    """

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.drop = nn.Dropout(0.2 if setting.random else 0.0)
        self.head = nn.Linear(64, 4)
        self.setting, self.passes = setting, 0

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Any]:
        if self.passes == self.setting.stop_at:
            if self.setting.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise Stopped
        self.passes += 1
        logits = self.head(self.drop(self.layers(x)))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def begin(setting: Setting) -> tuple[Network, torch.optim.Optimizer, sw.Scheduler, TensorDataset]:
    """All that a trainer is given, the same in every process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    points = torch.randn(SAMPLES, 2)
    data = TensorDataset(points, (points[:, 0] > 0).long() * 2 + (points[:, 1] > 0).long())
    network = Network(setting)
    optimizer = OPTIMIZERS[setting.optimizer](network)
    return network, optimizer, sw.Scheduler(optimizer, SCHEDULE, total_steps=UPDATES), data


def finish(network: Network, optimizer: torch.optim.Optimizer) -> Outcome:
    weights = torch.cat([parameter.detach().reshape(-1) for parameter in network.parameters()])
    return Outcome(weights, optimizer.state_dict(), network.passes)


def plain(setting: Setting, weight_of_the_last: float = 1 / ACCUMULATE) -> Outcome:
    """The same training as a loop around torch's own clipping.

    Args:
        weight_of_the_last: what the loss of an accumulation of one micro-batch is multiplied with; trainers differ.
    """
    network, optimizer, scheduler, data = begin(setting)
    for _ in range(EPOCHS):
        for number, (x, y) in enumerate(DataLoader(data, BATCH), 1):
            alone = number == BATCHES and BATCHES % ACCUMULATE == 1
            loss = network(x, y)["loss"] * (weight_of_the_last if alone else 1 / ACCUMULATE)
            loss.backward()
            if number % ACCUMULATE and number != BATCHES:
                continue
            if setting.clip is not None:
                nn.utils.clip_grad_norm_(network.parameters(), setting.clip)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    return finish(network, optimizer)
