"""Trainers of others in two processes with DistributedDataParallel."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import stepwell as sw

EPOCHS, ACCUMULATE, BATCH = 3, 2, 8


def data() -> TensorDataset:
    points = torch.randn(96, 2, generator=torch.Generator().manual_seed(3))
    return TensorDataset(points, (points[:, 0] > 0).long() * 2 + (points[:, 1] > 0).long())


class Network(nn.Module):
    """Which of four classes a point is in; the loss comes out of `forward`, as the Hugging Face Trainer wants it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.layers(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def environment() -> None:
    """What torchrun says to the processes that it starts."""
    rank, size = str(dist.get_rank()), str(dist.get_world_size())
    os.environ.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=size, LOCAL_WORLD_SIZE=size, OMP_NUM_THREADS="1",
                      MASTER_ADDR="localhost", MASTER_PORT="29531", ACCELERATE_USE_CPU="true", GROUP_RANK="0",
                      TORCHELASTIC_RUN_ID="test")  # fmt: skip
    warnings.simplefilter("ignore")


def flat(network: nn.Module) -> list[float]:
    return [float(x) for p in network.parameters() for x in p.detach().flatten()]


def folder(name: str) -> Path:
    return Path(os.environ["STEPWELL_TEST_FOLDER"]) / name


def accelerate() -> Any:
    environment()
    from accelerate import Accelerator

    def run(epochs: int, resume: bool) -> tuple[nn.Module, int]:
        accelerator = Accelerator(cpu=True)
        network = Network()
        optimizer = sw.AdamW(network.named_parameters(), lr=1e-2)
        model, loader = accelerator.prepare(network, DataLoader(data(), BATCH))
        step = sw.Step(optimizer, sw.cosine(9), clip_norm=0.1, accumulate=ACCUMULATE, model=model)
        path = folder("accelerate") / "checkpoint.pt"
        begin = step.load(path) if resume else 0
        for epoch in range(begin, epochs):
            for x, y in step.batches(loader):
                step(model(x, y)["loss"], weight=len(y))
            if not resume:
                step.save(path, extra=epoch + 1, keep=1)
                dist.barrier()
        return network, step.number

    straight, number = run(EPOCHS, False)
    run(EPOCHS - 1, False)  # which saves once more
    dist.barrier()
    resumed, again = run(EPOCHS, True)
    return flat(straight), flat(resumed), number, again


def transformers() -> Any:
    """Trained only: its own checkpoints are the trainer's matter, tried in one process in tests/step/trainers."""
    environment()
    from transformers import Trainer, TrainingArguments

    network = Network()
    optimizer = sw.AdamW(network.named_parameters(), lr=1e-2)
    rows = [{"x": x, "labels": y} for x, y in data()]
    arguments = TrainingArguments(
        str(folder("transformers")), num_train_epochs=EPOCHS, per_device_train_batch_size=BATCH, use_cpu=True,
        gradient_accumulation_steps=ACCUMULATE, max_grad_norm=0.1, save_strategy="no", report_to=[],
        disable_tqdm=True, logging_strategy="no", ddp_backend="gloo", seed=0,
    )  # fmt: skip
    scheduler = sw.Scheduler(optimizer, sw.cosine(9), total_steps=9)
    trainer = Trainer(network, arguments, train_dataset=rows, optimizers=(optimizer, scheduler))
    trainer.train()
    return flat(network), trainer.state.global_step, optimizer.param_groups[0]["lr"]
