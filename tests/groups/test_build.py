"""What each tensor gets, by role, layer and pattern; and Muon's split."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from stepwell import optimizers
from stepwell.errors import UsageError
from stepwell.groups import Groups, by_layer, by_pattern, by_role, find_roles, freeze, muon
from tests.anatomy import lookalikes as look

MODELS = [
    look.torchvision_resnet,
    look.torchvision_vgg,
    look.torchvision_convnext,
    look.torchvision_vit,
    look.timm_vit,
    look.timm_swin,
    look.huggingface_bert,
    look.huggingface_gpt2,
    look.Llama,
    look.lora_llama,
    look.torch_encoder,
    look.torch_lstm,
    look.plain_cnn,
    look.mixture,
]


def settings(groups: Groups, *keys: str) -> dict[str, Any]:
    """What each tensor gets, by name."""
    return {
        name: tuple(group.get(key) for key in keys) if len(keys) > 1 else group.get(keys[0])
        for group in groups
        for name in group["param_names"]
    }


def by_all_means(model: nn.Module) -> list[Groups]:
    built = [
        by_role(model, lr=1e-3, weight_decay=0.1),
        by_role(model, merge=False),
        by_layer(model, lr=1e-3, decay=0.7, weight_decay=0.1),
        by_pattern(model, {"*bias": {"weight_decay": 0.0}}, lr=1e-3) if has_trained_bias(model) else None,
        muon(model, lr=0.02, adamw={"lr": 1e-3}) if has_trained_matrix(model) else None,
    ]
    return [groups for groups in built if groups is not None]


def has_trained_matrix(model: nn.Module) -> bool:
    return any(member.role in ("matrix", "convolution") and member.trained for member in find_roles(model).members)


def has_trained_bias(model: nn.Module) -> bool:
    return any(name.endswith("bias") for name, p in model.named_parameters() if p.requires_grad)


@pytest.mark.parametrize("make", MODELS, ids=lambda f: f.__name__)
def test_each_trained_tensor_is_in_one_group_and_no_group_is_empty(make: Callable[[], nn.Module]) -> None:
    model = make()
    names = {id(p): n for n, p in model.named_parameters()}
    for groups in by_all_means(model):
        assert all(group["params"] for group in groups)
        members = [p for group in groups for p in group["params"]]
        assert sorted(id(p) for p in members) == sorted(id(p) for p in model.parameters() if p.requires_grad)
        assert [n for g in groups for n in g["param_names"]] == [names[id(p)] for p in members]
        assert len({group["name"] for group in groups}) == len(groups)
        for build in (torch.optim.AdamW, optimizers.find("adamw"), optimizers.find("lion")):
            optimizer = build(groups)
            assert [g["param_names"] for g in optimizer.param_groups] == [g["param_names"] for g in groups]
            assert [g.get("lr") for g in groups] == [
                g["lr"] if "lr" in h else None for g, h in zip(optimizer.param_groups, groups, strict=True)
            ]


def test_an_optimizer_does_not_write_into_the_groups() -> None:
    """torch.optim fills in its defaults in place: the next optimizer would take them for the user's."""
    groups = by_role(look.plain_cnn(), weight_decay=0.1)
    before = str(groups)
    torch.optim.SGD(groups, lr=0.5, momentum=0.9)
    assert str(groups) == before
    assert [set(group) for group in groups] == [{"params", "param_names", "name", "weight_decay"}] * 2
    assert torch.optim.AdamW(groups, lr=1e-4).param_groups[0]["lr"] == 1e-4
    groups[0]["lr"] = 1e-3
    assert torch.optim.AdamW(groups).param_groups[0]["lr"] == 1e-3


def test_no_decay_follows_the_roles() -> None:
    groups = by_role(look.timm_vit(), lr=1e-3, weight_decay=0.1)
    assert len(groups) == 2
    decay = settings(groups, "weight_decay")
    without = ("norm", "bias", "ls1", "pos_embed", "cls_token")
    assert decay == {name: 0.0 if any(word in name for word in without) else 0.1 for name in decay}
    assert by_role(look.timm_vit(), no_decay=(), weight_decay=0.1)[0]["name"].startswith("matrix+convolution+embedding")
    assert len(by_role(look.timm_vit(), no_decay=(), weight_decay=0.1)) == 1
    assert (
        settings(by_role(look.Llama(), weight_decay=0.1, no_decay=("embedding",)), "weight_decay")["model.norm.weight"]
        == 0.1
    )


