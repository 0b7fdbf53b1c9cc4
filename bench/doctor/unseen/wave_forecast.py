"""The next values of noisy waves: dilated convolutions in time, while loop, schedule by hand."""

from __future__ import annotations

import math

import torch
import torch.nn as nn
import torch.optim as optim
from bench.doctor.causes import wrong_lr
from bench.doctor.data import outcome

NAME, STEPS = "wave-forecast", 150
HEALTHY = ("adam", "sgd", "rmsprop", "huber-ema")
FAULTS = {
    "adam": [
        "no-zero-grad",
        "zero-between",
        "unused-layer",
        "frozen",
        "cut-by-no-grad",
        "not-in-optimizer",
        "lr-30x",
        "lr-300x",
        "lr-100-low",
        "lr-1000-low",
        "nan-in-data",
        "unscaled-inputs",
        "broadcast",
        "labels-shuffled",
        "leak",
        "dead-relu",
        "vanishing",
        "decay-strong",
        "fp16-overflow",
        "detached-loss",
    ],
    "sgd": ["momentum-0.999", "lr-30x", "lr-1000-low", "accumulation-sum", "clip-always", "exploding", "no-zero-grad"],
}


class Causal(nn.Module):
    def __init__(self, channels, dilation, act):
        super().__init__()
        self.pad = nn.ConstantPad1d((dilation, 0), 0.0)
        self.conv = nn.Conv1d(channels, channels, 2, dilation=dilation)
        self.act = act

    def forward(self, x):
        return self.act(self.conv(self.pad(x)))


class Forecaster(nn.Module):
    def __init__(self, fault):
        super().__init__()
        self.fault = fault
        act = nn.Sigmoid() if fault == "vanishing" else nn.ReLU()
        self.first = nn.Conv1d(1, 12, 1)
        self.layers = nn.ModuleList([Causal(12, d, act) for d in (1, 2, 4, 8)])
        if fault == "vanishing":
            self.layers.extend([Causal(12, d, act) for d in (1, 2, 4)])
        self.last = nn.Conv1d(12, 1, 1)
        for layer in self.layers:
            if fault == "dead-relu":
                nn.init.constant_(layer.conv.bias, -4.0)
            if fault == "exploding":
                nn.init.normal_(layer.conv.weight, std=3.0)
        if fault == "unused-layer":
            self.trend = nn.Conv1d(1, 1, 1)

    def forward(self, x):
        if self.fault == "cut-by-no-grad":
            with torch.no_grad():
                h = self.inner(x)
        else:
            h = self.inner(x)
        return self.last(h)[:, 0, -1:]

    def inner(self, x):
        h = self.first(x[:, None])
        for layer in self.layers:
            h = h + layer(h) if self.fault not in ("vanishing", "exploding", "dead-relu") else layer(h)
        return h


def waves(n, rng):
    t = torch.arange(25.0)
    speed = 0.2 + 0.6 * torch.rand(n, 1, generator=rng)
    phase = 2 * math.pi * torch.rand(n, 1, generator=rng)
    series = torch.sin(speed * t + phase) * (0.5 + torch.rand(n, 1, generator=rng))
    series = series + 0.05 * torch.randn(n, 25, generator=rng)
    return series[:, :24], series[:, 24:]


def train(watch, seed, config="adam", fault=None):
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(900 + seed)
    test_x, test_y = waves(256, torch.Generator().manual_seed(4))
    factor, shift = (4000.0, 9000.0) if fault == "unscaled-inputs" else (1.0, 0.0)
    net = Forecaster(fault)
    if fault == "frozen":
        net.layers.requires_grad_(False)
        net.first.requires_grad_(False)
    half = fault == "fp16-overflow"
    if half:
        net.half()
    average = {name: p.detach().clone() for name, p in net.named_parameters()}
    group = net.last if fault == "not-in-optimizer" else net
    base = {"sgd": 0.05, "rmsprop": 2e-3}.get(config, 5e-3)
    if config == "sgd":
        opt = optim.SGD(group.parameters(), wrong_lr(fault, base), 0.999 if fault == "momentum-0.999" else 0.9)
    elif config == "rmsprop":
        opt = optim.RMSprop(group.parameters(), base)
    else:
        opt = optim.AdamW(
            group.parameters(), wrong_lr(fault, base), weight_decay=50.0 if fault == "decay-strong" else 0
        )
    start_lr = opt.param_groups[0]["lr"]

    def error():
        with torch.no_grad():
            x = test_x * factor + shift
            if fault == "leak":
                x = torch.cat([x[:, 1:], x[:, -1:]], 1)  # in earnest the value to come is not there yet
            out = net(x.half() if half else x).float()
        return ((out - shift) / factor - test_y).square().mean().item()

    first, losses, step = error(), [], 0
    doctor = watch(net, opt)
    while step < STEPS:
        for g in opt.param_groups:
            g["lr"] = start_lr * (1.0 if step < STEPS // 2 else 0.3)
        if fault != "no-zero-grad":
            opt.zero_grad()
        pieces = 4 if config == "sgd" else 1
        total = 0.0
        for _ in range(pieces):
            x, y = waves(32 // pieces, rng)
            if fault == "nan-in-data" and step == 60:
                x[1, 5] = math.nan
            if fault == "labels-shuffled":
                y = y[torch.randperm(len(y))]
            if fault == "leak":
                x = torch.cat([x[:, 1:], y], 1)
            x, y = x * factor + shift, y * factor + shift
            out = net(x.half() if half else x)
            if half:
                loss = ((out * 30 - 30 * y.half()) ** 2).sum()
            elif fault == "broadcast":
                loss = (out - y[:, 0]).square().mean()
            elif config == "huber-ema":
                loss = nn.functional.huber_loss(out, y)
            else:
                loss = (out - y).square().mean()
            if fault != "accumulation-sum":
                loss = loss / pieces
            total += loss.item()
            doctor.loss(loss)
            if fault == "detached-loss":
                loss = torch.tensor(loss.item(), requires_grad=True)
            loss.backward()
        losses.append(total / (pieces if fault == "accumulation-sum" else 1))
        if fault == "zero-between":
            opt.zero_grad()
        if fault == "clip-always":
            nn.utils.clip_grad_norm_(net.parameters(), 2e-3)
        opt.step()
        if config == "huber-ema":
            for name, p in net.named_parameters():
                average[name].lerp_(p.detach(), 0.05)
        step += 1
        if step % 50 == 0:
            doctor.val(error())
    doctor.close()
    return outcome(losses, first, error())
