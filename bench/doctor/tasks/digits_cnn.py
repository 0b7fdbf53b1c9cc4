"""Digits, a convolutional network with batch norm and dropout: one function, epochs over a DataLoader."""

from __future__ import annotations

import torch
from bench.doctor.causes import wrong_lr
from bench.doctor.data import digits, outcome
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

NAME, STEPS, EPOCHS, BATCH = "digits-cnn", 120, 6, 60
HEALTHY = ("sgd", "onecycle", "adamw", "smoothing", "bf16", "weights")
FAULTS = {
    "sgd": [
        "no-zero-grad",
        "zero-between",
        "unused-layer",
        "frozen",
        "cut-by-detach",
        "not-in-optimizer",
        "optimizer-remade",
        "scheduler-per-batch",
        "scheduler-first",
        "lr-30x",
        "lr-300x",
        "lr-100-low",
        "lr-1000-low",
        "init-large",
        "nan-in-data",
        "clip-always",
        "eval-in-training",
        "train-in-eval",
        "labels-constant",
        "labels-shuffled",
        "labels-shifted",
        "no-shuffling",
        "batch-too-small",
        "decay-strong",
        "softmax-before-ce",
        "nll-without-log",
        "mse-on-logits",
    ],
    "onecycle": ["scheduler-never"],
    "adamw": ["lr-300x", "lr-1000-low", "betas-swapped", "detached-loss", "inf-in-data"],
}


class Net(nn.Module):
    def __init__(self, fault):
        super().__init__()
        self.fault = fault
        self.conv1, self.bn1 = nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.conv2, self.bn2 = nn.Conv2d(12, 24, 3, padding=1), nn.BatchNorm2d(24)
        if fault == "unused-layer":
            self.conv3 = nn.Conv2d(24, 24, 3, padding=1)  # somebody forgot to call it
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(24 * 4, 10)
        if fault == "init-large":
            for p in self.parameters():
                nn.init.normal_(p, std=3.0)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        x = x.flatten(1)
        if self.fault == "cut-by-detach":
            x = x.detach()
        out = self.fc(self.drop(x))
        return F.softmax(out, dim=1) if self.fault == "softmax-before-ce" else out


def validate(model, x, y, fault):
    if fault != "train-in-eval":
        model.eval()
    with torch.no_grad():
        return F.cross_entropy(model(x), y).item()


def train(watch, seed, config="sgd", fault=None):
    torch.manual_seed(seed)
    x, y, vx, vy = digits()
    x, vx = (x.view(-1, 1, 8, 8) - 4.9) / 6.0, (vx.view(-1, 1, 8, 8) - 4.9) / 6.0
    y = y.clone()
    if fault == "labels-constant":
        y[:] = 3
    elif fault == "labels-shuffled":
        y = y[torch.randperm(len(y))]
    elif fault == "labels-shifted":
        y = y.roll(1)
    elif fault == "no-shuffling":
        order = y.argsort()
        x, y = x[order], y[order]
    elif fault in ("nan-in-data", "inf-in-data"):
        x[700, 0, 3, 3] = float("nan") if fault == "nan-in-data" else float("inf")
    batch = 2 if fault == "batch-too-small" else BATCH
    loader = DataLoader(TensorDataset(x, y), batch, shuffle=fault != "no-shuffling")

    model = Net(fault)
    if fault == "frozen":
        for p in model.conv2.parameters():
            p.requires_grad = False
    params = [p for name, p in model.named_parameters() if fault != "not-in-optimizer" or "conv" not in name]

    def make():
        if config in ("sgd", "onecycle"):
            decay = 0.5 if fault == "decay-strong" else 5e-4
            return torch.optim.SGD(params, wrong_lr(fault, 0.05), momentum=0.9, weight_decay=decay)
        betas = (0.999, 0.9) if fault == "betas-swapped" else (0.9, 0.999)
        return torch.optim.AdamW(params, wrong_lr(fault, 4e-3), betas=betas)

    optimizer = make()
    if config == "sgd":
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.6)
    elif config == "onecycle":
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.15, total_steps=STEPS)
    else:
        scheduler = None
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1 if config == "smoothing" else 0.0)
    if config == "weights":
        criterion = nn.CrossEntropyLoss(weight=len(y) / (10.0 * torch.bincount(y, minlength=10)))

    before, val, losses, steps = validate(model, vx, vy, None), 0.0, [], 0
    model.train()
    doctor = watch(model, optimizer)
    for _epoch in range(EPOCHS):
        if fault != "eval-in-training":
            model.train()
        if fault == "scheduler-first":
            scheduler.step()
        for data, target in loader:
            if fault == "optimizer-remade":
                optimizer = make()
            if fault != "no-zero-grad":
                optimizer.zero_grad()
            if config == "bf16":
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    loss = criterion(model(data), target)
            else:
                out = model(data)
                if fault == "nll-without-log":
                    loss = F.nll_loss(out, target)
                elif fault == "mse-on-logits":
                    loss = F.mse_loss(out, F.one_hot(target, 10).float())
                else:
                    loss = criterion(out, target)
            doctor.loss(loss)
            losses.append(loss.item())
            if fault == "detached-loss":
                loss = torch.tensor(loss.item(), requires_grad=True)
            loss.backward()
            if fault == "zero-between":
                optimizer.zero_grad()
            if fault == "clip-always":
                nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
            optimizer.step()
            if config == "onecycle" and fault != "scheduler-never":
                scheduler.step()
            if fault == "scheduler-per-batch":
                scheduler.step()
            steps += 1
            if steps % 400 == 0:
                break
        if config == "sgd" and fault not in ("scheduler-first", "scheduler-per-batch"):
            scheduler.step()
        val = validate(model, vx, vy, fault)
        doctor.val(val)
        if steps >= 400:
            break
    doctor.close()
    return outcome(losses, before, val)
