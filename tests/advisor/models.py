"""Small modules of every kind that the advisor tells apart."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3)
        self.layer1 = nn.Sequential(Block(16, 16), Block(16, 32))
        self.fc = nn.Linear(32, 10)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3))
        self.classifier = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


class Patches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 64, 16, 16)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 64))
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(64, 4) for _ in range(2))
        self.norm = nn.LayerNorm(64)
        self.head = nn.Linear(64, 10)


class Words(nn.Module):
    def __init__(self, outputs: int = 500) -> None:
        super().__init__()
        self.wte = nn.Embedding(500, 64)
        self.h = nn.ModuleList(nn.TransformerEncoderLayer(64, 4) for _ in range(2))
        self.lm_head = nn.Linear(64, outputs, bias=False)


class Tied(Words):
    def __init__(self) -> None:
        super().__init__()
        self.lm_head.weight = self.wte.weight


class Graph(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(10, 16), nn.Linear(16, 7)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.second(self.first(x))


class ActorCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.actor, self.critic = nn.Linear(8, 4), nn.Linear(8, 1)


class Denoiser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.time_mlp = nn.Linear(32, 32)
        self.down, self.up = nn.Conv2d(3, 32, 3), nn.ConvTranspose2d(32, 3, 3)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.up(self.down(x))


class Segmenter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.bn = nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32)
        self.up, self.out = nn.ConvTranspose2d(32, 16, 2, 2), nn.Conv2d(16, 21, 1)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.rnn, self.decoder = nn.Embedding(1000, 64), nn.LSTM(64, 64, 2), nn.Linear(64, 1000)


class Clicks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.EmbeddingBag(100, 8, sparse=True) for _ in range(3))
        self.top = nn.Sequential(nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 1))


class Gan(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.ConvTranspose2d(64, 32, 4), nn.Tanh())
        self.discriminator = nn.Sequential(nn.Conv2d(3, 32, 4), nn.LeakyReLU(), nn.Conv2d(32, 1, 4))


class Adapted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(500, 64)
        self.q_proj, self.k_proj = nn.Linear(64, 64), nn.Linear(64, 64)
        self.lora_A, self.lora_B = nn.Linear(64, 4, bias=False), nn.Linear(4, 64, bias=False)
        for name, tensor in self.named_parameters():
            tensor.requires_grad = "lora" in name


class Speech(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.feature = nn.Conv1d(80, 64, 3)
        self.layers = nn.ModuleList([nn.TransformerEncoderLayer(64, 4)])
        self.out = nn.Linear(64, 30)

    def forward(self, mel: Tensor) -> Tensor:
        return self.feature(mel)


def mobile() -> nn.Module:
    part = [nn.Sequential(nn.Conv2d(16, 16, 3, groups=16), nn.BatchNorm2d(16), nn.Conv2d(16, 16, 1)) for _ in range(4)]
    return nn.Sequential(*part, nn.Linear(16, 10))


def modern() -> nn.Module:
    part = [nn.Sequential(nn.Conv2d(16, 16, 7, groups=16), nn.GroupNorm(1, 16), nn.Linear(16, 16)) for _ in range(4)]
    return nn.Sequential(nn.Conv2d(3, 16, 4, 4), *part, nn.Linear(16, 10))


def probe() -> nn.Module:
    model = Residual()
    for name, tensor in model.named_parameters():
        tensor.requires_grad = name.startswith("fc")
    return model


@torch.no_grad()
def as_if_trained(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for tensor in model.parameters():
        tensor.add_(0.05 * torch.randn_like(tensor) * torch.randn_like(tensor).abs())
    return model
