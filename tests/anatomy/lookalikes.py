"""Small models in the shape, and with the names, of the libraries that people train with. None of them runs forward."""

from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

D = 8


def named(**children: nn.Module | nn.Parameter) -> nn.Module:
    module = nn.Module()
    for name, child in children.items():
        setattr(module, name, child)
    return module


def zeros(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(*shape))


# torchvision


class BasicBlock(nn.Module):
    def __init__(self, channels: int, downsample: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, channels, 3, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, bias=False), nn.BatchNorm2d(channels)
        if downsample:
            self.downsample = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))


def torchvision_resnet() -> nn.Module:
    return named(
        conv1=nn.Conv2d(3, D, 7, bias=False),
        bn1=nn.BatchNorm2d(D),
        layer1=nn.Sequential(BasicBlock(D, False), BasicBlock(D, False)),
        layer2=nn.Sequential(BasicBlock(D, True), BasicBlock(D, False)),
        fc=nn.Linear(D, 10),
    )


def torchvision_vgg() -> nn.Module:
    features = nn.Sequential(
        nn.Conv2d(3, D, 3),
        nn.BatchNorm2d(D),
        nn.ReLU(),
        nn.Conv2d(D, D, 3),
        nn.BatchNorm2d(D),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )
    classifier = nn.Sequential(nn.Linear(D, D), nn.ReLU(), nn.Linear(D, D), nn.ReLU(), nn.Linear(D, 10))
    return named(features=features, classifier=classifier)


class CNBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(D, D, 7, groups=D), nn.LayerNorm(D), nn.Linear(D, 4 * D), nn.GELU(), nn.Linear(4 * D, D)
        )
        self.layer_scale = zeros(D, 1, 1)


def torchvision_convnext() -> nn.Module:
    features = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, D, 4), nn.LayerNorm(D)),
        nn.Sequential(CNBlock(), CNBlock()),
        nn.Sequential(nn.LayerNorm(D), nn.Conv2d(D, D, 2)),
        nn.Sequential(CNBlock(), CNBlock()),
    )
    return named(features=features, classifier=nn.Sequential(nn.LayerNorm(D), nn.Flatten(), nn.Linear(D, 10)))


class SqueezeExcitation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(D, 2, 1), nn.Conv2d(2, D, 1)


class Conv2dNormActivation(nn.Sequential):
    def __init__(self, i: int, o: int, groups: int = 1) -> None:
        super().__init__(nn.Conv2d(i, o, 3, bias=False, groups=groups), nn.BatchNorm2d(o), nn.SiLU())


class MBConv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(
            Conv2dNormActivation(D, D), Conv2dNormActivation(D, D, D), SqueezeExcitation(), Conv2dNormActivation(D, D)
        )


def torchvision_efficientnet() -> nn.Module:
    features = nn.Sequential(
        Conv2dNormActivation(3, D),
        nn.Sequential(MBConv()),
        nn.Sequential(MBConv(), MBConv()),
        Conv2dNormActivation(D, D),
    )
    return named(features=features, classifier=nn.Sequential(nn.Dropout(), nn.Linear(D, 10)))


class EncoderBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(D), nn.LayerNorm(D)
        self.self_attention = nn.MultiheadAttention(D, 2)
        self.mlp = nn.Sequential(nn.Linear(D, D), nn.GELU(), nn.Dropout(), nn.Linear(D, D))


def torchvision_vit() -> nn.Module:
    layers = nn.Sequential(OrderedDict((f"encoder_layer_{i}", EncoderBlock()) for i in range(3)))
    return named(
        class_token=zeros(1, 1, D),
        conv_proj=nn.Conv2d(3, D, 16),
        encoder=named(pos_embedding=zeros(1, 5, D), layers=layers, ln=nn.LayerNorm(D)),
        heads=nn.Sequential(OrderedDict(head=nn.Linear(D, 10))),
    )


# timm


class LayerScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = zeros(D)


class TimmBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(D)
        self.attn = named(qkv=nn.Linear(D, 3 * D), proj=nn.Linear(D, D))
        self.ls1 = LayerScale()
        self.norm2 = nn.LayerNorm(D)
        self.mlp = named(fc1=nn.Linear(D, 4 * D), fc2=nn.Linear(4 * D, D))


