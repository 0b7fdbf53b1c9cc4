"""The doctor inside a Step, Lightning and the Trainer of Hugging Face."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import stepwell as sw
from stepwell.doctor import Doctor
from stepwell.doctor.trainers import LightningDoctor, watch_trainer


def data() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 8, generator=generator)
    return TensorDataset(x, x[:, :4].argmax(1))


def test_a_step_tells_its_losses() -> None:
    torch.manual_seed(0)
    model = nn.Linear(8, 4)
    step = sw.Step(sw.AdamW(model.parameters(), lr=1e-2))
    doctor = Doctor(model, step, live=False)
    x, y = data().tensors
    for _ in range(12):
        step(F.cross_entropy(model(x).softmax(1), y))
    doctor.close()
    assert [one.code for one in doctor.findings] == ["R35"]
    assert len(doctor.record.series[0].values) == 12
    step(F.cross_entropy(model(x), y))
    assert len(doctor.record.series[0].values) == 12, "a closed doctor hears nothing"


def test_lightning(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch")

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]  # imported where installed
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(8, 4)

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return F.cross_entropy(self.net(batch[0]).softmax(1), batch[1])

        def validation_step(self, batch: Any, index: int) -> None:
            self.log("val_loss", F.cross_entropy(self.net(batch[0]), batch[1]))

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

    callback = LightningDoctor(live=False)
    trainer = lightning.Trainer(
        max_epochs=3, accelerator="cpu", callbacks=[callback], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Module(), DataLoader(data(), 32, shuffle=True), DataLoader(data(), 64))
    assert [one.code for one in callback.doctor.findings] == ["R35"]
    assert len(callback.doctor.record.vals) == 3
    assert callback.doctor.record.step == 24


def test_the_trainer_of_hugging_face(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(8, 4)

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            logits = self.net(x).softmax(1)
            return {"loss": F.cross_entropy(logits, labels), "logits": logits}

    rows = [{"x": x, "labels": y} for x, y in zip(*data().tensors, strict=True)]
    arguments = transformers.TrainingArguments(
        str(tmp_path), max_steps=20, per_device_train_batch_size=32, report_to=[], use_cpu=True, disable_tqdm=True,
        save_strategy="no", logging_strategy="no",
    )  # fmt: skip
    trainer = transformers.Trainer(model=Model(), args=arguments, train_dataset=rows)
    callback = watch_trainer(trainer, live=False)
    trainer.train()
    assert callback.doctor.findings[0].code == "R35"
    assert callback.doctor.record.step == 20


def test_another_object_is_refused() -> None:
    with pytest.raises(sw.UsageError, match=r"no transformers\.Trainer"):
        watch_trainer(nn.Linear(2, 2))
