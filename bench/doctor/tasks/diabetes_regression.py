"""How a disease goes on after a year: a small regression, whole script in one function, targets standardised."""

from __future__ import annotations

import torch
from bench.doctor.causes import wrong_lr
from bench.doctor.data import diabetes, outcome
from torch import nn

NAME, STEPS = "diabetes-regression", 160
HEALTHY = ("adam", "sgd", "huber", "norm")
FAULTS = {
    "adam": [
        "no-zero-grad",
        "zero-between",
        "unused-layer",
        "frozen",
        "cut-by-detach",
        "not-in-optimizer",
        "lr-30x",
        "lr-300x",
        "lr-100-low",
        "lr-1000-low",
        "nan-in-data",
        "unscaled-inputs",
        "unscaled-targets",
        "labels-constant",
        "labels-shuffled",
        "labels-shifted",
        "leak",
        "broadcast",
        "overfit",
        "decay-strong",
        "dead-relu",
        "init-large",
        "detached-loss",
        "betas-swapped",
    ],
    "sgd": [
        "momentum-0.999",
        "lr-30x",
        "lr-1000-low",
        "clip-always",
        "scheduler-per-batch",
        "batch-too-small",
        "no-zero-grad",
    ],
    "norm": ["sqrt-zero", "eval-in-training", "lr-300x"],
}


def train(watch, seed, config="adam", fault=None):
    torch.manual_seed(seed)
    x, y, test_x, test_y = (part.clone() for part in diabetes())
    center, spread = y.mean(), y.std()
    if fault != "unscaled-targets":
        y, test_y = (y - center) / spread, (test_y - center) / spread
    if fault == "overfit":
        x, y = x[:60], y[:60]
    elif fault == "labels-constant":
        y = torch.zeros_like(y)
    elif fault == "labels-shuffled":
        y = y[torch.randperm(len(y))]
    elif fault == "labels-shifted":
        y = y.roll(1)
    elif fault == "nan-in-data":
        x[17, 4] = float("nan")
    elif fault == "unscaled-inputs":
        raw = torch.tensor([48.0, 1, 26, 94, 189, 115, 49, 4, 4, 9100])
        x, test_x = x * raw / 4 + raw, test_x * raw / 4 + raw
    if fault == "leak":
        x, test_x = torch.cat([x, y[:, None]], 1), torch.cat([test_x, test_y[:, None]], 1)

    width = 256 if fault == "overfit" else 16
    body = nn.Sequential(nn.Linear(x.shape[1], width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
    if config == "norm":
        norms = [nn.BatchNorm1d(width), nn.Dropout(0.2)]
        body = nn.Sequential(nn.Linear(x.shape[1], width), *norms, nn.ReLU(), nn.Linear(width, width), nn.ReLU())
    head = nn.Linear(width, 1)
    model = nn.ModuleDict({"body": body, "head": head})
    if fault == "unused-layer":
        model["head2"] = nn.Linear(width, 1)
    if fault == "dead-relu":
        body[0].bias.data.fill_(-9.0)
    if fault == "init-large":
        for p in model.parameters():
            p.data.normal_(0, 2.5)
    if fault == "frozen":
        body.requires_grad_(False)
        head.bias.requires_grad_(False)

    def predict(inputs):
        features = model["body"](inputs)
        if fault == "cut-by-detach":
            features = features.detach()
        out = model["head"](features)
        return out if fault == "broadcast" else out.squeeze(1)

    weights = head.parameters() if fault == "not-in-optimizer" else model.parameters()
    if config == "sgd":
        momentum = 0.999 if fault == "momentum-0.999" else 0.9
        optimizer = torch.optim.SGD(weights, lr=wrong_lr(fault, 0.01), momentum=momentum)
    else:
        decay = 30.0 if fault == "decay-strong" else 0.1 if fault != "overfit" else 0.0
        betas = (0.99, 0.5) if fault == "betas-swapped" else (0.9, 0.99)
        optimizer = torch.optim.AdamW(weights, lr=wrong_lr(fault, 2e-3), weight_decay=decay, betas=betas)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=20)

    def test():
        model.eval()
        with torch.no_grad():
            seen = test_x
            if fault == "leak":
                seen = test_x.clone()
                seen[:, -1] = 0
            error = (predict(seen).squeeze() - test_y).float().pow(2).mean().item()
        if fault != "eval-in-training":
            model.train()
        return error / spread.item() ** 2 if fault == "unscaled-targets" else error

    first = test()
    doctor = watch(model, optimizer)
    history, size = [], 1 if fault == "batch-too-small" else 32
    epochs = 16 if size == 32 else 1
    if fault == "overfit":
        epochs = 100
    for _ in range(epochs):
        order = torch.randperm(len(x))
        for start in range(0, len(x), size):
            rows = order[start : start + size]
            output = predict(x[rows])
            if config == "huber":
                loss = nn.functional.smooth_l1_loss(output, y[rows])
            elif config == "norm":
                loss = ((output - y[rows]) ** 2 + 1e-8).sqrt().mean()
                if fault == "sqrt-zero":
                    loss = ((output - y[rows]).clamp(min=0) ** 2).sqrt().mean() + loss
            else:
                loss = ((output - y[rows]) ** 2).mean()
            doctor.loss(loss)
            if fault == "detached-loss":
                loss = torch.tensor(loss.item(), requires_grad=True)
            if fault != "no-zero-grad":
                optimizer.zero_grad()
            loss.backward()
            if fault == "zero-between":
                optimizer.zero_grad()
            if fault == "clip-always":
                nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
            optimizer.step()
            history.append(loss.item())
            if fault == "scheduler-per-batch":
                scheduler.step()
        if fault != "scheduler-per-batch":
            scheduler.step()
        doctor.val(test())
    doctor.close()
    return outcome(history, first, test())
