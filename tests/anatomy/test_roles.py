"""Roles and depths, on small models with the names of the libraries that people train with."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from stepwell.errors import UsageError
from stepwell.groups import ROLES, find_roles
from tests.anatomy import lookalikes as look

# model, how many blocks it has, and for some names: (role, depth)
TABLE: list[tuple[Callable[[], nn.Module], int, dict[str, tuple[str, int]]]] = [
    (
        look.torchvision_resnet,
        4,
        {
            "conv1.weight": ("convolution", 0),
            "bn1.bias": ("norm", 0),
            "layer1.0.conv1.weight": ("convolution", 1),
            "layer1.1.bn2.weight": ("norm", 2),
            "layer2.0.downsample.0.weight": ("convolution", 3),
            "layer2.1.conv2.weight": ("convolution", 4),
            "fc.weight": ("head", 5),
            "fc.bias": ("bias", 5),
        },
    ),
    (
        look.torchvision_vgg,
        4,
        {
            "features.0.weight": ("convolution", 1),
            "features.1.weight": ("norm", 1),
            "features.3.bias": ("bias", 2),
            "classifier.0.weight": ("matrix", 3),
            "classifier.2.weight": ("matrix", 4),
            "classifier.4.weight": ("head", 5),
        },
    ),
    (
        look.torchvision_convnext,
        4,
        {
            "features.0.0.weight": ("convolution", 0),
            "features.1.0.layer_scale": ("scalar", 1),
            "features.1.1.block.2.weight": ("matrix", 2),
            "features.2.1.weight": ("convolution", 3),
            "features.3.0.block.0.weight": ("convolution", 3),
            "features.3.1.block.1.weight": ("norm", 4),
            "classifier.0.weight": ("norm", 5),
            "classifier.2.weight": ("head", 5),
        },
    ),
    (
        look.torchvision_efficientnet,
        3,
        {
            "features.0.0.weight": ("convolution", 0),
            "features.1.0.block.1.0.weight": ("convolution", 1),
            "features.2.1.block.2.fc1.weight": ("convolution", 3),
            "features.3.0.weight": ("convolution", 4),
            "classifier.1.weight": ("head", 4),
        },
    ),
    (
        look.torchvision_vit,
        3,
        {
            "class_token": ("embedding", 0),
            "encoder.pos_embedding": ("position", 0),
            "encoder.layers.encoder_layer_0.self_attention.in_proj_weight": ("matrix", 1),
            "encoder.layers.encoder_layer_2.mlp.3.weight": ("matrix", 3),
            "encoder.ln.weight": ("norm", 4),
            "heads.head.weight": ("head", 4),
        },
    ),
    (
        look.timm_vit,
        4,
        {
            "cls_token": ("embedding", 0),
            "pos_embed": ("position", 0),
            "patch_embed.proj.weight": ("convolution", 0),
            "blocks.0.ls1.gamma": ("scalar", 1),
            "blocks.3.attn.qkv.weight": ("matrix", 4),
            "blocks.3.attn.qkv.bias": ("bias", 4),
            "norm.weight": ("norm", 5),
            "head.weight": ("head", 5),
        },
    ),
    (
        look.timm_convnext,
        5,
        {
            "stem.0.weight": ("convolution", 0),
            "stages.0.blocks.0.conv_dw.weight": ("convolution", 1),
            "stages.1.downsample.1.weight": ("convolution", 2),
            "stages.1.blocks.0.gamma": ("scalar", 2),
            "stages.2.blocks.1.mlp.fc1.weight": ("matrix", 4),
            "stages.2.blocks.2.norm.weight": ("norm", 5),
            "head.norm.weight": ("norm", 6),
            "head.fc.weight": ("head", 6),
        },
    ),
    (
        look.convnext_of_the_paper,
        6,
        {
            "downsample_layers.0.0.weight": ("convolution", 0),
            "stages.0.0.conv_dw.weight": ("convolution", 1),
            "downsample_layers.1.0.weight": ("norm", 2),
            "downsample_layers.1.1.weight": ("convolution", 2),
            "stages.1.0.gamma": ("scalar", 2),
            "downsample_layers.2.1.weight": ("convolution", 5),
            "stages.2.1.mlp.fc1.weight": ("matrix", 6),
            "norm.weight": ("norm", 7),
            "head.weight": ("head", 7),
        },
    ),
    (
        look.openai_clip,
        2,
        {
            "positional_embedding": ("position", 0),
            "logit_scale": ("scalar", 0),
            "token_embedding.weight": ("embedding", 0),
            "transformer.resblocks.1.attn.qkv.weight": ("matrix", 2),
            "ln_final.weight": ("norm", 3),
            "text_projection": ("head", 3),
        },
    ),
    (
        look.stacked_experts,
        2,
        {
            "layers.0.router.weight": ("matrix", 1),
            "layers.0.w1": ("matrix", 1),
            "layers.0.b1": ("bias", 1),
            "layers.1.b2": ("bias", 2),
            "layers.1.b": ("matrix", 2),
            "head.weight": ("head", 3),
        },
    ),
    (
        look.timm_swin,
        4,
        {
            "layers.1.blocks.0.attn.relative_position_bias_table": ("position", 3),
            "layers.1.blocks.1.mlp.fc1.weight": ("matrix", 4),
            "head.weight": ("head", 5),
        },
    ),
    (
        look.huggingface_bert,
        4,
        {
            "bert.embeddings.word_embeddings.weight": ("embedding", 0),
            "bert.embeddings.position_embeddings.weight": ("position", 0),
            "bert.embeddings.token_type_embeddings.weight": ("embedding", 0),
            "bert.embeddings.LayerNorm.bias": ("norm", 0),
            "bert.encoder.layer.3.attention.self.query.weight": ("matrix", 4),
            "bert.encoder.layer.3.attention.output.LayerNorm.weight": ("norm", 4),
            "bert.pooler.dense.weight": ("matrix", 5),
            "classifier.weight": ("head", 5),
        },
    ),
    (
        look.huggingface_gpt2,
        4,
        {
            "transformer.wte.weight": ("tied head", 0),
            "transformer.wpe.weight": ("position", 0),
            "transformer.h.3.attn.c_attn.weight": ("matrix", 4),
            "transformer.h.3.attn.c_attn.bias": ("bias", 4),
            "transformer.ln_f.weight": ("norm", 5),
        },
    ),
    (
        lambda: look.huggingface_gpt2(tied=False),
        4,
        {"transformer.wte.weight": ("embedding", 0), "lm_head.weight": ("head", 5)},
    ),
    (
        look.Llama,
        4,
        {
            "model.embed_tokens.weight": ("embedding", 0),
            "model.layers.3.self_attn.q_proj.weight": ("matrix", 4),
            "model.layers.3.input_layernorm.weight": ("norm", 4),
            "model.norm.weight": ("norm", 5),
            "lm_head.weight": ("head", 5),
        },
    ),
    (
        look.lora_llama,
        4,
        {
            "model.layers.2.self_attn.v_proj.lora_A.default.weight": ("matrix", 3),
            "model.layers.2.self_attn.v_proj.base_layer.weight": ("matrix", 3),
        },
    ),
    (
        look.torch_encoder,
        4,
        {
            "embed.weight": ("embedding", 0),
            "encoder.layers.3.self_attn.in_proj_weight": ("matrix", 4),
            "encoder.layers.3.self_attn.in_proj_bias": ("bias", 4),
            "encoder.layers.3.linear1.weight": ("matrix", 4),
            "encoder.layers.0.norm1.weight": ("norm", 1),
            "out.weight": ("head", 5),
        },
    ),
    (
        look.torch_lstm,
        1,
        {
            "rnn.weight_ih_l0": ("recurrent", 1),
            "rnn.weight_hr_l1": ("recurrent", 1),
            "rnn.bias_hh_l1": ("bias", 1),
            "decoder.weight": ("head", 2),
        },
    ),
    (
        look.plain_cnn,
        3,
        {
            "conv2.weight": ("convolution", 2),
            "act.weight": ("scalar", 2),
            "fc1.weight": ("matrix", 3),
            "fc2.weight": ("head", 4),
            "fc2.bias": ("bias", 4),
        },
    ),
    (
        look.mixture,
        2,
        {
            "temperature": ("scalar", 0),
            "layers.1.experts.2.w1.weight": ("matrix", 2),
            "layers.1.heads.0.key.weight": ("matrix", 2),
        },
    ),
    (
        look.wrapped,
        4,
        {"0.layer2.1.conv1.weight": ("convolution", 4), "0.fc.weight": ("matrix", 5), "1.weight": ("head", 5)},
    ),
    (
        lambda: nn.Sequential(nn.Linear(4, D), nn.Tanh(), nn.Linear(D, D), nn.Tanh(), nn.Linear(D, 1)),
        2,
        {"0.weight": ("matrix", 1), "2.weight": ("matrix", 2), "4.weight": ("head", 3), "4.bias": ("bias", 3)},
    ),
    (lambda: nn.Linear(4, 2), 0, {"weight": ("head", 1), "bias": ("bias", 1)}),
]
D = look.D


@pytest.mark.parametrize(("make", "blocks", "expected"), TABLE, ids=[next(iter(row[2])) for row in TABLE])
def test_roles_and_depths(make: Callable[[], nn.Module], blocks: int, expected: dict[str, tuple[str, int]]) -> None:
    model = make()
    anatomy = find_roles(model)
    found = {member.name: (member.role, member.depth) for member in anatomy.members}
    assert {name: found.get(name) for name in expected} == expected
    assert anatomy.blocks == blocks
    assert [id(m.tensor) for m in anatomy.members] == [id(p) for p in model.parameters()]
    assert {m.role for m in anatomy.members} <= set(ROLES)
    assert {m.depth for m in anatomy.members} >= set(range(1, blocks + 1))  # no depth is skipped


def test_every_role_is_found_somewhere() -> None:
    assert {m.role for make, _, _ in TABLE for m in find_roles(make()).members} == set(ROLES)


def test_all_names_of_a_tied_tensor() -> None:
    member = find_roles(look.huggingface_gpt2()).members[0]
    assert member.names == ("transformer.wte.weight", "lm_head.weight")


def test_what_marks_a_convolution() -> None:
    members = {m.name: m for m in find_roles(look.timm_convnext()).members}
    assert [n for n, m in members.items() if m.first_convolution] == ["stem.0.weight"]
    assert members["stages.0.blocks.0.conv_dw.weight"].depthwise
    assert not members["stages.1.downsample.1.weight"].depthwise
    gray = {m.name: m for m in find_roles(look.plain_cnn()).members}
    assert not gray["conv1.weight"].depthwise  # one input channel is no group


def test_embedding_and_head_keep_their_ends_in_whatever_order_they_were_registered() -> None:
    blocks = nn.ModuleList(look.TimmBlock() for _ in range(2))
    model = look.named(head=nn.Linear(D, 2), blocks=blocks, tokens=nn.Embedding(9, D), pos_embed=look.zeros(1, 5, D))
    depths = {m.name: (m.role, m.depth) for m in find_roles(model).members}
    assert depths["tokens.weight"] == ("embedding", 0)
    assert depths["pos_embed"] == ("position", 0)
    assert depths["head.weight"] == ("head", 3)
    assert depths["head.bias"] == ("bias", 3)


def test_weight_norm_keeps_the_roles() -> None:
    model = nn.Sequential(
        torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, D)),
        torch.nn.utils.parametrizations.weight_norm(nn.Conv1d(D, D, 3)),
        nn.Linear(D, 2),
    )
    roles = {m.name: m.role for m in find_roles(model).members}
    assert roles["0.parametrizations.weight.original0"] == "scalar"
    assert roles["0.parametrizations.weight.original1"] == "matrix"
    assert roles["1.parametrizations.weight.original1"] == "convolution"
    assert roles["1.bias"] == "bias"


def test_a_layer_with_one_output_is_still_a_matrix() -> None:
    roles = {m.name: m.role for m in find_roles(nn.Sequential(nn.Linear(4, 1), nn.Linear(1, 3))).members}
    assert roles == {"0.weight": "matrix", "0.bias": "bias", "1.weight": "head", "1.bias": "bias"}


def test_refusals() -> None:
    with pytest.raises(UsageError, match=r"model is a list; it must be a torch.nn.Module"):
        find_roles([nn.Linear(1, 1)])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"the model \(ReLU\) has no parameters"):
        find_roles(nn.ReLU())
    with pytest.raises(UsageError, match=r"'1\.weight' is lazy and has no shape yet"):
        find_roles(nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(2)))
