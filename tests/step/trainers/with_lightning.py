"""A run under Lightning with automatic optimization: it accumulates, clips, steps the scheduler and saves by itself.

`python -m tests.step.trainers.with_lightning FOLDER PASS` is the run that a test kills.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from tests.step.trainers.setting import ACCUMULATE, BATCH, EPOCHS, UPDATES, Outcome, Setting, begin, finish


class Module(lightning.LightningModule):
    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.network, self.optimizer, self.scheduler, data = begin(setting)
        self.shuffling = torch.Generator().manual_seed(1)
        self.loader = DataLoader(data, BATCH, shuffle=setting.random, generator=self.shuffling)

    def train_dataloader(self) -> Any:
        return self.loader

    def configure_optimizers(self) -> Any:
        assert self.trainer.estimated_stepping_batches == UPDATES
        return {"optimizer": self.optimizer, "lr_scheduler": {"scheduler": self.scheduler, "interval": "step"}}

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        x, y = batch
        return self.network(x, y)["loss"]

    # Lightning saves no random generators. It makes the first iterator of a run that goes on before `on_fit_start`, so
    # this is the hook in which they must be set.
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["drawn"] = torch.get_rng_state(), self.shuffling.get_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        torch.set_rng_state(checkpoint["drawn"][0])
        self.shuffling.set_state(checkpoint["drawn"][1])


def run(setting: Setting) -> Outcome:
    """Train; goes on at the beginning of an epoch: within one, Lightning needs a loader that saves its own place."""
    module = Module(setting)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        accumulate_grad_batches=ACCUMULATE,
        gradient_clip_val=setting.clip,
        callbacks=[] if setting.folder is None else [ModelCheckpoint(setting.folder, save_last=True)],
        enable_checkpointing=setting.folder is not None,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, ckpt_path="last" if setting.resume else None)
    return finish(module.network, module.optimizer)


if __name__ == "__main__":
    run(Setting("AdamW int8", random=True, folder=Path(sys.argv[1]), stop_at=int(sys.argv[2]), kill=True))
