"""What the advisor sees in a module: kind, size, norm layers, frozen, pretrained and tied parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import stepwell as sw
from stepwell.errors import UsageError
from tests.advisor import models

# model, architecture, family, optimizer
KINDS: list[tuple[Callable[[], Any], str, str, str]] = [
    (models.Residual, "cnn", "cnn_classification", "SGD"),
    (models.Plain, "cnn", "cnn_classification", "SGD"),
    (models.Patches, "vit", "vit_supervised", "AdamW"),
    (models.Words, "causal_lm", "lm_pretraining", "AdamW"),
    (lambda: models.Words(2), "masked_lm", "fine_tuning", "AdamW"),
    (lambda: nn.Transformer(64, 4, 1, 1, batch_first=True), "seq2seq", "translation", "Adam"),
    (models.Graph, "graph", "gnn", "Adam"),
    (models.ActorCritic, "policy", "rl", "Adam"),
    (models.Denoiser, "diffusion", "diffusion", "Adam"),
    (models.Segmenter, "segmenter", "detection_segmentation", "SGD"),
    (models.Recurrent, "recurrent", "rnn_lm", "SGD"),
    (models.Clicks, "recommender", "recsys", "Adam"),
    (models.Gan, "gan", "gan", "Adam"),
    (lambda: [models.Gan().generator, models.Gan().discriminator], "gan", "gan", "Adam"),
    (models.Adapted, "lora", "fine_tuning", "AdamW"),
    (models.Speech, "speech", "speech_audio", "AdamW"),
    (models.mobile, "mobile", "cnn_classification", "RMSprop"),
    (models.modern, "modern_cnn", "cnn_classification", "AdamW"),
    (lambda: nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 1)), "pinn", "scientific_inverse", "Adam"),
    (lambda: nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 2)), "mlp", "tabular_timeseries", "Adam"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "architecture", "family", "optimizer"), KINDS, ids=[f"{row[1]}-{i}" for i, row in enumerate(KINDS)]
)
def test_kinds(make: Callable[[], Any], architecture: str, family: str, optimizer: str) -> None:
    recipe = sw.advise(make(), batch_size=64, steps=1000)
    one = recipe.situation
    assert (one.architecture, one.family) == (architecture, family)
    assert one.origin["architecture"] == "seen"
    assert recipe.optimizer.replace("AdamW", "Adam") == optimizer.replace("AdamW", "Adam")


def test_a_network_without_norm_layers_gets_a_smaller_rate() -> None:
    with_norm = sw.advise(models.Residual(), batch_size=256)
    without = sw.advise(models.Plain(), batch_size=256)
    assert without.lr == pytest.approx(with_norm.lr / 10)
    assert any("no norm layer" in note for note in without.notes)
    assert "batch norm" in with_norm.situation.traits


def test_parameters_and_tied_weights() -> None:
    model = models.Tied()
    recipe = sw.advise(model, batch_size=64, steps=10)
    assert recipe.situation.params == sum(tensor.numel() for tensor in model.parameters())
    assert "tied weights" in recipe.situation.traits
    assert "tied weights" not in sw.advise(models.Words(), batch_size=64).situation.traits


def test_frozen_parts_and_linear_probes() -> None:
    head = sw.advise(models.probe())
    assert head.situation.regime == "fine_tune"
    assert head.lr < 0.2
    assert any("linear_probe" in note for note in head.notes)
    assert sw.advise(models.probe(), regime="linear_probe").lr > 1
    half = models.Residual()
    half.stem.weight.requires_grad = False
    recipe = sw.advise(half)
    assert recipe.situation.regime == "fine_tune"
    assert any("frozen" in note for note in recipe.notes)
    assert sw.advise(half, regime="from_scratch").situation.regime == "from_scratch"


@pytest.mark.parametrize("make", [models.Patches, models.Residual, models.Words])
def test_trained_weights_are_a_hint(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    assert "pretrained" not in sw.advise(make()).situation.traits
    recipe = sw.advise(models.as_if_trained(make()))
    assert "pretrained" in recipe.situation.traits
    assert any("hint only" in note for note in recipe.notes)


def test_heavy_tails_without_norm_layers_are_a_hint() -> None:
    torch.manual_seed(0)
    model = models.Plain()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.copy_(torch.randn_like(tensor) * torch.randn_like(tensor))
    assert "pretrained" in sw.advise(model).situation.traits


@pytest.mark.parametrize(
    "initialize",
    [
        nn.init.kaiming_normal_,
        nn.init.xavier_uniform_,
        nn.init.orthogonal_,
        lambda w: nn.init.trunc_normal_(w, std=0.02),
    ],
)
def test_no_initialization_looks_trained(initialize: Any) -> None:
    torch.manual_seed(0)
    model = models.Plain()
    for tensor in model.parameters():
        if tensor.ndim > 1:
            initialize(tensor)
    assert "pretrained" not in sw.advise(model).situation.traits


def test_sparse_embeddings() -> None:
    recipe = sw.advise(models.Clicks(), batch_size=64)
    assert "sparse embeddings" in recipe["optimizer"].reason
    only = nn.Embedding(10, 4, sparse=True)
    assert sw.advise(only, family="gnn", task="node embedding").optimizer == "SparseAdam"


def test_the_model_is_left_as_it_was() -> None:
    model = models.Residual().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sw.advise(model)
    assert not model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_is_given_beats_what_is_seen() -> None:
    recipe = sw.advise(models.Patches(), family="ssl_vision", task="self_supervised_pretraining", batch_size=4096)
    assert recipe.situation.family == "ssl_vision"
    assert recipe.situation.origin["family"] == "given"
    assert recipe.betas == (0.9, 0.95)


def test_a_model_without_parameters_is_refused() -> None:
    with pytest.raises(UsageError, match="no parameters"):
        sw.advise(nn.ReLU())
    with pytest.raises(UsageError, match=r"it must be a torch\.nn\.Module"):
        sw.advise([nn.ReLU(), 3])


def test_meta_and_lazy_modules() -> None:
    with torch.device("meta"):
        model = models.Words()
    assert sw.advise(model, batch_size=8).situation.architecture == "causal_lm"
    lazy = nn.Sequential(nn.LazyLinear(8), nn.Linear(8, 2))
    assert any("lazy" in note for note in sw.advise(lazy).notes)