def test_roles_and_patterns_win_over_the_rest() -> None:
    groups = by_role(
        look.Llama(),
        lr=1e-3,
        weight_decay=0.1,
        roles={"embedding": {"lr": 1e-2, "weight_decay": 0.5}, "head": {"lr": 2e-3}},
        patterns={"model.layers.0": {"lr": 5e-4}, re.compile(r"layers\.\d\.mlp"): 2.0},
    )
    got = settings(groups, "lr", "weight_decay")
    assert got["model.embed_tokens.weight"] == (1e-2, 0.5)
    assert got["lm_head.weight"] == (2e-3, 0.1)
    assert got["model.layers.0.mlp.up_proj.weight"] == (5e-4, 0.1)  # the first pattern that matches
    assert got["model.layers.1.mlp.up_proj.weight"] == (2e-3, 0.1)
    assert got["model.layers.0.input_layernorm.weight"] == (5e-4, 0.0)
    assert got["model.layers.1.self_attn.q_proj.weight"] == (1e-3, 0.1)


@pytest.mark.parametrize("make", MODELS, ids=lambda f: f.__name__)
def test_layer_decay_counts_blocks(make: Callable[[], nn.Module]) -> None:
    """lr * decay ^ (blocks + 1 - depth), the same for all tensors of a block however many there are."""
    model = make()
    anatomy = find_roles(model)
    lr = settings(by_layer(model, lr=1.0, decay=0.5), "lr")
    for member in anatomy.members:
        if member.trained:
            assert lr[member.name] == 0.5 ** (anatomy.blocks + 1 - member.depth)
    assert max(lr.values()) == (1.0 if make is not look.mixture and make is not look.lora_llama else 0.5)


def test_layer_decay_of_beit() -> None:
    """12 blocks, decay 0.65: the last block has 0.65, the first 0.65^12, the patch embedding 0.65^13."""
    model = look.timm_vit()
    model.blocks = nn.Sequential(*(look.TimmBlock() for _ in range(12)))
    lr = settings(by_layer(model, lr=1e-3, decay=0.65), "lr")
    assert lr["head.weight"] == lr["norm.weight"] == 1e-3
    assert lr["blocks.11.attn.qkv.weight"] == pytest.approx(1e-3 * 0.65)
    assert lr["blocks.0.norm1.bias"] == pytest.approx(1e-3 * 0.65**12)
    assert lr["patch_embed.proj.weight"] == lr["pos_embed"] == pytest.approx(1e-3 * 0.65**13)


def test_patterns_say_what_they_did() -> None:
    model = look.torchvision_resnet()
    freeze(model, "conv1", "bn1")
    groups = by_pattern(
        model,
        {"fc": 10.0, "layer2*": {"lr": 1e-4}, "layer2.1": 3.0, "*.downsample.*": 2.0, "*bn1*": 5.0, "conv1": 2.0},
        lr=1e-3,
    )
    lr = settings(groups, "lr")
    assert lr["fc.weight"] == pytest.approx(1e-2)
    assert lr["layer2.1.conv1.weight"] == lr["layer2.0.downsample.0.weight"] == 1e-4
    assert lr["layer1.0.bn1.weight"] == pytest.approx(5e-3)
    assert lr["layer1.0.conv1.weight"] == 1e-3
    text = str(groups)
    assert "'layer2.1' has no group: all its parameters are matched by layer2*, which comes first" in text
    assert "'*bn1*' also matches parameters of an earlier pattern: layer2.0.bn1.weight" in text
    assert "'conv1' matches only frozen parameters, so the pattern has no group" in text
    assert "no pattern matches 8 tensors" in text
    assert "frozen, in no group: 3 tensors of 1,192 elements: conv1.weight, bn1.weight, bn1.bias" in text


def test_a_tied_tensor_is_matched_by_any_of_its_names() -> None:
    groups = by_pattern(look.huggingface_gpt2(), {"lm_head": 0.5}, lr=1.0)
    assert settings(groups, "lr")["transformer.wte.weight"] == 0.5
    assert "tied, one tensor: transformer.wte.weight = lm_head.weight" in str(groups)


