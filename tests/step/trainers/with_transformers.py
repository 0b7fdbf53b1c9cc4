"""A run under the Hugging Face Trainer, which accumulates, clips, steps the scheduler and saves by itself.

`python -m tests.step.trainers.with_transformers FOLDER PASS` is the run that a test kills.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset, TensorDataset
from transformers import Trainer, TrainingArguments

from tests.step.trainers.setting import ACCUMULATE, BATCH, EPOCHS, Outcome, Setting, begin, finish

EVERY = 3  # updates from one checkpoint to the next


class Named(Dataset[dict[str, Tensor]]):
    """Samples by the names of `forward`'s arguments."""

    def __init__(self, data: TensorDataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        x, y = self.data[place]
        return {"x": x, "labels": y}


class InOrder(Trainer):
    def _get_train_sampler(self, *_: object) -> None:  # type: ignore[override]
        return None


def run(setting: Setting) -> Outcome:
    """Train; goes on in the middle of an epoch."""
    network, optimizer, scheduler, data = begin(setting)
    with tempfile.TemporaryDirectory() as unused:
        arguments = TrainingArguments(
            str(setting.folder or unused),
            num_train_epochs=EPOCHS,
            per_device_train_batch_size=BATCH,
            gradient_accumulation_steps=ACCUMULATE,
            max_grad_norm=setting.clip or 0.0,
            save_strategy="no" if setting.folder is None else "steps",
            save_steps=EVERY,
            seed=0,
            use_cpu=True,
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        kind = Trainer if setting.random else InOrder
        trainer = kind(network, arguments, train_dataset=Named(data), optimizers=(optimizer, scheduler))
        trainer.train(resume_from_checkpoint=setting.resume)
    return finish(network, optimizer)


if __name__ == "__main__":
    run(Setting("AdamW int8", random=True, folder=Path(sys.argv[1]), stop_at=int(sys.argv[2]), kill=True))
