"""What is advised for common trainings, and what is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

import stepwell as sw
from stepwell.advisor.published import published
from stepwell.errors import UsageError

COMMON: list[tuple[dict[str, Any], str, float, str, str]] = [
    (
        {"model": "ResNet-101", "dataset": "ImageNet-1k", "batch_size": 256, "epochs": 90},
        "SGD",
        0.1,
        "l2",
        "stairs cosine",
    ),
    (
        {"model": "ViT-L/16", "task": "image_classification", "batch_size": 4096, "epochs": 300},
        "AdamW",
        2e-3,
        "decoupled",
        "cosine",
    ),
    (
        {"model": "GPT-2 774M", "batch_size": 512, "seq_len": 1024, "steps": 100_000},
        "AdamW",
        4e-4,
        "decoupled",
        "cosine",
    ),
    (
        {"model": "bert-base", "regime": "fine-tuning", "dataset": "GLUE", "batch_size": 32, "epochs": 3},
        "AdamW",
        2e-5,
        "decoupled",
        "linear",
    ),
    ({"model": "StyleGAN2", "dataset": "FFHQ 256", "batch_size": 32}, "Adam", 2e-3, "none", "constant"),
    ({"model": "ppo on atari"}, "Adam", 3e-4, "none", "constant linear"),
    ({"family": "gnn", "task": "node_classification", "model": "GCNII"}, "Adam", 0.01, "l2", "constant"),
    ({"model": "EfficientNet-B0", "dataset": "ImageNet-1k", "batch_size": 768}, "RMSprop", 0.048, "l2", "stairs"),
    ({"model": "LoRA Llama 7B", "task": "instruction tuning", "batch_size": 16}, "AdamW", 2e-4, "none", "constant"),
    ({"model": "YOLOX", "dataset": "COCO", "batch_size": 64}, "SGD", 0.01, "l2", "cosine"),
    ({"model": "SegFormer", "dataset": "ADE20K", "batch_size": 16}, "AdamW", 1e-4, "decoupled", "stairs poly"),
    (
        {"model": "U-Net DDPM", "dataset": "CIFAR-10", "batch_size": 128, "family": "diffusion"},
        "Adam",
        2e-4,
        "none",
        "constant",
    ),
]


@pytest.mark.parametrize(
    ("given", "optimizer", "lr", "form", "schedules"), COMMON, ids=[row[0].get("model") for row in COMMON]
)
def test_common_trainings(given: dict[str, Any], optimizer: str, lr: float, form: str, schedules: str) -> None:
    recipe = sw.advise(**given)
    assert recipe.optimizer == optimizer
    assert lr / 3 <= recipe.lr <= lr * 3
    assert recipe.lr_range[0] <= recipe.lr <= recipe.lr_range[1]
    assert recipe.decay_form == form
    assert recipe.schedule in schedules.split()


def test_a_row_of_the_data_can_be_given_as_it_is() -> None:
    row = dataclasses.asdict(next(row for row in published() if row.id == "swin-t-imagenet-1k"))
    recipe = sw.advise(row)
    assert (recipe.optimizer, recipe.weight_decay) == ("AdamW", 0.05)
    inputs = ("model", "family", "task", "dataset", "regime", "params", "batch_size", "batch_unit", "seq_len",
              "total_steps", "total_epochs", "total_tokens")  # fmt: skip
    assert sw.advise(**{name: row[name] for name in inputs}) == recipe
    with pytest.raises(UsageError, match="given twice"):
        sw.advise(row, batch_size=3)


@pytest.mark.parametrize("row", published()[::13], ids=lambda row: row.id)
def test_inputs_of_every_row_are_understood(row: Any) -> None:
    recipe = sw.advise(dataclasses.asdict(row))
    assert recipe.situation.family == row.family
    assert recipe.near[0][1] == 0.0 or recipe.near[0][0] == row.id  # the row itself is the nearest
    assert not any("not known; only the family" in note for note in recipe.notes)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"family": "convnets"}, "unknown family 'convnets'"),
        ({"family": "cnn_clasification"}, "did you mean 'cnn_classification'"),
        ({"task": "image_clasification"}, "did you mean 'image_classification'"),
        ({"task": "xyzzy"}, "unknown task 'xyzzy'"),
        ({"task": "causal_lm", "regime": "sideways"}, "unknown regime 'sideways'"),
        ({"model": 3}, "it must be a torch.nn.Module, or the name of a model"),
        ({"task": "causal_lm", "batch_size": -1}, "batch_size=-1"),
        ({"task": "causal_lm", "batch_size": float("nan")}, "batch_size=nan"),
        ({"task": "causal_lm", "steps": 0}, "steps=0"),
        ({"task": "causal_lm", "steps": 5, "total_steps": 6}, "are the same; give one"),
        ({"task": "causal_lm", "devices": 1.5}, "devices=1.5"),
        ({"task": "causal_lm", "optimizer": "adamv"}, "did you mean"),
        ({"task": "causal_lm", "lr": -0.1}, "lr=-0.1"),
        ({"task": "causal_lm", "lr": True}, "lr=True"),
        ({"task": "causal_lm", "betas": (0.9, 1.0)}, "betas=1.0"),
        ({"task": "causal_lm", "priority": "cheap"}, "priority='cheap'"),
        ({"task": "causal_lm", "tuning": "some"}, "tuning='some'"),
        ({"task": "causal_lm", "saying": 3}, "saying=3"),
        ({"task": "causal_lm", "micro_batch": 0}, "micro_batch=0"),
        ({"model": {}}, "the row has none of"),
    ],
)
def test_refusals_are_one_line_and_name_what_is_allowed(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        sw.advise(**given)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_task_of_a_known_family_is_noted() -> None:
    recipe = sw.advise(family="speech_audio", task="bird song")
    assert any("'bird song' is not known" in note for note in recipe.notes)


def test_nothing_is_invented_for_an_unpublished_optimizer() -> None:
    recipe = sw.advise("ViT-B/16", task="image_classification", batch_size=1024, optimizer="ademamix")
    assert "No published setting of AdEMAMix" in recipe["optimizer"].reason
    assert "nearest is" in recipe["optimizer"].reason
    assert "distance" in recipe["optimizer"].reason
    assert recipe["lr"].sure == "low"


def test_accumulation_follows_devices_and_the_micro_batch() -> None:
    recipe = sw.advise("ResNet-50", dataset="ImageNet-1k", batch_size=1024, devices=4, micro_batch=32)
    assert recipe.value("accumulate") == 8


def test_priority_and_memory_matter() -> None:
    given: dict[str, Any] = {"model": "ResNet-50", "dataset": "ImageNet-1k", "batch_size": 256}
    assert sw.advise(**given, priority="fast start").optimizer == "AdamW"
    assert sw.advise(**given, priority="best").optimizer == "SGD"
    tight = sw.advise("Llama 7B", batch_size=64, steps=1000, memory=80)
    assert tight.value("state") == "int8"
    assert any(objection.name == "state-does-not-fit" for objection in tight.objections)


def test_assumptions_are_said() -> None:
    recipe = sw.advise(family="gan")
    assert recipe.situation.origin["regime"] == "assumed"
    assert "regime is assumed: from_scratch" in recipe.notes
    assert any("batch size is not known" in note for note in recipe.notes)


def test_a_base_or_factor_is_said_and_not_used() -> None:
    recipe = sw.advise("Conformer-CTC", family="speech_audio", task="asr", dataset="LibriSpeech", batch_size=2048)
    assert recipe.lr < 0.01
    assert any("a base or a factor: it is not used and never scaled" in note for note in recipe.notes)
