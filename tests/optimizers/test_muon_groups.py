"""Which tensors Muon orthogonalises: what it is handed decides, and where nothing tells, it says so or refuses."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import stepwell
from stepwell import UsageError, groups
from stepwell.anatomy import find_roles
from stepwell.compare import compare
from stepwell.optimizers import create
from stepwell.wrappers.sam import RHO
from tests.anatomy import lookalikes as look
from tests.anatomy.lookalikes import D, named, zeros
from tests.anatomy.test_depth import TextTower, Vit, encodec, unet


def taken(optimizer: Any) -> set[str]:
    return {name for group in optimizer.param_groups if group["use_muon"] for name in group["param_names"]}


def meant(split: groups.Groups) -> set[str]:
    return {name for group, whose in zip(split, split.optimizers, strict=True) if whose == "muon"
            for name in group["param_names"]}  # fmt: skip


class Mixer(nn.Module):
    """As in Mamba."""

    def __init__(self) -> None:
        super().__init__()
        self.A_log, self.D = zeros(D, 4), zeros(D)
        self.conv1d, self.in_proj = nn.Conv1d(D, D, 4, groups=D), nn.Linear(D, 2 * D)


def sequential() -> nn.Module:
    return nn.Sequential(nn.Embedding(50, 32), nn.Linear(32, 64), nn.LayerNorm(64), nn.Linear(64, 64), nn.Linear(64, 5))


def lstm() -> nn.Module:
    tokens = zeros(4, 32)
    return named(
        emb=nn.Embedding(50, 16), lstm=nn.LSTM(16, 32), mid=nn.Linear(32, 32), fc=nn.Linear(32, 5), query_tokens=tokens
    )


MODELS: list[Callable[[], nn.Module]] = [
    sequential,
    lstm,
    look.timm_convnext,
    look.timm_swin,
    look.torchvision_resnet,
    look.huggingface_bert,
    look.huggingface_gpt2,
    look.openai_clip,
    look.stacked_experts,
    lambda: named(emb=nn.Embedding(9, D), layers=nn.ModuleList(Mixer() for _ in range(2)), lm_head=nn.Linear(D, 9)),
]
HANDED: dict[str, Callable[[groups.Groups], Any]] = {
    "the groups": lambda split: split,
    "a list of them": list,
    "plain dicts": lambda split: [{**group} for group in split],
    "a generator": lambda split: (group for group in split),
    "dicts with other rates": lambda split: [{**group, "lr": 0.5} for group in split],
    "a copy": copy.deepcopy,
}


@pytest.mark.parametrize("handed", HANDED)
@pytest.mark.parametrize("number", range(len(MODELS)))
def test_groups_made_for_muon_are_honoured(number: int, handed: str) -> None:
    split = groups.muon(MODELS[number](), lr=0.02, adamw={"lr": 3e-4})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer = stepwell.Muon(HANDED[handed](split))
    assert taken(optimizer) == meant(split)
    if handed != "dicts with other rates":
        assert {group["lr"] for group in optimizer.param_groups if not group["use_muon"]} == {3e-4}


def test_requests_are_honoured() -> None:
    split = groups.muon(look.Llama(), also=["lm_head"], keep_out=["model.layers.0.mlp"])
    optimizer = stepwell.Muon(split)
    assert taken(optimizer) == meant(split)
    assert "lm_head.weight" in taken(optimizer)
    assert "model.layers.0.mlp.up_proj.weight" not in taken(optimizer)


@pytest.mark.parametrize("wrapper", ["lookahead", "sam", "asam"])
def test_wrappers_hand_the_groups_on(wrapper: str) -> None:
    split = groups.muon(look.Llama(), keep_out=["model.layers.0.mlp"])
    assert taken(create(wrapper, split, base="muon").base) == meant(split)


def test_a_rho_of_a_group_stays_with_its_tensors() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    given = [
        {"params": list(first.named_parameters()), RHO: 0.3},
        {"params": [("second.weight", second.weight)], RHO: 0.7},
    ]
    optimizer = create("sam", given, base="muon")
    rhos = {id(tensor): group[RHO] for group in optimizer.param_groups for tensor in group["params"]}
    assert (rhos[id(first.weight)], rhos[id(first.bias)], rhos[id(second.weight)]) == (0.3, 0.3, 0.7)


@pytest.mark.parametrize("number", range(len(MODELS)))
def test_groups_made_otherwise_and_models_are_split_by_role(number: int) -> None:
    model = MODELS[number]()
    wanted = meant(groups.muon(model))
    assert taken(stepwell.Muon(model)) == wanted
    assert taken(stepwell.Muon(groups.by_role(model, lr=0.02, weight_decay=0.1))) == wanted
    assert taken(stepwell.Muon(groups.by_layer(model, lr=0.02))) == wanted


def test_names_tell_most_of_it() -> None:
    for make in (look.huggingface_gpt2, look.Llama, look.torchvision_resnet, look.timm_convnext):
        model = make()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert taken(stepwell.Muon(model.named_parameters())) == taken(stepwell.Muon(model))


def test_tensors_without_names_are_told_by_shape_and_it_is_said_once() -> None:
    """As a trainer hands them over: two groups of plain tensors."""
    model = look.huggingface_bert()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    with pytest.warns(
        UserWarning, match=r"taken for hidden matrices by shape alone.*unnamed \[20, 8\].*pass the model"
    ) as said:
        stepwell.Muon([{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}])
    assert len(said) == 1
    assert said[0].filename == __file__
    with pytest.warns(UserWarning, match=r"2 tensors taken .*: 1\.weight \[64, 32\], 3\.weight"):
        stepwell.Muon(sequential().named_parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stepwell.Muon([{"params": matrices, "use_muon": True}, {"params": vectors, "use_muon": False}])


def test_a_filter_for_each_channel_is_no_matrix_without_names_either() -> None:
    kernel, depthwise = zeros(8, 4, 3, 3), zeros(8, 1, 3, 3)
    with pytest.warns(UserWarning, match="1 tensor taken"):
        optimizer = stepwell.Muon([kernel, depthwise])
    assert [(len(g["params"]), g["use_muon"]) for g in optimizer.param_groups] == [(1, True), (1, False)]


NONE: dict[str, Callable[[], Any]] = {
    "vectors": lambda: [zeros(3), zeros(4)],
    "a model of one layer": lambda: nn.Linear(3, 2),
    "an embedding and a head": lambda: nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9)),
    "named": lambda: [("embed.weight", zeros(9, 4)), ("lm_head.weight", zeros(9, 4))],
    "all but the head is frozen": lambda: groups.by_role(frozen_body()),
    "a model of which all but the head is frozen": lambda: frozen_body(),
    "the others of a split": lambda: groups.muon(look.Llama()).of("adamw"),
    "marked so": lambda: [{"params": [zeros(3, 3)], "use_muon": False}],
}


def frozen_body() -> nn.Module:
    model = Vit()
    groups.freeze(model)
    groups.freeze(model, "head", back=True)
    return model


@pytest.mark.parametrize("case", NONE)
def test_without_any_matrix_it_is_refused(case: str) -> None:
    with pytest.raises(UsageError, match="tensors given is a trained hidden matrix, so AdamW would update them all"):
        stepwell.Muon(NONE[case]())


def test_comparisons_refuse_it_before_the_first_trial(tmp_path: Path) -> None:
    for options in ({}, {"lookahead": {"base": "muon"}}):
        names = ["sgd", *(options or ["muon"])]
        with pytest.raises(UsageError, match="none of the 1 tensors given is a trained hidden matrix"):
            compare("ravine", names, trials=1, seeds=1, steps=2, out=tmp_path / "run", options=options)
    assert not (tmp_path / "run").exists()


# What counts as hidden

DECIDED: dict[str, tuple[Callable[[], nn.Module], set[str]]] = {
    "U-Net: neither what reads the image nor what gives it": (
        unet,
        {"inc.3", "down1.0", "down1.3", "down2.0", "down2.3", "up1", "conv1.0", "conv1.3", "up2", "conv2.0", "conv2.3"},
    ),
    "a generator's last convolution": (
        lambda: nn.Sequential(nn.ConvTranspose2d(16, 32, 4), nn.BatchNorm2d(32), nn.ReLU(),
                              nn.ConvTranspose2d(32, 16, 4), nn.BatchNorm2d(16),
                              nn.ConvTranspose2d(16, 3, 4), nn.Tanh()),
        {"3"},
    ),
    "a discriminator's last convolution": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 4), nn.Conv2d(8, 16, 4), nn.BatchNorm2d(16), nn.Conv2d(16, 1, 4)),
        {"1"},
    ),
    "a backbone ends with a norm, not with an output": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)),
        {"2"},
    ),
    "both heads of an actor-critic": (
        lambda: named(body=nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64)), actor=nn.Linear(64, 2),
                      critic=nn.Linear(64, 1)),
        {"body.2"},
    ),
    "heads of other names, one of them told": (
        lambda: named(body=nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64)), policy_head=nn.Linear(64, 2),
                      baseline=nn.Linear(64, 1)),
        {"body.2"},
    ),
    "three heads that are not called so": (
        lambda: named(layers=nn.ModuleList(look.TimmBlock() for _ in range(1)), state=nn.Linear(D, 17),
                      action=nn.Sequential(nn.Linear(D, 4), nn.Tanh()), ret=nn.Linear(D, 1)),
        {"layers.0.attn.qkv", "layers.0.attn.proj", "layers.0.mlp.fc1", "layers.0.mlp.fc2"},
    ),
    "pixels from channels": (
        lambda: named(first=nn.Conv2d(3, 16, 3), up=nn.Sequential(nn.Conv2d(16, 64, 3), nn.PixelShuffle(2)),
                      last=nn.Conv2d(16, 3, 3)),
        {"up.0"},
    ),
    "a quantizer is made after the decoder, as in DAC": (
        lambda: named(encoder=named(conv1=nn.Conv1d(1, 16, 7), conv2=nn.Conv1d(16, 32, 7)),
                      decoder=named(conv1=nn.Conv1d(32, 16, 7), conv2=nn.Conv1d(16, 1, 7)),
                      quantizer=named(quantizers=nn.ModuleList(named(in_proj=nn.Conv1d(32, 8, 1),
                      codebook=nn.Embedding(9, 8), out_proj=nn.Conv1d(8, 32, 1)) for _ in range(2)))),
        {"encoder.conv2", "decoder.conv1", "quantizer.quantizers.0.in_proj", "quantizer.quantizers.0.out_proj",
         "quantizer.quantizers.1.in_proj", "quantizer.quantizers.1.out_proj"},
    ),
    "an actor and a critic of their own": (
        lambda: named(pi=nn.Sequential(nn.Linear(4, 64), nn.Linear(64, 64), nn.Linear(64, 2)),
                      vf=nn.Sequential(nn.Linear(4, 64), nn.Linear(64, 64), nn.Linear(64, 1))),
        {"pi.1", "vf.1"},
    ),
    "the heads of both towers": (
        lambda: named(user=nn.Sequential(nn.EmbeddingBag(9, 16), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8)),
                      item=nn.Sequential(nn.EmbeddingBag(9, 16), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))),
        {"user.1", "item.1"},
    ),
    "a layer that reads the raw input": (
        lambda: nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)),
        {"2"},
    ),
    "which is hidden, too, where it is the only one": (
        lambda: nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10)),
        {"0"},
    ),
    "a VAE": (
        lambda: named(enc=nn.Sequential(nn.Linear(784, 64), nn.ReLU()), mu=nn.Linear(64, 8), logvar=nn.Linear(64, 8),
                      dec=nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 784))),
        {"mu", "logvar", "dec.0"},
    ),
    "routers are hidden": (
        lambda: named(embed=nn.Embedding(9, D), layers=nn.ModuleList(named(gate=nn.Linear(D, 4), up=nn.Linear(D, D))
                      for _ in range(2)), lm_head=nn.Linear(D, 9)),
        {"layers.0.gate", "layers.0.up", "layers.1.gate", "layers.1.up"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DECIDED)
def test_what_is_hidden(case: str) -> None:
    make, hidden = DECIDED[case]
    assert taken(stepwell.Muon(make())) == {f"{path}.weight" for path in hidden}


def test_decoders_of_sound_and_codebooks() -> None:
    members = {m.name: m for m in find_roles(encodec()).members}
    ends = ("encoder.layers.0.conv", "decoder.layers.8.conv")
    weights = [f"{path}.parametrizations.weight.original1" for path in ends]
    assert [members[name].is_hidden_matrix for name in weights] == [False, False]
    assert members[weights[1]].role == "head"
    assert members["encoder.layers.8.conv.parametrizations.weight.original1"].is_hidden_matrix
    assert members["decoder.layers.0.conv.parametrizations.weight.original1"].is_hidden_matrix
    quantizer = named(codevectors=zeros(1, 40, 8), codebook=zeros(16, 4), weight_proj=nn.Linear(D, D))
    roles = {m.name: m.role for m in find_roles(named(body=TextTower(), quantizer=quantizer)).members}
    assert roles["quantizer.codevectors"] == roles["quantizer.codebook"] == "embedding"


def test_the_first_convolution_of_each_tower() -> None:
    tower = lambda channels: named(stem=nn.Conv2d(channels, D, 3), blocks=nn.Sequential(look.BasicBlock(D, False)))  # noqa: E731
    members = find_roles(named(image=tower(3), audio=tower(1))).members
    assert [m.name for m in members if m.first_convolution] == ["image.stem.weight", "audio.stem.weight"]
    model = named(encoder_k=Vit().requires_grad_(False), encoder_q=Vit())
    assert not any("patch" in name or "head" in name for name in taken(stepwell.Muon(model)))
