"""A recipe explains itself, is stored and read, is built, and says its memory."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

import stepwell as sw
from stepwell.advisor.classics import CLASSICS
from stepwell.errors import UsageError

OPTIMIZERS = (
    "adamw", "adam", "sgd", "lion", "muon", "adan", "sophia", "prodigy", "schedulefreeadamw", "schedulefreesgd",
    "adafactor", "shampoo", "soap", "lamb", "lars", "rmsprop", "adagrad", "nadam", "radam", "lbfgs", "adamw8bit",
    "ademamix", "mars", "adabelief", "asgd", "novograd", "rprop", "signum", "adopt", "laprop",
)  # fmt: skip


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.hidden = nn.Linear(16, 16)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.hidden(self.embedding(x)).tanh()))


@pytest.fixture(scope="module")
def recipe() -> sw.Recipe:
    return sw.advise("ViT-B/16", task="image_classification", batch_size=1024, steps=1000, micro_batch=512)


def test_it_explains_every_value_with_reason_source_and_doubt(recipe: sw.Recipe) -> None:
    text = recipe.explain()
    for choice in recipe.choices.values():
        assert choice.reason
        assert choice.sure in ("high", "medium", "low")
    for word in ("learning rate: 0.001", "why:", "from:", "would change it:", "deit-s-imagenet-1k", "against:", "for:"):
        assert word in text
    assert all(len(line) <= 100 for line in text.splitlines())


def test_toml_and_json_hold_everything(recipe: sw.Recipe) -> None:
    asked = sw.advise("BERT", task="masked_lm", batch_size=256, optimizer="adam", weight_decay=0.01, betas=(0.9, 0.98),
                      saying='urgent "now"\n\\')  # fmt: skip
    for one in (recipe, asked, sw.recipe("dcgan"), sw.recipe("gcn-cora"), recipe.scaled(batch_size=2048)):
        read = sw.Recipe.from_toml(one.to_toml())
        assert read == one
        assert read.explain() == one.explain()
        assert json.loads(one.to_json())["choices"]["lr"]["value"] == one.lr


@pytest.mark.parametrize("text", ["", "format = 2", "format = 1", "not toml ][", 3])
def test_other_text_is_refused(text: Any) -> None:
    with pytest.raises(UsageError, match="from_toml"):
        sw.Recipe.from_toml(text)


def test_it_builds_and_trains(recipe: sw.Recipe) -> None:
    model = Net()
    optimizer, step = recipe.build(model)
    assert type(optimizer) is sw.AdamW
    decays = {group["weight_decay"] for group in optimizer.param_groups}
    assert decays == {0.0, 0.05}
    x, y = torch.randint(20, (8,)), torch.randint(4, (8,))
    for _ in range(4):
        done = step(nn.functional.cross_entropy(model(x), y))
    assert done.updated
    assert step.number == 2  # two micro-batches each


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_builds_with_a_range_and_a_word_on_its_source(recipe: sw.Recipe, name: str) -> None:
    other = recipe.with_optimizer(name)
    optimizer, _ = other.build(Net()) if name != "lbfgs" else (None, None)
    low, high = other.lr_range
    assert low <= other.lr <= high
    assert "asked for" in other["optimizer"].reason
    if optimizer is not None:
        assert type(optimizer).__name__.lower() == name


def test_published_conversions() -> None:
    base = sw.advise("GPT-2 124M", batch_size=512, seq_len=1024, steps=1000)
    vit = sw.advise("ViT-B/16", task="image_classification", batch_size=1024, steps=1000)
    lion = vit.with_optimizer("lion")
    assert 3 <= vit.lr / lion.lr <= 10
    assert 3 <= lion.weight_decay / vit.weight_decay <= 10
    assert any("google/automl" in source for source in lion["lr"].sources)
    muon = vit.with_optimizer("muon")
    assert muon.lr == vit.lr
    assert muon.build(Net())[0].param_groups[0]["adjust_lr_fn"] == "match_rms_adamw"
    assert vit.with_optimizer("prodigy").lr == 1.0
    assert vit.with_optimizer("adamw8bit").lr == vit.lr
    assert 0.01 <= base.with_optimizer("muon").lr <= 0.02  # published near this: microsoft/dion, at twice the batch
    assert vit.with_optimizer("scheduleFreeAdamW").schedule == "constant"


def test_build_needs_the_length_and_a_module(recipe: sw.Recipe) -> None:
    unknown = sw.advise("ViT-B/16", task="image_classification", batch_size=1024)
    with pytest.raises(UsageError, match="give steps"):
        unknown.build(Net())
    assert unknown.build(Net(), steps=100, lr=0.5)[0].param_groups[0]["lr"] > 0
    with pytest.raises(UsageError, match=r"it must be a torch\.nn\.Module"):
        recipe.build([])  # type: ignore[arg-type]


def test_forecast_of_memory(recipe: sw.Recipe) -> None:
    model = Net()
    elements = sum(tensor.numel() for tensor in model.parameters())
    assert recipe.forecast(model).total >= 16 * elements


def test_an_unknown_value_is_named(recipe: sw.Recipe) -> None:
    with pytest.raises(UsageError, match=r"did you mean 'lr'|known:"):
        recipe["lrr"]


@pytest.mark.parametrize("name", CLASSICS)
def test_recipes_by_name_are_as_published(name: str) -> None:
    from stepwell.advisor.published import find

    recipe, row = sw.recipe(name), find(CLASSICS[name])
    if row.lr is not None and row.lr_is_peak:
        assert recipe.lr == row.lr
        assert recipe["lr"].sources == (row.source,)
    if row.weight_decay is not None:
        assert recipe.weight_decay == row.weight_decay
    assert any(row.source in note for note in recipe.notes)


def test_the_seeds_recipes_are_there_and_forty_more() -> None:
    from stepwell.advisor.published import published

    for name in ("resnet50-imagenet", "bert-pretraining", "bert-finetuning", "dcgan", "vit-b16-imagenet"):
        assert sw.recipe(name).lr > 0
    assert len(published()) >= 45
    with pytest.raises(UsageError, match="unknown recipe"):
        sw.recipe("nothing of the kind")
