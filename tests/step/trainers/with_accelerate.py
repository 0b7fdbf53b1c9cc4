"""A run under Accelerate, which wraps optimizer and scheduler, accumulates, clips and saves.

`python -m tests.step.trainers.with_accelerate FOLDER PASS` is the run that a test kills.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from torch.utils.data import DataLoader

from tests.step.trainers.setting import ACCUMULATE, BATCH, BATCHES, EPOCHS, Outcome, Setting, begin, finish

EVERY = 3  # updates from one checkpoint to the next


def run(setting: Setting) -> Outcome:
    """Train; goes on in the middle of an epoch."""
    network, optimizer, scheduler, data = begin(setting)
    accelerator = Accelerator(
        cpu=True,
        gradient_accumulation_steps=ACCUMULATE,
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True),
    )
    # Its documented default, which release 1.15 loses on the way: micro-batches are added to the scheduler's count.
    accelerator.gradient_state.plugin_kwargs["adjust_scheduler"] = True
    # With a generator of its own the loader draws nothing from the global one, which `load_state` has set before.
    loader = DataLoader(data, BATCH, shuffle=setting.random, generator=torch.Generator())
    model, wrapped, loader, stepped = accelerator.prepare(network, optimizer, loader, scheduler)
    passes = 0
    folder = setting.folder
    if setting.resume:
        assert folder is not None
        newest = max(folder.iterdir(), key=lambda path: int(path.name))
        accelerator.load_state(str(newest))
        passes = int(newest.name)
    for epoch in range(passes // BATCHES, EPOCHS):
        skipped = passes % BATCHES
        batches = accelerator.skip_first_batches(loader, skipped) if skipped else loader
        batches.set_epoch(epoch)
        for x, y in batches:
            passes += 1
            with accelerator.accumulate(model):
                accelerator.backward(model(x, labels=y)["loss"])
                if accelerator.sync_gradients and setting.clip is not None:
                    accelerator.clip_grad_norm_(model.parameters(), setting.clip)
                wrapped.step()
                stepped.step()
                wrapped.zero_grad()
            if folder is not None and accelerator.sync_gradients and scheduler.last_epoch % EVERY == 0:
                accelerator.save_state(str(folder / str(passes)))
    return finish(network, optimizer)


if __name__ == "__main__":
    run(Setting("AdamW int8", random=True, folder=Path(sys.argv[1]), stop_at=int(sys.argv[2]), kill=True))
