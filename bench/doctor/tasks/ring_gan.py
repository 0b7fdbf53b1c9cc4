"""Points on a ring from a generator and a discriminator: two models, two optimizers, no evaluation in the loop."""

from __future__ import annotations

import math

import torch
from bench.doctor.causes import wrong_lr
from bench.doctor.data import outcome
from torch import nn
from torch.nn import functional as F

NAME, STEPS = "ring-gan", 350
HEALTHY = ("adam", "hinge", "average")
FAULTS = {
    "adam": [
        "no-zero-grad",
        "zero-between",
        "frozen",
        "cut-by-detach",
        "not-in-optimizer",
        "lr-300x",
        "lr-1000-low",
        "labels-constant",
        "nan-in-data",
        "decay-strong",
        "unscaled-inputs",
        "init-large",
        "log-zero",
        "detached-loss",
    ],
}


def mlp(inside, outside, out_scale=1.0):
    return nn.Sequential(
        nn.Linear(inside, 48), nn.LeakyReLU(0.2), nn.Linear(48, 48), nn.LeakyReLU(0.2), nn.Linear(48, outside)
    )


def real(n, generator=None):
    angle = torch.rand(n, generator=generator) * 2 * math.pi
    points = torch.stack([angle.cos(), angle.sin()], 1) * 1.5
    return points + torch.tensor([1.0, 0.5]) + 0.05 * torch.randn(n, 2, generator=generator)


@torch.no_grad()
def distance(generator):
    """The energy distance between generated and real points."""
    source = torch.Generator().manual_seed(7)
    a, b = real(300, source), generator(torch.randn(300, 4, generator=source))
    return (2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean()).item()


def train(watch, seed, config="adam", fault=None):
    torch.manual_seed(seed)
    netG, netD = mlp(4, 2), mlp(2, 1)
    if fault == "init-large":
        for p in [*netG.parameters(), *netD.parameters()]:
            nn.init.normal_(p, std=4.0)
    if fault == "frozen":
        for p in netG[2].parameters():
            p.requires_grad = False
        for p in netG[0].parameters():
            p.requires_grad = False
    decay = 20.0 if fault == "decay-strong" else 0.0
    of_g = netG[4].parameters() if fault == "not-in-optimizer" else netG.parameters()
    optG = torch.optim.AdamW(of_g, lr=wrong_lr(fault, 2e-3), betas=(0.5, 0.9), weight_decay=decay)
    optD = torch.optim.AdamW(netD.parameters(), lr=wrong_lr(fault, 2e-3), betas=(0.5, 0.9), weight_decay=decay)
    average = mlp(4, 2)
    average.load_state_dict(netG.state_dict())

    def adversarial(logits, is_real):
        if config == "hinge":
            return F.relu(1 - logits if is_real else 1 + logits).mean()
        if fault == "log-zero":
            p = (5 * logits).sigmoid().round(decimals=1)  # probabilities "tidied up" before the logarithm
            return -(p.log() if is_real else (1 - p).log()).mean()
        target = torch.full_like(logits, 1.0 if is_real or fault == "labels-constant" else 0.0)
        return F.binary_cross_entropy_with_logits(logits, target)

    before, losses = distance(netG), []
    doctor = watch([netG, netD], [optG, optD])
    for it in range(STEPS):
        data = real(64)
        if fault == "unscaled-inputs":
            data = data * 300 + 2000
        if fault == "nan-in-data" and it == 100:
            data[3, 1] = float("nan")
        # discriminator
        if fault != "no-zero-grad":
            optD.zero_grad()
        fake = netG(torch.randn(64, 4))
        lossD = adversarial(netD(data), True) + adversarial(netD(fake.detach()), False)
        doctor.loss(lossD)
        lossD.backward()
        if fault == "zero-between":
            optD.zero_grad()
        optD.step()
        # generator
        if fault != "no-zero-grad":
            optG.zero_grad()
        if fault == "cut-by-detach":
            fake = fake.detach()
        logits = netD(fake)
        lossG = -logits.mean() if config == "hinge" else adversarial(logits, True)
        doctor.loss(lossG)
        if fault == "detached-loss":
            lossG = torch.tensor(lossG.item(), requires_grad=True)
        lossG.backward()
        if fault == "zero-between":
            optG.zero_grad()
        optG.step()
        losses.append(lossD.item() + lossG.item())
        if config == "average":
            with torch.no_grad():
                for a, p in zip(average.parameters(), netG.parameters(), strict=True):
                    a.lerp_(p, 0.03)
    doctor.close()
    after = distance(average if config == "average" else netG)
    if fault == "unscaled-inputs":
        after = after / 300 + 5
    return outcome(losses, before, after)
