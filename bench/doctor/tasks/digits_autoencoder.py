"""Digits through a narrow middle: plain, denoising and variational autoencoders, closures around one step function."""

from __future__ import annotations

import torch
from bench.doctor.causes import wrong_lr
from bench.doctor.data import digits, outcome
from torch import nn
from torch.nn import functional as F

NAME, STEPS = "digits-autoencoder", 240
HEALTHY = ("adam", "vae", "denoise", "sgd", "logits", "deep")
FAULTS = {
    "adam": [
        "no-zero-grad",
        "zero-between",
        "unused-layer",
        "frozen",
        "cut-by-no-grad",
        "detached-loss",
        "not-in-optimizer",
        "optimizer-remade",
        "lr-30x",
        "lr-300x",
        "lr-100-low",
        "lr-1000-low",
        "init-large",
        "init-zero",
        "nan-in-data",
        "unscaled-inputs",
        "sqrt-zero",
        "dead-relu",
        "betas-swapped",
        "decay-strong",
        "leak",
    ],
    "vae": ["lr-300x", "fp16-overflow", "no-zero-grad", "lr-1000-low"],
    "sgd": ["clip-always", "lr-100-low", "no-zero-grad", "accumulation-sum", "momentum-0.999", "lr-30x"],
    "logits": ["log-zero", "lr-1000-low"],
    "deep": ["vanishing", "dead-relu"],
}


class Coder(nn.Module):
    def __init__(self, config, fault):
        super().__init__()
        self.config, self.fault = config, fault
        code = 24 if config == "vae" else 12
        act = nn.Sigmoid if fault == "vanishing" else nn.ReLU
        middle = []
        for _ in range(3 if config == "deep" else 0):
            middle += [nn.Linear(48, 48), act()]
        self.enc = nn.Sequential(nn.Linear(64, 48), act(), *middle, nn.Linear(48, code))
        self.dec = nn.Sequential(nn.Linear(12, 48), act(), nn.Linear(48, 64))
        if fault == "unused-layer":
            self.skip = nn.Linear(12, 64)
        if fault == "leak":
            self.dec = nn.Sequential(nn.Linear(12 + 64, 48), act(), nn.Linear(48, 64))
        if fault == "dead-relu":
            for net in (self.enc, self.dec):
                net[0].bias.data -= 12.0
        for m in self.modules():
            if isinstance(m, nn.Linear) and fault in ("init-large", "init-zero"):
                nn.init.constant_(m.weight, 0.0)
                nn.init.zeros_(m.bias)
                if fault == "init-large":
                    nn.init.normal_(m.weight, std=4.0)

    def forward(self, x):
        if self.fault == "cut-by-no-grad":
            with torch.no_grad():
                z = self.enc(x)
        else:
            z = self.enc(x)
        kl = 0.0
        if self.config == "vae":
            mean, logvar = z.chunk(2, dim=1)
            if self.training:
                z = mean + torch.randn_like(mean) * (0.5 * logvar).exp()
            else:
                z = mean
            kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum(1).mean()
        if self.fault == "leak":
            z = torch.cat([z, x], 1)  # a "skip connection" around the narrow middle
        return self.dec(z), kl


def train(watch, seed, config="adam", fault=None):
    torch.manual_seed(seed)
    x, _, held, _ = digits()
    scale = 1.0 if fault == "unscaled-inputs" else 16.0
    x, held = x / scale, held / scale
    if fault == "nan-in-data":
        x = x.clone()
        x[5, 20] = float("nan")
    model = Coder(config, fault)
    if fault == "frozen":
        model.enc.requires_grad_(False)
    if fault == "fp16-overflow":
        model, x, held = model.half(), x.half(), held.half()
    params = model.dec.parameters() if fault == "not-in-optimizer" else model.parameters()
    params = list(params)

    def make():
        if config == "sgd":
            return torch.optim.SGD(params, wrong_lr(fault, 0.5), momentum=0.999 if fault == "momentum-0.999" else 0.9)
        return torch.optim.Adam(
            params,
            lr=wrong_lr(fault, 2e-3),
            betas=(0.999, 0.9) if fault == "betas-swapped" else (0.9, 0.999),
            weight_decay=3.0 if fault == "decay-strong" else 0.0,
        )

    optimizer = make()
    accumulate = 8 if config == "sgd" else 1

    def criterion(x):
        noisy = x * (torch.rand_like(x) > 0.2) if config == "denoise" and model.training else x
        out, kl = model(noisy)
        if fault == "sqrt-zero":
            return (out - x).pow(2).mul(x > 0).sqrt().mean()  # zero pixels: the slope of sqrt at 0
        if config == "logits":
            if fault == "log-zero":
                p = out.relu().clamp(max=1.0)
                return -(x * p.log() + (1 - x) * (1 - p).log()).mean()
            return F.binary_cross_entropy_with_logits(out, x)
        if fault == "fp16-overflow":
            return F.mse_loss(out, x, reduction="sum") * 40 + kl
        return F.mse_loss(out, x) + 0.0005 * kl

    @torch.no_grad()
    def evaluate():
        model.eval()
        out, _ = model(held)
        if fault == "leak":
            out = model.dec(torch.cat([model.enc(held), torch.zeros_like(held)], 1))  # what the code alone can do
        if config == "logits":
            out = out.sigmoid() if fault != "log-zero" else out.relu().clamp(max=1.0)
        model.train()
        return F.mse_loss(out.float() * (scale / 16), held.float() * (scale / 16)).item()

    def step(doctor):
        nonlocal optimizer
        if fault == "optimizer-remade":
            optimizer = make()
        total = 0.0
        for _ in range(accumulate):
            batch = x[torch.randint(len(x), (48 // accumulate,))]
            loss = criterion(batch)
            if fault == "detached-loss":
                loss = loss.detach().requires_grad_(True)
            if fault != "accumulation-sum":
                loss = loss / accumulate
            doctor.loss(loss)
            doctor.batch(batch, batch)
            loss.backward()
            total += loss.item()
        if fault == "zero-between":
            optimizer.zero_grad()
        if fault == "clip-always":
            nn.utils.clip_grad_norm_(params, 1e-3)
        optimizer.step()
        if fault != "no-zero-grad":
            optimizer.zero_grad()
        return total / (accumulate if fault == "accumulation-sum" else 1)

    before, losses = evaluate(), []
    doctor = watch(model, optimizer)
    for number in range(STEPS):
        losses.append(step(doctor))
        if number % 60 == 59:
            doctor.val(evaluate())
    doctor.close()
    return outcome(losses, before, evaluate())
