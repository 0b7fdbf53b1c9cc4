"""Depth of what trains, tower by tower, on structures of public models that are met in many spellings."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from stepwell.anatomy import find_roles
from stepwell.errors import UsageError
from stepwell.groups import by_layer, by_role
from tests.anatomy import lookalikes as look
from tests.anatomy.lookalikes import D, named, zeros


def factors(model: nn.Module, decay: float = 0.5, **options: Any) -> dict[str, float]:
    """What by_layer multiplies the rate of each tensor with."""
    return {n: g["lr"] for g in by_layer(model, lr=1.0, decay=decay, **options) for n in g["param_names"]}


class Vit(nn.Module):
    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        self.cls_token = zeros(1, 1, D)
        self.patch = nn.Conv2d(3, D, 4, 4)
        self.blocks = nn.Sequential(*(look.TimmBlock() for _ in range(blocks)))
        self.norm = nn.LayerNorm(D)
        self.head = nn.Linear(D, 5)


class TextTower(nn.Module):
    def __init__(self, blocks: int = 2) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(20, D)
        self.positional_embedding = zeros(5, D)
        self.layers = nn.ModuleList(look.TimmBlock() for _ in range(blocks))
        self.ln_final = nn.LayerNorm(D)


# Copies and networks beside


def averaged() -> nn.Module:
    net = Vit()
    return named(net=net, ema=torch.optim.swa_utils.AveragedModel(net))


BESIDE: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "a momentum encoder after": (
        lambda: named(encoder_q=Vit(), encoder_k=Vit().requires_grad_(False)),
        "encoder_q.",
    ),
    "a momentum encoder before": (
        lambda: named(encoder_k=Vit().requires_grad_(False), encoder_q=Vit()),
        "encoder_q.",
    ),
    "DINO": (lambda: named(student=Vit(), teacher=Vit().requires_grad_(False)), "student."),
    "a teacher that was not frozen": (lambda: named(teacher=Vit(), student=Vit()), "student."),
    "AveragedModel": (averaged, "net."),
    "a frozen net for the loss": (lambda: named(net=Vit(), percep=Vit(12).requires_grad_(False)), "net."),
    "a frozen ResNet for the loss": (
        lambda: named(net=Vit(), lpips=look.torchvision_resnet().requires_grad_(False)),
        "net.",
    ),
    "a list of nets": (lambda: nn.ModuleList([Vit(), Vit(5), Vit().requires_grad_(False)]), "0."),
    "a dict of nets": (lambda: nn.ModuleDict({"rgb": Vit(), "thermal": Vit(2)}), "rgb."),
    "CLIP": (lambda: named(visual=Vit(), text=TextTower(2), logit_scale=zeros(1)), "visual."),
    "CLIP, the other way round": (lambda: named(text=TextTower(4), visual=Vit()), "visual."),
}


@pytest.mark.parametrize("case", BESIDE)
def test_rates_as_alone(case: str) -> None:
    make, prefix = BESIDE[case]
    alone, beside = factors(Vit()), factors(make())
    assert {name: beside[prefix + name] for name in alone} == alone


def test_a_text_tower_has_its_rates_alone_too() -> None:
    alone = factors(TextTower(2))
    for model in (
        named(visual=Vit(6), text=TextTower(2)),
        named(text=TextTower(2), proj=nn.Linear(D, D), visual=Vit(6)),
        named(visual=Vit(6), visual_proj=nn.Linear(D, D), text=TextTower(2), text_proj=nn.Linear(D, D)),
    ):
        together = factors(model)
        assert {name: together[f"text.{name}"] for name in alone} == alone
        assert find_roles(model).blocks == 6


def test_clip_of_its_authors() -> None:
    """The vision tower is a module; the parts of the text tower lie in the model itself."""
    model = named(
        visual=Vit(3),
        transformer=named(resblocks=nn.Sequential(look.TimmBlock(), look.TimmBlock())),
        token_embedding=nn.Embedding(20, D),
        ln_final=nn.LayerNorm(D),
    )
    got = factors(model)
    assert got["visual.blocks.2.attn.qkv.weight"] == got["transformer.resblocks.1.attn.qkv.weight"] == 0.5
    assert got["visual.blocks.0.attn.qkv.weight"] == 0.125
    assert got["token_embedding.weight"] == 0.125
    assert got["ln_final.weight"] == 1.0


def test_stacks_of_two_towers_in_one_module() -> None:
    model = named(
        text_embed=nn.Embedding(20, D),
        text_blocks=nn.ModuleList(look.TimmBlock() for _ in range(2)),
        image_patch=nn.Conv2d(3, D, 4),
        image_blocks=nn.ModuleList(look.TimmBlock() for _ in range(3)),
        head=nn.Linear(D, 5),
    )
    got = factors(model)
    assert got["text_blocks.1.attn.qkv.weight"] == got["image_blocks.2.attn.qkv.weight"] == 0.5
    assert (got["text_embed.weight"], got["image_patch.weight"]) == (0.125, 0.0625)


def test_what_runs_after_towers_lies_above_both() -> None:
    fusion = nn.ModuleList(look.TimmBlock() for _ in range(2))
    got = factors(named(text=TextTower(2), image=Vit(3), fusion=fusion, head=nn.Linear(D, 5)))
    assert got["fusion.0.attn.qkv.weight"] == 0.25
    assert got["text.layers.1.attn.qkv.weight"] == got["image.blocks.2.attn.qkv.weight"] == 0.125
    assert got["text.token_embedding.weight"] == 2.0**-5


def test_an_encoder_and_its_decoder_run_one_after_the_other() -> None:
    model = named(encoder=Vit(3), decoder=TextTower(2))
    got = factors(model)
    assert got["decoder.layers.1.attn.qkv.weight"] == 0.5
    assert got["encoder.blocks.2.attn.qkv.weight"] == 0.125
    assert "depth counts 5 blocks: encoder.blocks (3), then decoder.layers (2)" in str(by_layer(model, lr=1.0))


def test_attention_to_what_comes_from_outside_runs_after_it() -> None:
    text = TextTower(2)
    for layer in text.layers:
        layer.cross_attention = nn.Linear(D, D)
    got = factors(named(vision=Vit(3), text=text))
    assert got["vision.blocks.2.attn.qkv.weight"] == 0.125


def test_frozen_blocks_change_no_rate_of_those_above() -> None:
    whole, partly = Vit(4), Vit(4)
    partly.blocks[:2].requires_grad_(False)
    rates = factors(whole)
    assert all(rates[name] == rate for name, rate in factors(partly).items() if "blocks" in name)
    assert "depth counts 2 blocks: blocks (2); 2 frozen blocks do not count" in str(by_layer(partly, lr=1.0))
    kept = factors(partly, keep_frozen=True)  # unfrozen by stages: as if all trained
    assert kept == rates


# What a block is


class Bottleneck(nn.Module):
    """A residual unit with squeeze-and-excitation, as in RegNet."""

    def __init__(self, i: int = D, o: int = D) -> None:
        super().__init__()
        self.conv1 = named(conv=nn.Conv2d(i, o, 1), bn=nn.BatchNorm2d(o))
        self.conv2 = named(conv=nn.Conv2d(o, o, 3, groups=2), bn=nn.BatchNorm2d(o))
        self.se = named(fc1=nn.Conv2d(o, 2, 1), fc2=nn.Conv2d(2, o, 1))
        self.conv3 = named(conv=nn.Conv2d(o, o, 1), bn=nn.BatchNorm2d(o))
        self.downsample = named(conv=nn.Conv2d(i, o, 1), bn=nn.BatchNorm2d(o)) if i != o else nn.Identity()


def timm_regnet() -> nn.Module:
    """Stages `s1` to `s4` whose blocks are the attributes `b1`, `b2`, ..."""
    widths, depths = (8, 16, 24, 32), (1, 2, 3, 1)
    model = named(stem=named(conv=nn.Conv2d(3, 8, 3), bn=nn.BatchNorm2d(8)))
    inside = 8
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True), 1):
        blocks = {f"b{i + 1}": Bottleneck(inside if i == 0 else width, width) for i in range(depth)}
        setattr(model, f"s{stage}", named(**blocks))
        inside = width
    model.head = named(fc=nn.Linear(32, 5))
    return model


def torchvision_regnet() -> nn.Module:
    """Sequentials of blocks that are called `block1-0`."""
    trunk = nn.Sequential()
    for stage, depth in enumerate((1, 2, 3, 1), 1):
        inner = nn.Sequential()
        for i in range(depth):
            unit = named(
                f=nn.Sequential(look.Conv2dNormActivation(D, D), look.Conv2dNormActivation(D, D), nn.Conv2d(D, D, 1))
            )
            inner.add_module(f"block{stage}-{i}", unit)
        trunk.add_module(f"block{stage}", inner)
    return named(stem=look.Conv2dNormActivation(3, D), trunk_output=trunk, fc=nn.Linear(D, 5))


def as_attributes(name: str = "block{}", count: int = 12) -> nn.Module:
    blocks = {name.format(i): look.TimmBlock() for i in range(count)}
    return named(emb=nn.Embedding(50, D), **blocks, norm=nn.LayerNorm(D), head=nn.Linear(D, 5))


def double(i: int, o: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, 3), nn.BatchNorm2d(o), nn.ReLU(), nn.Conv2d(o, o, 3), nn.BatchNorm2d(o))


def unet() -> nn.Module:
    return named(
        inc=double(3, 8), down1=double(8, 16), down2=double(16, 32), up1=nn.ConvTranspose2d(32, 16, 2, 2),
        conv1=double(32, 16), up2=nn.ConvTranspose2d(16, 8, 2, 2), conv2=double(16, 8), outc=nn.Conv2d(8, 2, 1),
    )  # fmt: skip


def milesial_unet() -> nn.Module:
    down = {f"down{i}": named(maxpool_conv=nn.Sequential(nn.MaxPool2d(2), named(conv=double(8, 8)))) for i in (1, 2, 3)}
    up = {f"up{i}": named(up=nn.Upsample(), conv=named(conv=double(16, 8))) for i in (1, 2, 3)}
    return named(inc=named(conv=double(3, 8)), **down, **up, outc=named(conv=nn.Conv2d(8, 2, 1)))


class AttentionTwice(nn.Module):
    """As in diffusers: two attentions of one class, numbered, in one block."""

    def __init__(self) -> None:
        super().__init__()
        attention = lambda: named(to_q=nn.Linear(D, D), to_k=nn.Linear(D, D), to_out=nn.Linear(D, D))  # noqa: E731
        self.norm1, self.attn1, self.norm2, self.attn2 = nn.LayerNorm(D), attention(), nn.LayerNorm(D), attention()
        self.ff = nn.Sequential(nn.Linear(D, 4 * D), nn.GELU(), nn.Linear(4 * D, D))


class Conformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        mlp = lambda: named(intermediate_dense=nn.Linear(D, 4 * D), output_dense=nn.Linear(4 * D, D))  # noqa: E731
        self.ffn1, self.self_attn, self.ffn2 = mlp(), named(q=nn.Linear(D, D), k=nn.Linear(D, D)), mlp()


class DenseLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(D), nn.Conv2d(D, D, 1)
        self.norm2, self.conv2 = nn.BatchNorm2d(D), nn.Conv2d(D, D, 3)


def densenet() -> nn.Module:
    features = nn.Sequential()
    features.add_module("conv0", nn.Conv2d(3, D, 7))
    for i, depth in enumerate((2, 3), 1):
        features.add_module(f"denseblock{i}", nn.ModuleDict({f"denselayer{j}": DenseLayer() for j in range(depth)}))
        if i == 1:
            features.add_module("transition1", nn.Sequential(nn.BatchNorm2d(D), nn.Conv2d(D, D, 1)))
    features.add_module("norm5", nn.BatchNorm2d(D))
    return named(features=features, classifier=nn.Linear(D, 5))


def encodec() -> nn.Module:
    """A list of layers of several kinds: residual units among convolutions."""
    norm = torch.nn.utils.parametrizations.weight_norm

    def side(first: int, last: int, kind: Any) -> nn.Module:
        layers: list[nn.Module] = [named(conv=norm(nn.Conv1d(first, D, 7)))]
        for _ in range(2):
            layers += [named(block=nn.ModuleList([nn.ELU(), named(conv=nn.Conv1d(D, D, 3)),
                                                  named(conv=nn.Conv1d(D, D, 1))])),
                       nn.ELU(), named(conv=norm(kind(D, D, 4, 2)))]  # fmt: skip
        return named(
            layers=nn.ModuleList([*layers, named(lstm=nn.LSTM(D, D)), named(conv=norm(nn.Conv1d(D, last, 7)))])
        )

    class Resnet(nn.Module):
        pass

    model = named(encoder=side(1, 16, nn.Conv1d), decoder=side(16, 1, nn.ConvTranspose1d))
    for part in (model.encoder, model.decoder):
        for item in part.layers:
            if hasattr(item, "block"):
                item.__class__ = Resnet
    return model


BLOCKS: dict[str, tuple[Callable[[], nn.Module], int, dict[str, int]]] = {
    "timm's RegNet": (timm_regnet, 7, {"stem.conv.weight": 0, "s1.b1.conv1.conv.weight": 1, "s2.b1.se.fc1.weight": 2,
                                       "s4.b1.conv3.conv.weight": 7, "head.fc.weight": 8}),
    "torchvision's RegNet": (torchvision_regnet, 7, {"stem.0.weight": 0, "trunk_output.block4.block4-0.f.2.weight": 7}),
    "attributes": (as_attributes, 12, {"emb.weight": 0, "block0.attn.qkv.weight": 1, "block11.mlp.fc1.weight": 12}),
    "attributes, other names": (lambda: as_attributes("enc_layer_{}"), 12, {"enc_layer_3.norm1.weight": 4}),
    "letters": (lambda: named(a=Bottleneck(), b=Bottleneck(), c=Bottleneck(), fc=nn.Linear(D, 2)), 3,
                {"c.conv1.conv.weight": 3}),
    "GoogLeNet's names": (lambda: named(conv1=nn.Conv2d(3, D, 3), inception3a=Bottleneck(), inception3b=Bottleneck(),
                                        inception4a=Bottleneck(), fc=nn.Linear(D, 2)), 3, {"conv1.weight": 0}),
    "a ModuleDict": (lambda: named(emb=nn.Embedding(9, D), head=nn.Linear(D, 2), blocks=nn.ModuleDict(
        {f"b{i}": look.TimmBlock() for i in range(4)})), 4, {"blocks.b3.attn.qkv.weight": 4}),
    "nanoGPT": (lambda: named(transformer=nn.ModuleDict({"wte": nn.Embedding(9, D), "wpe": nn.Embedding(5, D),
                "h": nn.ModuleList(look.GPT2Block() for _ in range(3)), "ln_f": nn.LayerNorm(D)}),
                lm_head=nn.Linear(D, 9)), 3, {"transformer.ln_f.weight": 4, "transformer.wpe.weight": 0}),
    "lists of lists": (lambda: named(patch=nn.Conv2d(3, D, 4), stages=nn.ModuleList(
        nn.ModuleList(look.TimmBlock() for _ in range(n)) for n in (1, 3)), head=nn.Linear(D, 2)), 4,
        {"stages.1.0.attn.qkv.weight": 2}),
    "a pyramid": (lambda: named(
        patch_embeddings=nn.ModuleList(named(proj=nn.Conv2d(i, D, 3), norm=nn.LayerNorm(D)) for i in (3, D)),
        block=nn.ModuleList(nn.ModuleList(look.TimmBlock() for _ in range(2)) for _ in range(2)), head=nn.Linear(D, 2)),
        4, {"patch_embeddings.0.proj.weight": 0, "patch_embeddings.1.proj.weight": 3, "block.1.1.attn.qkv.weight": 4}),
    "U-Net": (unet, 5, {"inc.0.weight": 1, "up1.weight": 4, "conv2.3.weight": 5, "outc.weight": 6}),
    "U-Net of milesial": (milesial_unet, 6, {"up3.conv.conv.0.weight": 6, "outc.conv.weight": 7}),
    "two attentions in a block": (lambda: nn.ModuleList(AttentionTwice() for _ in range(3)), 3,
                                  {"2.attn1.to_q.weight": 3}),
    "two feed-forwards in a block": (lambda: nn.ModuleList(Conformer() for _ in range(3)), 3,
                                     {"0.ffn2.output_dense.weight": 1}),
    "DenseNet": (densenet, 5, {"features.conv0.weight": 0, "features.denseblock2.denselayer0.conv2.weight": 3,
                               "features.transition1.1.weight": 3, "features.norm5.weight": 6}),
    "EnCodec": (encodec, 4, {"encoder.layers.1.block.1.conv.weight": 1}),
    "a ResNet in layer1 to layer4": (look.torchvision_resnet, 4, {"layer2.1.conv2.weight": 4}),
    "LSTMs": (lambda: named(emb=nn.Embedding(9, D), layer1=nn.LSTM(D, D), layer2=nn.LSTM(D, D), layer3=nn.GRU(D, D),
                            layer4=nn.GRU(D, D), fc=nn.Linear(D, 2)), 4, {"layer4.weight_hh_l0": 4, "emb.weight": 0}),
    "a U-Net of four channels": (lambda: named(stem=nn.Conv2d(1, 4, 3), body=nn.Sequential(*(
        look.BasicBlock(4, False) for _ in range(3))), fc=nn.Linear(4, 2)), 3, {"body.2.conv1.weight": 3}),
    "PEFT": (lambda: named(base_model=named(model=look.lora_llama())), 4,
             {"base_model.model.model.layers.3.self_attn.v_proj.lora_A.default.weight": 4}),
}  # fmt: skip


@pytest.mark.parametrize("case", BLOCKS)
def test_what_counts_as_a_block(case: str) -> None:
    make, blocks, expected = BLOCKS[case]
    anatomy = find_roles(make())
    depths = {member.name: member.depth for member in anatomy.members}
    assert {name: depths[name] for name in expected} == expected
    assert anatomy.blocks == blocks


def test_where_no_block_was_found_it_is_said() -> None:
    said = "no repeated block was found; depth counts the 3 layers with weights instead"
    assert said in str(by_layer(look.plain_cnn(), lr=1.0))
    assert said not in str(by_role(look.plain_cnn(), lr=1.0))
    assert "no repeated block" not in str(by_layer(Vit(), lr=1.0))


def test_layers_without_blocks_stand_beside_each_other_too() -> None:
    tower = lambda: nn.Sequential(nn.EmbeddingBag(100, 16), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16))  # noqa: E731
    got = factors(named(user=tower(), item=tower()))
    assert got["user.0.weight"] == got["item.0.weight"] == 0.25
    assert got["user.1.weight"] == got["item.1.weight"] == 0.5
    assert got["user.3.weight"] == got["item.3.weight"] == 1.0
    net = lambda out: nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, out))  # noqa: E731
    for model in (named(actor=net(2), critic=net(1)), named(pi=net(2), vf=net(1)), named(q1=net(1), q2=net(1))):
        got = factors(model)
        assert set(got.values()) == {0.25, 0.5, 1.0}


# What models say of themselves


class Declared(nn.Module):
    """As in timm: `group_matcher` says what belongs together."""

    def __init__(self, blocks: int = 4) -> None:
        super().__init__()
        self.cls_token, self.rel_bias = zeros(1, 1, D), zeros(D, D)
        self.patch_embed = named(proj=nn.Conv2d(3, D, 4))
        self.blocks = nn.Sequential(*(look.TimmBlock() for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(D), nn.Linear(D, 5)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return {"stem": r"^cls_token|rel_bias|patch_embed", "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))]}

    def no_weight_decay(self) -> set[str]:
        return {"blocks.0.attn.qkv.weight"}

    def no_weight_decay_keywords(self) -> set[str]:
        return {"rel_bias"}


def of_timm(model: nn.Module, decay: float) -> dict[str, float]:
    """`timm.optim.param_groups_layer_decay`, from its description: scale ** (layers - 1 - layer)."""
    layers: dict[tuple[float, ...], list[str]] = {}
    rules = [(re.compile(r"^cls_token|rel_bias|patch_embed"), (0.0,)), (re.compile(r"^blocks\.(\d+)"), (1.0,))]
    for name, _ in model.named_parameters():
        last = (1.0, 99999.0) if name.startswith("norm") else (float("inf"),)
        keys = [(*place, *map(float, m.groups())) for rule, place in rules if (m := rule.match(name))]
        layers.setdefault(keys[0] if keys else last, []).append(name)
    numbers, number = {}, -1
    for key in sorted(layers):
        number += not (number >= 0 and key[-1] == 99999)
        numbers |= dict.fromkeys(layers[key], number)
    return {name: decay ** (number - mine) for name, mine in numbers.items()}


def test_a_group_matcher_is_believed() -> None:
    model = Declared()
    wanted = of_timm(model, 0.5)
    assert wanted["norm.weight"] == wanted["blocks.3.attn.qkv.weight"] == 0.5
    assert factors(model) == wanted
    inside = factors(named(backbone=model, decode_head=nn.Linear(D, 3)))
    assert {name: inside[f"backbone.{name}"] for name in wanted} == wanted
    compiled = nn.Module()  # a wrapper that forwards what it has not itself
    compiled._orig_mod = model
    assert {name.removeprefix("_orig_mod."): rate for name, rate in factors(compiled).items()} == wanted


def test_another_partition_is_believed_against_the_structure() -> None:
    class Coarse(Declared):
        def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
            return {"stem": r"^(cls_token|patch_embed|blocks\.0)", "blocks": r"^blocks\.[12]()", "end": "^blocks"}

    class Pairs(Declared):
        def group_matcher(self, coarse: bool = False) -> Any:
            return lambda name: int(name.split(".")[1]) // 2 + 1 if name.startswith("blocks.") else 9 * ("head" in name)

    got = factors(Pairs())
    assert got["blocks.0.attn.qkv.weight"] == got["blocks.1.attn.qkv.weight"]
    assert got["blocks.2.attn.qkv.weight"] == got["blocks.3.attn.qkv.weight"] == 2 * got["blocks.0.attn.qkv.weight"]


def test_a_group_matcher_that_fails_is_named() -> None:
    class Broken(Declared):
        def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
            return {"stem": "^(patch"}

    with pytest.raises(UsageError, match=r"Broken\.group_matcher\(\) failed"):
        by_layer(Broken(), lr=1.0)


def test_what_a_model_keeps_from_decay() -> None:
    model = Declared()
    model.head.weight._no_weight_decay = True  # type: ignore[assignment]  # as Mamba marks A_log
    declared = {"blocks.0.attn.qkv.weight", "rel_bias", "head.weight"}
    for prefix, whole in (("", model), ("backbone.", named(backbone=model))):
        decay = {n: g["weight_decay"] for g in by_role(whole, weight_decay=0.1) for n in g["param_names"]}
        assert all(decay[prefix + name] == 0 for name in declared)
        assert decay[f"{prefix}blocks.1.attn.qkv.weight"] == 0.1
        everything = by_role(whole, weight_decay=0.1, no_decay=())
        assert {g["weight_decay"] for g in everything} == {0.1}

    class Odd(Declared):
        def no_weight_decay(self) -> Any:
            return 3

    with pytest.raises(UsageError, match=r"Odd\.no_weight_decay\(\) returned 3"):
        by_role(Odd())


def test_classes_that_a_model_calls_indivisible_are_blocks() -> None:
    class Rung(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.narrow = nn.Linear(D, D), named(a=nn.Linear(D, D), b=nn.Linear(D, D))

    class Ladder(nn.Module):
        _no_split_modules = ("Rung",)

        def __init__(self) -> None:
            super().__init__()
            self.embed, self.bottom, self.top, self.head = nn.Embedding(9, D), Rung(), Rung(), nn.Linear(D, 2)

    depths = {m.name: m.depth for m in find_roles(Ladder()).members}
    assert depths["bottom.wide.weight"] == depths["bottom.narrow.b.weight"] == 1
    assert (depths["top.narrow.a.weight"], depths["head.weight"]) == (2, 3)


def test_a_copy_of_the_groups_is_counted_alike() -> None:
    model = named(visual=Vit(), text=TextTower())
    assert factors(copy.deepcopy(model)) == factors(model)
