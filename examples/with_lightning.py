"""PyTorch Lightning: `python examples/with_lightning.py`. Manual optimization with a Step.

The Step is in Lightning's checkpoints: `trainer.fit(model, loader, ckpt_path="last")` resumes from them.
`with_lightning_two.py` has two optimizers.
"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import stepwell as sw
from stepwell.step import Step


class Quadrants(lightning.LightningModule):
    """Names the quadrant of a point."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.net = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 4))
        self.losses: list[Any] = []
        self.saved: dict[str, Any] | None = None

    def configure_optimizers(self) -> Any:
        return sw.AdamW(self.net.named_parameters(), lr=1e-2)

    def on_fit_start(self) -> None:
        # `global_step`, which `max_steps` and ModelCheckpoint use, counts the Step's updates.
        updates = int(self.trainer.estimated_stepping_batches)
        self.step = Step(
            self.optimizers(), sw.warmup(0.1).then(sw.cosine()), clip_norm=1.0, ema=0.9, total_steps=updates
        )

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        x, y = batch
        self.losses.append(self.step(nn.functional.cross_entropy(self.net(x), y)))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["step"] = self.step.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.saved = checkpoint["step"]  # loaded later: the optimizer does not exist yet

    def on_train_start(self) -> None:
        if self.saved is not None:
            self.step.load_state_dict(self.saved)
            self.saved = None

    def on_train_epoch_end(self) -> None:
        print(f"loss {self.losses[-1].loss:.3f} after {self.step.number} updates")


def main() -> float:
    """Train; the loss of the last batch."""
    torch.manual_seed(0)
    points = torch.randn(512, 2)
    data = TensorDataset(points, (points[:, 0] > 0).long() * 2 + (points[:, 1] > 0).long())
    model = Quadrants()
    trainer = lightning.Trainer(
        max_epochs=5, accelerator="auto", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(model, DataLoader(data, 32, shuffle=True))
    return model.losses[-1].loss


if __name__ == "__main__":
    main()
