"""Roles and depths of real models, made from configurations."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stepwell.anatomy import find_roles, role_by_name
from stepwell.groups import NO_DECAY, by_layer, by_role
from tests.anatomy.huggingface import MODELS

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("trainers")]  # importing the models takes seconds: once


@pytest.fixture(scope="module", params=MODELS)
def case(request: pytest.FixtureRequest) -> tuple[str, nn.Module]:
    torch.manual_seed(0)
    return request.param, MODELS[request.param][0]()


def test_roles_and_depths(case: tuple[str, nn.Module]) -> None:
    name, model = case
    _, blocks, expected = MODELS[name]
    anatomy = find_roles(model)
    found = {member.name: (member.role, member.depth) for member in anatomy.members}
    assert {tensor: found.get(tensor) for tensor in expected} == expected
    assert anatomy.blocks == blocks
    assert {member.depth for member in anatomy.members} >= set(range(1, blocks + 1))


def test_norms_and_biases_are_what_the_modules_say(case: tuple[str, nn.Module]) -> None:
    _, model = case
    roles = {member.name: member.role for member in find_roles(model).members}
    norms = [path for path, module in model.named_modules() if "norm" in type(module).__name__.lower()]
    assert norms
    for path in norms:
        for local, _ in model.get_submodule(path).named_parameters(recurse=False):
            assert roles[f"{path}.{local}"] == "norm"
    for path, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)) and module.bias is not None and path not in norms:
            assert roles.get(f"{path}.bias", "bias") == "bias"  # some are tied to another


def test_what_weight_decay_leaves_alone(case: tuple[str, nn.Module]) -> None:
    _, model = case
    members = {member.name: member for member in find_roles(model).members}
    decayed = set()
    for group in by_role(model, lr=1e-3, weight_decay=0.1):
        assert {members[name].role in NO_DECAY for name in group["param_names"]} == {group["weight_decay"] == 0}
        decayed |= set(group["param_names"]) if group["weight_decay"] else set()
    assert decayed
    for name in decayed:
        assert sum(size > 1 for size in members[name].tensor.shape) > 1, name
        assert not name.endswith("bias"), name


def test_rates_fall_from_the_head_to_the_embeddings(case: tuple[str, nn.Module]) -> None:
    name, model = case
    blocks = MODELS[name][1]
    rates = {tensor: group["lr"] for group in by_layer(model, lr=1.0, decay=0.5) for tensor in group["param_names"]}
    for member in find_roles(model).members:
        if member.trained:
            assert rates[member.name] == 0.5 ** (blocks + 1 - member.depth)


def test_what_a_name_alone_says(case: tuple[str, nn.Module]) -> None:
    """Muon goes by names where it is given no model: a hidden matrix of a block must not be taken for a table."""
    _, model = case
    anatomy = find_roles(model)
    for member in anatomy.members:
        if member.is_hidden_matrix and member.role == "matrix" and 0 < member.depth <= anatomy.blocks:
            assert role_by_name(member.name) is None, member.name
        elif member.role in ("embedding", "position", "tied head"):
            assert role_by_name(member.name) in ("embedding", "position"), member.name


def test_the_convolution_that_reads_the_input(case: tuple[str, nn.Module]) -> None:
    name, model = case
    reads = {
        "Whisper": "model.encoder.conv1.weight",
        "wav2vec 2.0": "wav2vec2.feature_extractor.conv_layers.0.conv.weight",
        "ViT": "vit.embeddings.patch_embeddings.projection.weight",
        "Swin": "swin.embeddings.patch_embeddings.projection.weight",
        "ConvNeXt": "convnext.embeddings.patch_embeddings.weight",
        "ResNet": "resnet.embedder.embedder.convolution.weight",
        "ResNet, bottlenecks": "resnet.embedder.embedder.convolution.weight",
        "SegFormer": "segformer.stages.0.patch_embeddings.proj.weight",
        "DETR": "model.backbone.model.embedder.embedder.convolution.weight",
        "CLIP": "vision_model.embeddings.patch_embedding.weight",
    }
    first = [member.name for member in find_roles(model).members if member.first_convolution]
    assert first == [reads[name]] if name in reads else first == []
