"""Digits read row by row by a recurrent network: a dictionary of settings and two small functions per epoch."""

from __future__ import annotations

import torch
from bench.doctor.causes import wrong_lr
from bench.doctor.data import digits, outcome
from torch import nn
from torch.nn import functional as F

NAME, STEPS = "gru-rows", 175
HEALTHY = ("adam", "rmsprop", "sgd", "clipped", "long", "dropout")
FAULTS = {
    "adam": [
        "no-zero-grad",
        "zero-between",
        "unused-layer",
        "frozen",
        "cut-by-detach",
        "detached-loss",
        "not-in-optimizer",
        "lr-30x",
        "lr-300x",
        "lr-100-low",
        "lr-1000-low",
        "init-zero",
        "inf-in-data",
        "labels-constant",
        "labels-shuffled",
        "labels-shifted",
        "leak",
        "unscaled-inputs",
        "no-shuffling",
        "batch-too-small",
        "softmax-before-ce",
        "mse-on-logits",
        "betas-swapped",
        "decay-strong",
    ],
    "sgd": [
        "momentum-0.999",
        "lr-30x",
        "lr-100-low",
        "optimizer-remade",
        "no-zero-grad",
        "scheduler-never",
    ],
    "clipped": ["clip-always"],
    "long": ["exploding"],
    "dropout": ["eval-in-training", "train-in-eval"],
}


class Reader(nn.Module):
    def __init__(self, inputs, config, fault):
        super().__init__()
        self.fault = fault
        if fault == "exploding":
            self.rnn = nn.RNN(inputs, 40, nonlinearity="relu", batch_first=True)
            nn.init.normal_(self.rnn.weight_hh_l0, std=0.4)
        else:
            self.rnn = nn.GRU(inputs, 40, batch_first=True)
        self.drop = nn.Dropout(0.3 if config == "dropout" else 0.0)
        self.head = nn.Linear(40, 10)
        if fault == "init-zero":
            for p in self.parameters():
                nn.init.zeros_(p)
        if fault == "unused-layer":
            self.attention = nn.Linear(40, 1)

    def forward(self, x):
        h, _ = self.rnn(x)
        h = h[:, -1]
        if self.fault == "cut-by-detach":
            h = h.detach()
        out = self.head(self.drop(h))
        return F.softmax(out, -1) if self.fault == "softmax-before-ce" else out


def prepare(config, fault):
    x, y, vx, vy = digits()
    x, y = x.clone(), y.clone()
    if fault != "unscaled-inputs":
        x, vx = x / 8 - 1, vx / 8 - 1
    else:
        x, vx = x * 100, vx * 100
    if fault == "labels-constant":
        y.zero_()
    if fault == "labels-shifted":
        y = torch.cat([y[1:], y[:1]])
    if fault == "labels-shuffled":
        y = y[torch.randperm(len(y))]
    if fault == "inf-in-data":
        x[99, 8] = float("inf")
    if fault == "no-shuffling":
        order = torch.argsort(y)
        x, y = x[order], y[order]
    shape = (-1, 16, 4) if config == "long" else (-1, 8, 8)
    x, vx = x.view(shape), vx.view(shape)
    if fault == "leak":
        x = torch.cat([x, y.float()[:, None, None].expand(-1, x.shape[1], 1)], 2)
        vx = torch.cat([vx, vy.float()[:, None, None].expand(-1, vx.shape[1], 1)], 2)
    return x, y, vx, vy


def epoch(model, opt, data, cfg, doctor, fault, make):
    """One pass over the data; returns the losses."""
    x, y = data
    order = torch.arange(len(x)) if fault == "no-shuffling" else torch.randperm(len(x))
    losses = []
    for rows in order.split(cfg["batch"])[: cfg["most"]]:
        if fault == "optimizer-remade":
            opt = make()
        inputs, target = x[rows], y[rows]
        doctor.batch(inputs, target)
        output = model(inputs)
        if fault == "mse-on-logits":
            loss = ((output.max(dim=1).values - target) ** 2).mean()
        else:
            loss = F.cross_entropy(output, target)
        if fault != "no-zero-grad":
            opt.zero_grad()
        if fault == "detached-loss":
            loss = loss.clone().detach().requires_grad_()
        loss.backward()
        doctor.loss(loss)
        losses.append(loss.item())
        if fault == "zero-between":
            opt.zero_grad(set_to_none=False)
        if cfg["clip"]:
            nn.utils.clip_grad_norm_(model.parameters(), cfg["clip"])
        opt.step()
    return losses


@torch.no_grad()
def check(model, x, y, fault, leak=False):
    if fault != "train-in-eval":
        model.eval()
    if leak:
        x = torch.cat([x[..., :-1], torch.zeros_like(x[..., :1])], 2)
    loss = F.cross_entropy(model(x), y).item()
    if fault != "eval-in-training":
        model.train()
    return loss


def train(watch, seed, config="adam", fault=None):
    torch.manual_seed(seed)
    cfg = {
        "batch": 3 if fault == "batch-too-small" else 48,
        "most": 25,
        "clip": 1.0 if config == "long" and fault is None else 0.0,
    }
    if config == "clipped":
        cfg["clip"] = 0.002 if fault == "clip-always" else 3.0
    x, y, vx, vy = prepare(config, fault)
    model = Reader(x.shape[2], config, fault)
    if fault == "frozen":
        model.rnn.requires_grad_(False)
    weights = model.head.parameters() if fault == "not-in-optimizer" else model.parameters()
    weights = list(weights)

    def make():
        if config in ("sgd", "clipped"):
            momentum = 0.999 if fault == "momentum-0.999" else 0.9
            return torch.optim.SGD(weights, wrong_lr(fault, 0.15), momentum=momentum, nesterov=True)
        if config == "rmsprop":
            return torch.optim.RMSprop(weights, 2e-3)
        betas = (0.99, 0.5) if fault == "betas-swapped" else (0.9, 0.999)
        decay = 50.0 if fault == "decay-strong" else 0.01
        return torch.optim.AdamW(weights, lr=wrong_lr(fault, 8e-3), betas=betas, weight_decay=decay)

    opt = make()
    warm = torch.optim.lr_scheduler.LinearLR(opt, 0.02, 1.0, total_iters=3)
    before, losses = check(model, vx, vy, None), []
    doctor = watch(model, opt)
    val = before
    for _ in range(7):
        losses += epoch(model, opt, (x, y), cfg, doctor, fault, make)
        if fault != "scheduler-never":
            warm.step()
        val = check(model, vx, vy, fault)
        doctor.val(val)
    doctor.close()
    if fault == "leak":
        val = check(model, vx, vy, None, leak=True)
    return outcome(losses, before, val)
