"""The next byte of source text, a small transformer: a Trainer class, steps and not epochs, warmup then cosine."""

from __future__ import annotations

import math

import torch
from bench.doctor.causes import wrong_lr
from bench.doctor.data import outcome, source_bytes
from torch import nn
from torch.nn import functional as F

NAME, STEPS = "byte-transformer", 120
HEALTHY = ("adamw", "accumulate", "tied", "experts", "restarts", "postnorm")
FAULTS = {
    "adamw": [
        "no-zero-grad",
        "zero-between",
        "unused-layer",
        "frozen",
        "cut-by-no-grad",
        "not-in-optimizer",
        "scheduler-never",
        "lr-30x",
        "lr-300x",
        "lr-100-low",
        "lr-1000-low",
        "init-large",
        "labels-constant",
        "labels-shuffled",
        "batch-too-small",
        "decay-strong",
        "betas-swapped",
        "softmax-before-ce",
        "momentum-0.999",
    ],
    "accumulate": ["no-zero-grad", "lr-30x"],
    "postnorm": ["no-warmup", "lr-30x"],
    "experts": ["lr-300x", "detached-loss"],
}


class Experts(nn.Module):
    """The best of four feed-forward parts, weighted by its gate."""

    def __init__(self, width):
        super().__init__()
        self.gate = nn.Linear(width, 4)
        self.parts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width)) for _ in range(4)
        )

    def forward(self, x):
        weight, index = self.gate(x).softmax(-1).max(-1, keepdim=True)
        return sum(part(x) * (weight * (index == number)) for number, part in enumerate(self.parts))


class Block(nn.Module):
    def __init__(self, width, config, fault):
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.n1, self.n2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.post = config == "postnorm"
        if config == "experts":
            self.mlp = Experts(width)
        else:
            self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        if fault == "unused-layer":
            self.gate = nn.Linear(width, width)

    def attend(self, x):
        b, t, w = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, 4, w // 4).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(b, t, w))

    def forward(self, x):
        if self.post:
            x = self.n1(x + self.attend(x))
            return self.n2(x + self.mlp(x))
        x = x + self.attend(self.n1(x))
        return x + self.mlp(self.n2(x))


class Model(nn.Module):
    def __init__(self, config, fault):
        super().__init__()
        self.fault = fault
        self.embed, self.place = nn.Embedding(128, 32), nn.Parameter(torch.randn(32, 32) * 0.02)
        nn.init.normal_(self.embed.weight, std=0.1)
        self.blocks = nn.ModuleList(Block(32, config, fault) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 128, bias=False)
        if config == "tied":
            self.head.weight = self.embed.weight
        if fault == "init-large":
            for p in self.parameters():
                if p.dim() == 2:
                    nn.init.normal_(p, std=2.0)

    def forward(self, x):
        h = self.embed(x) + self.place
        if self.fault == "cut-by-no-grad":
            with torch.no_grad():
                h = self.blocks[0](h)
            h = self.blocks[1](h)
        else:
            for block in self.blocks:
                h = block(h)
        out = self.head(self.norm(h))
        return out.softmax(-1) if self.fault == "softmax-before-ce" else out


class Trainer:
    def __init__(self, config, fault, seed):
        torch.manual_seed(seed)
        self.config, self.fault = config, fault
        self.text, self.held = (part.long().clamp(max=127) for part in source_bytes())
        self.model = Model(config, fault)
        if fault == "frozen":
            self.model.blocks.requires_grad_(False)
        self.optimizer = self.make()
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self.rate)
        if config == "restarts":
            self.scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(self.optimizer, STEPS // 3)

    def make(self):
        named = self.model.named_parameters()
        params = [p for name, p in named if self.fault != "not-in-optimizer" or not name.startswith("blocks")]
        betas = (0.9, 0.99)
        if self.fault == "betas-swapped":
            betas = (0.99, 0.9)
        elif self.fault == "momentum-0.999":
            betas = (0.999, 0.99)
        decay = 20.0 if self.fault == "decay-strong" else 0.01
        lr = 2e-2 if self.config == "postnorm" else 1e-2
        return torch.optim.AdamW(params, wrong_lr(self.fault, lr), betas=betas, weight_decay=decay)

    def rate(self, step):
        if self.fault != "no-warmup" and step < 20:
            return (step + 1) / 20
        return 0.55 + 0.45 * math.cos(math.pi * min(step / STEPS, 1))

    def batch(self, size):
        starts = torch.randint(len(self.text) - 33, (size, 1))
        window = self.text[starts + torch.arange(33)]
        x, y = window[:, :32], window[:, 1:33]
        if self.fault == "labels-constant":
            y = torch.full_like(y, 32)
        elif self.fault == "labels-shuffled":
            y = y[torch.randperm(size)]
        return x, y

    @torch.no_grad()
    def evaluate(self):
        starts = torch.linspace(0, len(self.held) - 34, 48).long()[:, None]
        window = self.held[starts + torch.arange(33)]
        self.model.eval()
        loss = self.loss(window[:, :32], window[:, 1:]).item()
        self.model.train()
        return loss

    def loss(self, x, y):
        return F.cross_entropy(self.model(x).float().flatten(0, 1), y.flatten())

    def fit(self, watch):
        before, losses = self.evaluate(), []
        doctor = watch(self.model, self.optimizer)
        micro = 2 if self.config == "accumulate" else 1
        size = 1 if self.fault == "batch-too-small" else 16 // micro
        for step in range(STEPS):
            for _ in range(micro):
                loss = self.loss(*self.batch(size))
                if micro > 1:
                    loss = loss / micro
                if self.fault == "detached-loss":
                    loss = loss.detach().requires_grad_()
                loss.backward()
                doctor.loss(loss)
            losses.append(loss.item() * micro)
            if self.fault == "zero-between":
                self.optimizer.zero_grad()
            if self.fault not in ("init-large", "lr-30x", "lr-300x"):
                nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
            self.optimizer.step()
            if self.fault != "scheduler-never":
                self.scheduler.step()
            if self.fault != "no-zero-grad":
                self.optimizer.zero_grad()
            if step % 40 == 39 and self.config != "tied":
                doctor.val(self.evaluate())
        doctor.close()
        return outcome(losses, before, self.evaluate())


def train(watch, seed, config="adamw", fault=None):
    return Trainer(config, fault, seed).fit(watch)
