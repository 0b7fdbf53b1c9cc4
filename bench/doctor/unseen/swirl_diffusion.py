"""Noise prediction for points on a swirl: a small diffusion model, bf16 autocast, an averaged copy."""

from __future__ import annotations

import copy
import math

import torch
from bench.doctor.causes import wrong_lr
from bench.doctor.data import outcome
from torch import nn

NAME, STEPS = "swirl-diffusion", 300
HEALTHY = ("adam", "average", "autocast", "onecycle")
FAULTS = {
    "adam": [
        "no-zero-grad",
        "zero-between",
        "unused-layer",
        "frozen",
        "cut-by-detach",
        "lr-300x",
        "lr-100-low",
        "lr-1000-low",
        "sqrt-zero",
        "inf-in-data",
        "labels-shuffled",
        "betas-swapped",
        "decay-strong",
        "init-large",
        "dead-relu",
        "batch-too-small",
        "leak",
    ],
    "onecycle": ["no-zero-grad"],
}


def swirl(n, generator=None):
    t = torch.rand(n, generator=generator).sqrt() * 3 * math.pi
    return torch.stack([t * t.cos(), t * t.sin()], 1) / 5


class Denoiser(nn.Module):
    def __init__(self, fault):
        super().__init__()
        self.time = nn.Linear(8, 48)
        self.point = nn.Linear(4 if fault == "leak" else 2, 48)
        self.mid = nn.ModuleList([nn.Linear(48, 48), nn.Linear(48, 48)])
        self.out = nn.Linear(48, 2)
        self.act = nn.ReLU() if fault == "dead-relu" else nn.SiLU()
        self.fault = fault
        if fault == "unused-layer":
            self.condition = nn.Embedding(10, 48)
        if fault == "dead-relu":
            for layer in (self.time, *self.mid):
                layer.bias.data -= 10.0
        if fault == "init-large":
            for p in self.parameters():
                p.data.mul_(40.0)

    def forward(self, x, t):
        angles = t[:, None] * torch.tensor([1.0, 3.0, 9.0, 27.0])
        h = self.point(x) + self.time(torch.cat([angles.sin(), angles.cos()], 1))
        for layer in self.mid:
            h = self.act(layer(self.act(h)))
        if self.fault == "cut-by-detach":
            h = h.detach()
        return self.out(h)


def noisy(x, t, noise):
    return (1 - t)[:, None].sqrt() * x + t[:, None].sqrt() * noise


def train(watch, seed, config="adam", fault=None):
    torch.manual_seed(seed)
    model = Denoiser(fault)
    if fault == "frozen":
        model.mid.requires_grad_(False)
        model.point.requires_grad_(False)
    average = copy.deepcopy(model)
    betas = (0.999, 0.9) if fault == "betas-swapped" else (0.9, 0.999)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=wrong_lr(fault, 4e-3),
        betas=betas,
        weight_decay=50.0 if fault == "decay-strong" else 0.0,
    )
    scheduler = (
        torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-3, total_steps=STEPS) if config == "onecycle" else None
    )
    rng = torch.Generator().manual_seed(2)
    held = swirl(400, rng), torch.rand(400, generator=rng), torch.randn(400, 2, generator=rng)

    def held_out(net):
        x, t, noise = held
        seen = noisy(x, t, noise)
        if fault == "leak":
            seen = torch.cat([seen, torch.zeros(400, 2)], 1)
        with torch.no_grad():
            return nn.functional.mse_loss(net(seen, t), noise).item()

    before, losses = held_out(model), []
    doctor = watch(model, optimizer)
    for step in range(1, STEPS + 1):
        n = 2 if fault == "batch-too-small" else 128
        x, t, noise = swirl(n), torch.rand(n), torch.randn(n, 2)
        if fault == "inf-in-data" and step == 40:
            x[1, 1] = float("inf")
        seen = noisy(x, t, noise)
        if fault == "leak":
            seen = torch.cat([seen, noise], 1)
        if fault == "labels-shuffled":
            noise = noise[torch.randperm(n)]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=config == "autocast"):
            guess = model(seen, t)
            gap = (guess.float() - noise) ** 2
        loss = gap.mean()
        if fault == "sqrt-zero":
            loss = (gap * (gap > 0.01)).sqrt().mean()  # small errors set to zero, then the root
        optimizer.zero_grad() if fault != "no-zero-grad" else None
        loss.backward()
        doctor.loss(loss)
        if fault == "zero-between":
            optimizer.zero_grad()
        optimizer.step()
        losses.append(loss.item())
        if scheduler is not None:
            scheduler.step()
        if config == "average":
            with torch.no_grad():
                for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
                    slow += 0.03 * (fast - slow)
        if config != "adam" and step % 100 == 0:
            doctor.val(held_out(average if config == "average" else model))
    doctor.close()
    return outcome(losses, before, held_out(average if config == "average" else model))