def test_a_frozen_model_with_lora_trains_only_that() -> None:
    groups = by_role(look.lora_llama(), lr=1e-3, weight_decay=0.0)
    assert len(groups) == 1
    assert len(groups[0]["params"]) == 16
    assert all(".lora_" in name for name in groups[0]["param_names"])


def test_staged_unfreezing_and_late_gradients() -> None:
    """With keep_frozen a tensor that is thawed later is already in its group, and is updated from then on."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    freeze(model, "0")
    optimizer = optimizers.find("adamw")(by_role(model, lr=0.1, weight_decay=0.0, keep_frozen=True))
    before = model[0].weight.detach().clone()

    def update() -> None:
        model(torch.ones(2, 3)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    update()
    assert torch.equal(model[0].weight, before)
    freeze(model, "0", back=True)
    update()
    # Adam's first step is lr times the sign, also for a gradient that comes late
    assert torch.allclose((model[0].weight - before).abs(), torch.full((3, 3), 0.1), atol=1e-4)


def test_freeze_by_pattern_and_back() -> None:
    model = look.timm_vit()
    assert freeze(model, "patch_embed") == ["patch_embed.proj.weight", "patch_embed.proj.bias"]
    assert len(freeze(model)) == len(list(model.parameters()))
    freeze(model, re.compile(r"^head"), back=True)
    assert [n for n, p in model.named_parameters() if p.requires_grad] == ["head.weight", "head.bias"]
    with pytest.raises(UsageError, match="freeze: the pattern 'heads' matches no parameter; nearest of 60: head"):
        freeze(model, "head", "heads")


# Muon

MUON: list[tuple[Callable[[], nn.Module], set[str]]] = [
    (look.huggingface_gpt2, {"c_attn.weight", "c_proj.weight", "c_fc.weight"}),
    (look.Llama, {f"{n}_proj.weight" for n in ("q", "k", "v", "o", "gate", "up", "down")}),
    (look.timm_vit, {"qkv.weight", "attn.proj.weight", "fc1.weight", "fc2.weight"}),
    (look.timm_convnext, {"fc1.weight", "fc2.weight", "downsample.1.weight"}),
    (look.torch_encoder, {"in_proj_weight", "out_proj.weight", "linear1.weight", "linear2.weight"}),
    (look.torchvision_resnet, {"0.conv1.weight", "1.conv1.weight", "conv2.weight", "downsample.0.weight"}),
    (look.timm_swin, {"qkv.weight", "fc1.weight"}),
]


@pytest.mark.parametrize(("make", "endings"), MUON, ids=[make.__name__ for make, _ in MUON])
def test_muon_gets_hidden_matrices_and_kernels_by_role(make: Callable[[], nn.Module], endings: set[str]) -> None:
    model = make()
    groups = muon(model, lr=0.02, adamw={"lr": 3e-4, "betas": (0.9, 0.95), "weight_decay": 0.1})
    names = [name for name, _ in model.named_parameters()]
    blocks = find_roles(model)
    outside = {m.name for m in blocks.members if m.role == "head" or m.first_convolution or m.role == "position"}
    expected = {n for n in names if any(n.endswith(end) for end in endings)} - outside
    mine = {name for group in groups.of("muon") for name in group["param_names"]}
    assert mine == expected
    others = groups.of("adamw")
    assert {name for group in others for name in group["param_names"]} == set(names) - expected
    assert {group["betas"] for group in others} == {(0.9, 0.95)}
    torch.optim.AdamW(others)


def test_muon_in_torch_takes_the_matrices() -> None:
    groups = muon(look.timm_convnext(), lr=0.02, convolutions=False)
    torch.optim.Muon(groups.of("muon"))
    assert all(p.ndim == 2 for group in groups.of("muon") for p in group["params"])


def test_muon_by_request() -> None:
    groups = muon(look.Llama(), also=["lm_head"], keep_out=[re.compile("layers.0.mlp")], mark="use_muon")
    used = settings(groups, "use_muon")
    assert used["lm_head.weight"] is True
    assert used["model.layers.0.mlp.up_proj.weight"] is False
    assert used["model.embed_tokens.weight"] is False
    assert used["model.layers.1.mlp.up_proj.weight"] is True
    assert "for Muon, by request: lm_head.weight" in str(groups)
    assert "kept from Muon, by request: model.layers.0.mlp.gate_proj.weight" in str(groups)


def linear() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: by_role(linear(), no_decay=("norms",)), "unknown role 'norms': did you mean 'norm'?"),
    (lambda: by_role(linear(), no_decay="norm"), "it must be a list of roles"),
    (lambda: by_role(linear(), roles={"heads": {}}), "unknown role 'heads': did you mean 'head'?"),
    (lambda: by_role(linear(), roles={"head": 3}), "roles['head']=3; it must be a dict"),  # type: ignore[dict-item]
    (lambda: by_role(linear(), roles={"head": {"params": []}}), "'head' sets 'params', which groups set themselves"),
    (lambda: by_role(linear(), roles=["head"]), "it must be hyperparameters by role"),  # type: ignore[arg-type]
    (lambda: by_role(linear(), roles={"head": {"lr": "1"}}), "by_role: lr of 'head'='1'; it must be a finite number"),
    (
        lambda: by_pattern(linear(), {"0": {"weight_decay": -1}}),
        "weight_decay of '0'=-1; it must be a finite number, at least 0",
    ),
    (lambda: by_role(linear(), no_decay=None), "it must be a list of roles"),  # type: ignore[arg-type]
    (lambda: by_role(linear(), lr=10**400), "must be a finite number, at least 0"),
    (lambda: muon(linear(), adamw=[3e-4]), "must be a dict of hyperparameters"),  # type: ignore[arg-type]
    (lambda: by_role(linear(), lr=-1.0), "by_role: lr=-1.0; it must be a finite number, at least 0"),
    (lambda: by_role(linear(), lr=float("nan")), "lr=nan; it must be a finite number"),
    (lambda: by_role(linear(), layer_decay=0.5), "multiplies lr, and lr is not given"),
    (lambda: by_layer(linear(), lr=1.0, decay=1.5), "it must be in (0, 1]"),
    (lambda: by_pattern(linear(), {}), "patterns is empty"),
    (lambda: by_pattern(linear(), {"0": 3.0}), "'0': 3.0 multiplies lr, and lr is not given"),
    (lambda: by_pattern(linear(), {3: 3.0}, lr=1.0), "the pattern 3 is neither a str"),  # type: ignore[dict-item]
    (
        lambda: by_pattern(look.torchvision_resnet(), {"layer3.*": 2.0}, lr=1.0),
        "by_pattern: the pattern 'layer3.*' matches no parameter; nearest of 32: layer2",
    ),
    (
        lambda: by_pattern(look.huggingface_bert(), {"bert.encoder.layers.3": 2.0}, lr=1.0),
        "nearest of 73: bert.encoder.layer.3",
    ),
    (lambda: by_role(linear().requires_grad_(False)), "all 4 parameters of the model are frozen"),
    (lambda: muon(nn.Linear(2, 2)), "Linear has no trainable hidden matrix or convolution kernel for Muon"),
    (lambda: muon(linear(), also=["0.bias"]), "'0.bias' of shape [2] is not a matrix"),
    (lambda: muon(linear(), also=["2"]), "muon: also: the pattern '2' matches no parameter"),
    (lambda: muon(linear(), also=["1.weight"], keep_out=["1"]), "'1.weight' matches both also and keep_out"),
    (lambda: muon(linear()).of("adam"), "no group has this optimizer: did you mean 'adamw'?"),
    (lambda: by_role(linear()).of("adam"), "these groups are for a single optimizer"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_refused_in_one_line(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        call()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


# How groups are shown


def test_groups_are_shown_in_a_line_and_as_a_table() -> None:
    groups = by_layer(look.Llama(), lr=1.0)
    assert repr(groups) == "<Groups: 11 groups and 39 tensors, 2,184 elements; print() shows them as a table>"
    assert str(groups).splitlines()[0].startswith("group")
    assert "tensor(" not in repr([groups])


def test_groups_in_a_notebook() -> None:
    groups = by_pattern(look.torchvision_resnet(), {re.compile("(?P<part>fc)"): {"lr": 1e-3}}, lr=1e-2)
    html = groups._repr_html_()
    assert html.count("<tr>") == len(groups) + 2
    assert "(?P&lt;part&gt;fc)" in html
    assert "<li>no pattern matches" in html
    assert "(?P<part>" not in html