def timm_vit() -> nn.Module:
    return named(
        cls_token=zeros(1, 1, D),
        pos_embed=zeros(1, 5, D),
        patch_embed=named(proj=nn.Conv2d(3, D, 16)),
        blocks=nn.Sequential(*(TimmBlock() for _ in range(4))),
        norm=nn.LayerNorm(D),
        head=nn.Linear(D, 10),
    )


class TimmConvNeXtBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = zeros(D)
        self.conv_dw = nn.Conv2d(D, D, 7, groups=D)
        self.norm = nn.LayerNorm(D)
        self.mlp = named(fc1=nn.Linear(D, 4 * D), fc2=nn.Linear(4 * D, D))


class ConvNeXtStage(nn.Module):
    def __init__(self, blocks: int, downsample: bool) -> None:
        super().__init__()
        self.downsample = nn.Sequential(nn.LayerNorm(D), nn.Conv2d(D, D, 2)) if downsample else nn.Identity()
        self.blocks = nn.Sequential(*(TimmConvNeXtBlock() for _ in range(blocks)))


def timm_convnext() -> nn.Module:
    return named(
        stem=nn.Sequential(nn.Conv2d(3, D, 4), nn.LayerNorm(D)),
        stages=nn.Sequential(ConvNeXtStage(1, False), ConvNeXtStage(1, True), ConvNeXtStage(3, True)),
        head=named(norm=nn.LayerNorm(D), fc=nn.Linear(D, 10)),
    )


class SwinBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = named(relative_position_bias_table=zeros(9, 2), qkv=nn.Linear(D, 3 * D))
        self.mlp = named(fc1=nn.Linear(D, D))


def timm_swin() -> nn.Module:
    stages = [named(downsample=nn.Identity(), blocks=nn.Sequential(SwinBlock(), SwinBlock())) for _ in range(2)]
    return named(
        patch_embed=named(proj=nn.Conv2d(3, D, 4)),
        layers=nn.Sequential(*stages),
        norm=nn.LayerNorm(D),
        head=nn.Linear(D, 5),
    )


# Hugging Face


class BertLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        attention = named(query=nn.Linear(D, D), key=nn.Linear(D, D), value=nn.Linear(D, D))
        self.attention = nn.ModuleDict(
            {"self": attention, "output": named(dense=nn.Linear(D, D), LayerNorm=nn.LayerNorm(D))}
        )
        self.intermediate = named(dense=nn.Linear(D, D))
        self.output = named(dense=nn.Linear(D, D), LayerNorm=nn.LayerNorm(D))


def huggingface_bert() -> nn.Module:
    embeddings = named(
        word_embeddings=nn.Embedding(20, D),
        position_embeddings=nn.Embedding(5, D),
        token_type_embeddings=nn.Embedding(2, D),
        LayerNorm=nn.LayerNorm(D),
    )
    bert = named(
        embeddings=embeddings,
        encoder=named(layer=nn.ModuleList(BertLayer() for _ in range(4))),
        pooler=named(dense=nn.Linear(D, D)),
    )
    return named(bert=bert, classifier=nn.Linear(D, 2))


class Conv1D(nn.Module):
    """GPT-2's linear layer, weight transposed."""

    def __init__(self, o: int, i: int) -> None:
        super().__init__()
        self.weight, self.bias = zeros(i, o), zeros(o)


class GPT2Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(D)
        self.attn = named(c_attn=Conv1D(3 * D, D), c_proj=Conv1D(D, D))
        self.ln_2 = nn.LayerNorm(D)
        self.mlp = named(c_fc=Conv1D(4 * D, D), c_proj=Conv1D(D, 4 * D))


def huggingface_gpt2(tied: bool = True) -> nn.Module:
    body = named(
        wte=nn.Embedding(20, D),
        wpe=nn.Embedding(5, D),
        h=nn.ModuleList(GPT2Block() for _ in range(4)),
        ln_f=nn.LayerNorm(D),
    )
    model = named(transformer=body, lm_head=nn.Linear(D, 20, bias=False))
    if tied:
        model.lm_head.weight = body.wte.weight  # type: ignore[union-attr,assignment]
    return model


class LlamaRMSNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = zeros(D)


class LlamaDecoderLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn = named(**{f"{n}_proj": nn.Linear(D, D, bias=False) for n in "qkvo"})
        self.mlp = named(**{f"{n}_proj": nn.Linear(D, D, bias=False) for n in ("gate", "up", "down")})
        self.input_layernorm, self.post_attention_layernorm = LlamaRMSNorm(), LlamaRMSNorm()


class Llama(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(tie_word_embeddings=False)
        self.model = named(
            embed_tokens=nn.Embedding(20, D),
            layers=nn.ModuleList(LlamaDecoderLayer() for _ in range(4)),
            norm=LlamaRMSNorm(),
        )
        self.lm_head = nn.Linear(D, 20, bias=False)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head


class LoraLinear(nn.Module):
    """PEFT's: the frozen layer and its two small matrices."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, base.out_features, bias=False)})


def lora_llama() -> nn.Module:
    model = Llama().requires_grad_(False)
    layers: Any = model.model.layers  # type: ignore[union-attr]
    for layer in layers:
        layer.self_attn.q_proj = LoraLinear(layer.self_attn.q_proj)
        layer.self_attn.v_proj = LoraLinear(layer.self_attn.v_proj)
    return model


# torch


def torch_encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(D, 2, 2 * D, batch_first=True)
    return named(
        embed=nn.Embedding(20, D),
        encoder=nn.TransformerEncoder(layer, 4, enable_nested_tensor=False),
        out=nn.Linear(D, 20),
    )


def torch_lstm() -> nn.Module:
    return named(embed=nn.Embedding(20, D), rnn=nn.LSTM(D, D, 2, proj_size=4), decoder=nn.Linear(4, 20))


def plain_cnn() -> nn.Module:
    return named(
        conv1=nn.Conv2d(1, D, 3), conv2=nn.Conv2d(D, D, 3), act=nn.PReLU(D), fc1=nn.Linear(D, D), fc2=nn.Linear(D, 10)
    )


class Expert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w1, self.w2 = nn.Linear(D, D, bias=False), nn.Linear(D, D, bias=False)


class MoELayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(D)
        self.experts = nn.ModuleList(Expert() for _ in range(3))
        self.heads = nn.ModuleList(named(key=nn.Linear(D, 4)) for _ in range(2))


def mixture() -> nn.Module:
    return named(tok=nn.Embedding(20, D), layers=nn.ModuleList(MoELayer() for _ in range(2)), temperature=zeros(1))


def convnext_of_the_paper() -> nn.Module:
    """As its authors wrote it: the downsamplings of all stages in a list before that of the stages."""
    downsample = [nn.Sequential(nn.Conv2d(3, D, 4), nn.LayerNorm(D))]
    downsample += [nn.Sequential(nn.LayerNorm(D), nn.Conv2d(D, D, 2)) for _ in range(2)]
    return named(
        downsample_layers=nn.ModuleList(downsample),
        stages=nn.ModuleList(nn.Sequential(*(TimmConvNeXtBlock() for _ in range(count))) for count in (1, 3, 2)),
        norm=nn.LayerNorm(D),
        head=nn.Linear(D, 10),
    )


def openai_clip() -> nn.Module:
    """The text tower: its output layer is a parameter beside the positions and the temperature."""
    return named(
        positional_embedding=zeros(5, D),
        text_projection=zeros(D, D),
        logit_scale=nn.Parameter(torch.ones([])),
        token_embedding=nn.Embedding(20, D),
        transformer=named(resblocks=nn.Sequential(TimmBlock(), TimmBlock())),
        ln_final=nn.LayerNorm(D),
    )


def stacked_experts() -> nn.Module:
    """Experts as one tensor each; `b` without a `w` beside it is a matrix."""
    return named(
        embed=nn.Embedding(20, D),
        layers=nn.ModuleList(
            named(
                router=nn.Linear(D, 3),
                w1=zeros(3, D, 16),
                b1=zeros(3, 16),
                w2=zeros(3, 16, D),
                b2=zeros(3, D),
                b=zeros(4, D),
            )
            for _ in range(2)
        ),
        head=nn.Linear(D, 20),
    )


def wrapped() -> nn.Module:
    """A backbone and a new head in one Sequential."""
    return nn.Sequential(torchvision_resnet(), nn.Linear(10, 3))
