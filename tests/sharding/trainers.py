"""Trainers of others in two processes: trained, saved and resumed."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
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
    parts = [p.full_tensor() if isinstance(p, DTensor) else p for p in network.parameters()]
    return [float(x) for p in parts for x in p.detach().flatten()]


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
    environment()
    from transformers import Trainer, TrainingArguments

    def run(name: str, epochs: int, resume: bool) -> tuple[list[float], int, float]:
        network = Network()
        optimizer = sw.AdamW(network.named_parameters(), lr=1e-2)
        rows = [{"x": x, "labels": y} for x, y in data()]
        arguments = TrainingArguments(
            str(folder(name)), num_train_epochs=epochs, per_device_train_batch_size=BATCH, use_cpu=True,
            gradient_accumulation_steps=ACCUMULATE, max_grad_norm=0.1, save_strategy="epoch", report_to=[],
            disable_tqdm=True, logging_strategy="no", ddp_backend="gloo", seed=0,
        )  # fmt: skip
        scheduler = sw.Scheduler(optimizer, sw.cosine(9), total_steps=9)
        trainer = Trainer(network, arguments, train_dataset=rows, optimizers=(optimizer, scheduler))
        trainer.train(resume_from_checkpoint=resume)
        dist.barrier()  # rank 0 writes, and the others look for what is there
        return flat(network), trainer.state.global_step, optimizer.param_groups[0]["lr"]

    straight = run("transformers", EPOCHS, False)
    run("transformers again", EPOCHS - 1, False)
    return straight, run("transformers again", EPOCHS, True)


def lightning(sharded: bool) -> Any:
    """With DistributedDataParallel and AdamW, or sharded with Muon: trained, and resumed after the second epoch."""
    environment()
    import pytorch_lightning as pl
    from pytorch_lightning.callbacks import ModelCheckpoint
    from pytorch_lightning.strategies import ModelParallelStrategy

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = Network()
            self.network.layers.insert(2, nn.Linear(32, 32))

        def configure_model(self) -> None:
            if sharded:
                fully_shard(self.network, mesh=self.device_mesh["data_parallel"])

        def configure_optimizers(self) -> Any:
            optimizer: Any = sw.AdamW(self.network.named_parameters(), lr=1e-2)
            if sharded:
                optimizer = sw.Muon(self.network, lr=1e-2)
            scheduler = sw.Scheduler(optimizer, sw.cosine(9), total_steps=9)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

        def training_step(self, batch: Any, index: int) -> Any:
            return self.network(*batch)["loss"]

    def run(name: str, epochs: int, resume: bool) -> tuple[list[float], int]:
        module = Module()
        strategy: Any = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1) if sharded else "ddp"
        trainer = pl.Trainer(
            accelerator="cpu", devices=2, strategy=strategy, max_epochs=epochs, accumulate_grad_batches=ACCUMULATE,
            gradient_clip_val=None if sharded else 0.1, callbacks=[ModelCheckpoint(folder(name), save_last=True)],
            logger=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, DataLoader(data(), BATCH), ckpt_path="last" if resume else None)
        return flat(module.network), trainer.global_step

    name = f"lightning{sharded}"
    straight = run(name, EPOCHS, False)
    run(f"{name} again", EPOCHS - 1, False)
    return straight, run(f"{name} again", EPOCHS, True)


CASES: dict[str, Callable[[], Any]] = {
    "accelerate": accelerate,
    "transformers": transformers,
    "lightning": partial(lightning, False),
    "lightning sharded": partial(lightning, True),
}
