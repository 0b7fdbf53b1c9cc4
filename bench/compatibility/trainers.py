"""Training under the trainers of others; each is compared with the plain loop over the same batches."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from compatibility.subjects import STEPS, Subject, batch, expect, flat, network, plain, start


def _data(subject: Subject) -> TensorDataset:
    """The batches of `subjects.train`, one after the other."""
    batches = [batch(number, subject.dtype) for number in range(STEPS)]
    return TensorDataset(torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches]))


def lightning(subject: Subject) -> None:
    """Automatic optimization; Lightning hands its closure to `step`."""
    import pytorch_lightning as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network(subject.dtype)

        def configure_optimizers(self) -> Any:
            return subject.make(self.inner)

        def training_step(self, pair: tuple[Tensor, Tensor], index: int) -> Tensor:
            return nn.functional.cross_entropy(self.inner(pair[0]), pair[1])

    module = Module()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(_data(subject), 8))
    expect(flat(module.inner), plain(subject), "beside a plain loop")


def accelerate(subject: Subject) -> None:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState

    try:
        accelerator = Accelerator(cpu=True)
        model, optimizer = start(subject)
        model, optimizer, loader = accelerator.prepare(model, optimizer, DataLoader(_data(subject), 8))
        for x, y in loader:

            def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x), y)
                accelerator.backward(loss)
                return loss

            if subject.takes_closure:
                optimizer.step(closure)
            else:
                closure()
                optimizer.step()
        expect(flat(model), plain(subject), "beside a plain loop")
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


def transformers(subject: Subject) -> None:
    """The Hugging Face Trainer, which calls `step` without a closure."""
    from transformers import Trainer, TrainingArguments

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network(subject.dtype)

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            logits = self.inner(x)
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    class InOrder(Trainer):
        def _get_train_sampler(self, *_: object) -> None:  # type: ignore[override]  # None: in order
            return None

    module = Module()
    optimizer = subject.make(module.inner)
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    samples = [{"x": x, "labels": y} for x, y in _data(subject)]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=1,
            per_device_train_batch_size=8,
            max_grad_norm=0.0,
            save_strategy="no",
            use_cpu=True,
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        # a list serves as a dataset here, which the Trainer's types do not say
        InOrder(module, arguments, train_dataset=samples, optimizers=(optimizer, constant)).train()  # type: ignore[arg-type]
    expect(flat(module.inner), plain(subject), "beside a plain loop")


TRAINERS = {"Lightning": lightning, "Accelerate": accelerate, "Hugging Face Trainer": transformers}
