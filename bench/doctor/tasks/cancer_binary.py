"""Benign or not: a binary classifier as a class with methods, one logit, full passes in random order."""

from __future__ import annotations

import torch
from bench.doctor.causes import wrong_lr
from bench.doctor.data import cancer, outcome
from torch import nn
from torch.nn import functional as F

NAME, STEPS = "cancer-binary", 90
HEALTHY = ("adam", "sgd", "momentum", "deep", "positive-weight")
FAULTS = {
    "adam": [
        "no-zero-grad",
        "zero-between",
        "unused-layer",
        "frozen",
        "cut-by-no-grad",
        "not-in-optimizer",
        "lr-100-low",
        "lr-1000-low",
        "bce-without-sigmoid",
        "mse-on-logits",
        "broadcast",
        "log-zero",
        "labels-constant",
        "labels-shuffled",
        "labels-shifted",
        "unscaled-inputs",
        "nan-in-data",
        "leak",
        "decay-strong",
        "dead-relu",
        "overfit",
    ],
    "sgd": ["lr-1000-low", "lr-100-low", "optimizer-remade", "clip-always", "detached-loss"],
    "momentum": ["lr-300x", "no-zero-grad"],
    "deep": ["vanishing", "exploding", "init-zero", "dead-relu"],
}


class Classifier(nn.Module):
    def __init__(self, inputs, config, fault):
        super().__init__()
        self.fault = fault
        act = nn.Sigmoid if fault == "vanishing" else nn.ReLU
        depth = 5 if config == "deep" else 1
        layers = [nn.Linear(inputs, 24), act()]
        for _ in range(depth):
            layers += [nn.Linear(24, 24), act()]
        self.features = nn.Sequential(*layers)
        self.logit = nn.Linear(24, 1)
        if fault == "unused-layer":
            self.extra = nn.Linear(inputs, 24)
        for layer in self.features:
            if isinstance(layer, nn.Linear):
                if config == "deep" and fault != "vanishing":
                    nn.init.kaiming_normal_(layer.weight)
                if fault == "exploding":
                    layer.weight.data *= 6.0
                if fault == "init-zero":
                    layer.weight.data.zero_()
                    layer.bias.data.zero_()
                if fault == "dead-relu":
                    layer.bias.data -= 6.0

    def forward(self, x):
        if self.fault == "cut-by-no-grad":
            with torch.no_grad():
                h = self.features(x)
        else:
            h = self.features(x)
        z = self.logit(h)
        return z if self.fault == "broadcast" else z[:, 0]


class Experiment:
    def __init__(self, config, fault, seed):
        torch.manual_seed(seed)
        self.config, self.fault = config, fault
        x, y, vx, vy = (part.clone() for part in cancer())
        if fault != "unscaled-inputs":
            mean, std = x.mean(0), x.std(0)
            x, vx = (x - mean) / std, (vx - mean) / std
        if fault == "labels-constant":
            y[:] = 1.0
        if fault == "labels-shuffled":
            y = y[torch.randperm(len(y))]
        if fault == "labels-shifted":
            y = y.roll(-1)
        if fault == "nan-in-data":
            x[250, 9] = float("nan")
        if fault == "leak":
            x, vx = torch.cat([x, 10 * y[:, None]], 1), torch.cat([vx, 10 * vy[:, None]], 1)
        if fault == "overfit":
            x, y = x[:40], torch.where(torch.rand(40) < 0.15, 1 - y[:40], y[:40])
        self.model = Classifier(x.shape[1], config, fault)
        if fault == "frozen":
            self.model.features.requires_grad_(False)
        self.data = x, y, vx, vy
        self.optimizer = self.make()

    def make(self):
        part = self.model.logit if self.fault == "not-in-optimizer" else self.model
        if self.config == "sgd":
            return torch.optim.SGD(part.parameters(), lr=wrong_lr(self.fault, 0.05), momentum=0.5)
        if self.config == "momentum":
            return torch.optim.SGD(part.parameters(), wrong_lr(self.fault, 0.1), 0.9, weight_decay=1e-2)
        decay = 100.0 if self.fault == "decay-strong" else 0.1
        return torch.optim.AdamW(
            part.parameters(), wrong_lr(self.fault, 1e-3 if self.config == "deep" else 2e-3), weight_decay=decay
        )

    def loss(self, z, y):
        fault = self.fault
        z = z.float()
        if fault == "bce-without-sigmoid":
            return F.binary_cross_entropy(z.clamp(0.0, 1.0), y)
        if fault == "mse-on-logits":
            return F.mse_loss(z, y * 100)  # per cent
        if fault == "broadcast":
            return (F.softplus(z) - y * z).mean()
        if fault == "log-zero":
            p = torch.exp(z) / (1 + torch.exp(z))
            p = torch.round(p * 20) / 20 - p.detach() + p  # "calibrated" to steps of 5 %
            return -(y * torch.log(p) + (1 - y) * torch.log(1 - p)).mean()
        weight = torch.tensor(0.6) if self.config == "positive-weight" else None
        return F.binary_cross_entropy_with_logits(z, y, pos_weight=weight)

    @torch.no_grad()
    def validation(self, honest=False):
        _, _, x, y = self.data
        if honest and self.fault == "leak":
            x = torch.cat([x[:, :-1], torch.zeros_like(x[:, :1])], 1)
        z = self.model(x).float().reshape(-1)
        return F.binary_cross_entropy_with_logits(z, y).item()

    def run(self, watch):
        x, y, _, _ = self.data
        before, losses = self.validation(), []
        doctor = watch(self.model, self.optimizer)
        parts = 8 if self.config == "momentum" else 1
        falls = torch.optim.lr_scheduler.LinearLR(self.optimizer, 1.0, 0.1, 60) if parts > 1 else None
        size = 40 if self.fault != "overfit" else 20
        epochs = 9 if self.fault != "overfit" else 150
        for _ in range(epochs):
            order = torch.randperm(len(x))
            for chosen in order.split(size):
                if self.fault == "optimizer-remade":
                    self.optimizer = self.make()
                for rows in chosen.chunk(parts):
                    loss = self.loss(self.model(x[rows]), y[rows])
                    loss = loss / parts
                    doctor.loss(loss)
                    (loss if self.fault != "detached-loss" else loss.detach().requires_grad_()).backward()
                losses.append(loss.item() * parts)
                if self.fault == "zero-between":
                    self.model.zero_grad()
                if self.fault == "clip-always":
                    nn.utils.clip_grad_norm_(self.model.parameters(), 2e-3)
                self.optimizer.step()
                if falls is not None:
                    falls.step()
                if self.fault != "no-zero-grad":
                    self.optimizer.zero_grad()
            doctor.val(self.validation())
        doctor.close()
        return outcome(losses, before, self.validation(honest=True))


def train(watch, seed, config="adam", fault=None):
    return Experiment(config, fault, seed).run(watch)
