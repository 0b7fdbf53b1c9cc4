"""The Hugging Face Trainer: `python examples/with_trainer.py`. The Trainer has its own loop; pass it the optimizer and
the scheduler.

The Trainer itself accumulates, clips and saves (`gradient_accumulation_steps`, `max_grad_norm`), so a Step cannot be
used.
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

import stepwell as sw

EPOCHS, BATCH = 5, 32


class Points(Dataset[dict[str, Tensor]]):
    """Points and their quadrants."""

    def __init__(self) -> None:
        self.points = torch.randn(512, 2)

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        point = self.points[place]
        return {"x": point, "labels": (point[0] > 0).long() * 2 + (point[1] > 0).long()}


class Quadrants(nn.Module):
    """Names the quadrant of a point, as the Trainer wants it: the loss comes out of `forward`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Any]:
        logits = self.net(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def main() -> float:
    """Train; the mean loss of the last epoch."""
    torch.manual_seed(0)
    data, model = Points(), Quadrants()
    updates = EPOCHS * -(-len(data) // BATCH)
    optimizer = sw.AdamW(model.named_parameters(), lr=1e-2)
    scheduler = sw.Scheduler(optimizer, sw.warmup(0.1).then(sw.cosine()), total_steps=updates)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=EPOCHS,
            per_device_train_batch_size=BATCH,
            max_grad_norm=1.0,
            logging_strategy="epoch",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        trainer = Trainer(model, arguments, train_dataset=data, optimizers=(optimizer, scheduler))
        trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry][-1]


if __name__ == "__main__":
    main()
