"""Hugging Face Accelerate: `accelerate launch examples/with_accelerate.py`, on one process or many.

Accelerate places the model and splits the data; the Step does the rest. Pass to the Step the prepared model (so that
gradients are synchronized once per update), the optimizer without `prepare`, and Accelerate's scaler. After
`accelerator.register_for_checkpointing(step)`, `save_state` and `load_state` include the Step.
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import stepwell as sw
from stepwell.step import Step

ACCUMULATE, EPOCHS = 2, 10


def main() -> float:
    """Train a classifier of points by quadrant; the mean loss of the last epoch."""
    torch.manual_seed(0)
    points = torch.randn(512, 2)
    data = TensorDataset(points, (points[:, 0] > 0).long() * 2 + (points[:, 1] > 0).long())
    model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = sw.AdamW(model.named_parameters(), lr=1e-2)

    accelerator = Accelerator()  # mixed_precision="fp16" works as well
    model, loader = accelerator.prepare(model, DataLoader(data, 32, shuffle=True))
    updates = EPOCHS * -(-len(loader) // ACCUMULATE)
    step = Step(
        optimizer,
        sw.warmup(0.1).then(sw.cosine()),
        clip_norm=1.0,
        accumulate=ACCUMULATE,
        scaler=accelerator.scaler,
        total_steps=updates,
        model=model,
    )
    mean = float("nan")
    for _ in range(EPOCHS):
        losses = []
        for x, y in step.batches(loader):
            with accelerator.autocast():
                value = nn.functional.cross_entropy(model(x), y)
            losses.append(step(value))
        mean = sum(done.loss or 0.0 for done in losses) / len(losses)
        accelerator.print(f"loss {mean:.3f} after {step.number} updates")
    return mean


if __name__ == "__main__":
    main()
