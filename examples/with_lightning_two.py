"""PyTorch Lightning with two optimizers, a GAN: `python examples/with_lightning_two.py`. One Step for each network.

Lightning's `global_step` counts the updates of both networks, as in Lightning with two optimizers: `max_steps=800`
means 400 updates of each network.
"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as lightning
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, TensorDataset

import stepwell as sw
from stepwell.step import Step

CENTER = 3.0  # the mean of the points that the generator learns to produce


def network(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 32), nn.LeakyReLU(0.2), nn.Linear(32, outputs))


class Gan(lightning.LightningModule):
    """Makes points like those it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.judge = network(4, 2), network(2, 1)
        self.saved: list[dict[str, Any]] | None = None

    def configure_optimizers(self) -> Any:
        return [sw.AdamW(part.named_parameters(), lr=2e-3, betas=(0.5, 0.99)) for part in (self.generator, self.judge)]

    def on_fit_start(self) -> None:
        optimizers = self.optimizers()
        updates = int(self.trainer.estimated_stepping_batches)
        if self.trainer.max_steps > 0:
            updates //= len(optimizers)
        self.steps = [Step(one, sw.constant(), ema=0.9, total_steps=updates) for one in optimizers]

    def training_step(self, batch: tuple[Tensor], index: int) -> None:
        (real,) = batch
        step_generator, step_judge = self.steps
        made = self.generator(torch.randn(len(real), 4, device=self.device))
        verdicts = self.judge(torch.cat([real, made.detach()]))[:, 0]
        truth = torch.cat([torch.ones(len(real)), torch.zeros(len(made))]).to(verdicts)
        step_judge(binary_cross_entropy_with_logits(verdicts, truth))
        fooled = self.judge(made)[:, 0]
        step_generator(binary_cross_entropy_with_logits(fooled, torch.ones_like(fooled)))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["steps"] = [step.state_dict() for step in self.steps]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.saved = checkpoint["steps"]  # loaded later: the optimizers do not exist yet

    def on_train_start(self) -> None:
        for step, state in zip(self.steps, self.saved or [], strict=False):
            step.load_state_dict(state)
        self.saved = None

    def distance(self) -> float:
        """How far the mean of what is made, by the average of the weights, is from the center."""
        with torch.no_grad(), self.steps[0].averaged():
            return float((self.generator(torch.randn(1000, 4)).mean(0) - CENTER).abs().max())


def main() -> float:
    """Train; how far what is made is from what was shown, in units of its spread."""
    torch.manual_seed(0)
    points = CENTER + torch.randn(512, 2)
    model = Gan()
    trainer = lightning.Trainer(
        max_steps=800,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, DataLoader(TensorDataset(points), 32, shuffle=True))
    print(
        f"{trainer.global_step} updates, {[step.number for step in model.steps]} of each, off by {model.distance():.2f}"
    )
    return model.distance()


if __name__ == "__main__":
    main()
