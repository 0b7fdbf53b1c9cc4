"""Three kinds of wine from thirteen measures: residual GELU layers, a fit function that takes other functions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from bench.doctor.causes import wrong_lr
from bench.doctor.data import outcome, wine
from torch import nn

NAME, STEPS = "wine-rows", 100
HEALTHY = ("adamw", "nesterov", "sharpness", "weighted", "smooth", "calm")
FAULTS = {
    "adamw": [
        "no-zero-grad",
        "zero-between",
        "unused-layer",
        "frozen",
        "lr-100-low",
        "lr-1000-low",
        "lr-300x",
        "mse-on-logits",
        "softmax-before-ce",
        "unscaled-inputs",
        "inf-in-data",
        "labels-constant",
        "labels-shifted",
        "leak",
        "overfit",
        "decay-strong",
        "no-shuffling",
    ],
    "nesterov": [
        "momentum-0.999",
        "optimizer-remade",
        "clip-always",
        "lr-100-low",
        "detached-loss",
        "scheduler-never",
    ],
    "smooth": ["train-in-eval"],
    "calm": ["bf16-lost"],
}


class Residual(nn.Module):
    def __init__(self, width, drop):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Dropout(drop), nn.Linear(width, width))

    def forward(self, x):
        return x + self.inner(self.norm(x))


def build(inputs, fault):
    width = 128 if fault == "overfit" else 24
    drop = 0.0 if fault == "overfit" else 0.15
    layers = [nn.Linear(inputs, width), Residual(width, drop), Residual(width, drop), nn.Linear(width, 3)]
    if fault == "softmax-before-ce":
        layers.append(nn.Softmax(dim=1))
    net = nn.Sequential(*layers)
    if fault == "unused-layer":
        net[1].gate = nn.Parameter(torch.ones(24))
    if fault == "frozen":
        for layer in net[:3]:
            layer.requires_grad_(False)
    return net


def tables(fault):
    x, y, vx, vy = wine()
    y = y.clone()
    if fault != "unscaled-inputs":
        x, vx = (x - x.mean(0)) / x.std(0), (vx - x.mean(0)) / x.std(0)
    if fault == "labels-constant":
        y.fill_(1)
    elif fault == "labels-shifted":
        y = y.roll(2)
    elif fault == "inf-in-data":
        x = x.clone()
        x[3, 0] = float("-inf")
    elif fault == "leak":
        x, vx = (torch.cat([part, 5 * F.one_hot(of, 3).float()], 1) for part, of in ((x, y), (vx, vy)))
    elif fault == "overfit":
        x, y = x[:30], torch.where(torch.rand(30) < 0.3, (y[:30] + 1) % 3, y[:30])
    elif fault == "no-shuffling":
        order = y.argsort()
        x, y = x[order], y[order]
    return x, y, vx, vy


def fit(net, optimizer, batches, loss_of, after_backward, after_step, score, doctor, every):
    """The loop of this file; what differs comes in as functions."""
    losses, val = [], 0.0
    for number, (x, y) in enumerate(batches):
        loss = loss_of(net(x), y)
        doctor.loss(loss)
        doctor.batch(x, y)
        after_backward(loss, x, y)
        after_step(number)
        losses.append(loss.item())
        if (number + 1) % every == 0:
            val = score()
            doctor.val(val)
    return losses, val


def train(watch, seed, config="adamw", fault=None):
    torch.manual_seed(seed)
    x, y, vx, vy = tables(fault)
    net = build(x.shape[1], fault)
    if fault == "bf16-lost":
        net, x, vx = net.bfloat16(), x.bfloat16(), vx.bfloat16()
    slow = config == "nesterov"

    def make():
        if slow:
            momentum = 0.999 if fault == "momentum-0.999" else 0.9
            return torch.optim.SGD(net.parameters(), wrong_lr(fault, 0.02), momentum=momentum, nesterov=True)
        decay = 60.0 if fault == "decay-strong" else 0.0 if fault == "overfit" else 0.1
        return torch.optim.AdamW(
            net.parameters(), wrong_lr(fault, 4e-4 if config == "calm" else 2e-3), weight_decay=decay
        )

    state = {"optimizer": make()}
    warmup = torch.optim.lr_scheduler.LambdaLR(state["optimizer"], lambda i: min(1.0, (i + 1) / 60)) if slow else None
    weight = torch.tensor([1.0, 0.8, 1.3]) if config == "weighted" else None
    smoothing = 0.1 if config == "smooth" else 0.0

    def loss_of(out, target):
        if fault == "mse-on-logits":
            return F.mse_loss(out[:, 0], target.float())
        return F.cross_entropy(out, target, weight=weight, label_smoothing=smoothing)

    def batches():
        order = torch.arange(len(x))
        for _ in range(STEPS * 3 if fault == "overfit" or config == "calm" else STEPS):
            if len(order) < 20:
                order = torch.arange(len(x)) if fault == "no-shuffling" else torch.randperm(len(x))
            rows, order = order[:20], order[20:]
            yield x[rows], y[rows]

    def after_backward(loss, inputs, target):
        optimizer = state["optimizer"]
        if fault == "optimizer-remade":
            optimizer = state["optimizer"] = make()
        if fault == "detached-loss":
            loss = torch.tensor(loss.item(), requires_grad=True)
        loss.backward()
        if config == "sharpness":  # climb, take the gradient there, come back
            with torch.no_grad():
                norm = torch.stack([p.grad.norm() for p in net.parameters()]).norm() + 1e-9
                climbs = [0.05 * p.grad / norm for p in net.parameters()]
                for p, climb in zip(net.parameters(), climbs, strict=True):
                    p.add_(climb)
            optimizer.zero_grad()
            loss_of(net(inputs), target).backward()
            with torch.no_grad():
                for p, climb in zip(net.parameters(), climbs, strict=True):
                    p.sub_(climb)
        if fault == "zero-between":
            optimizer.zero_grad()
        if fault == "clip-always":
            nn.utils.clip_grad_norm_(net.parameters(), 5e-3)
        optimizer.step()
        if fault != "no-zero-grad":
            optimizer.zero_grad()

    def after_step(number):
        if warmup is not None and fault not in ("scheduler-never", "optimizer-remade"):
            warmup.step()

    def score(honest=False):
        if fault != "train-in-eval":
            net.eval()
        inputs = vx
        if honest and fault == "leak":
            inputs = torch.cat([vx[:, :13], torch.zeros(len(vx), 3)], 1)
        with torch.no_grad():
            value = F.cross_entropy(net(inputs), vy, label_smoothing=smoothing).item()
        net.train()
        return value

    before = score()
    doctor = watch(net, state["optimizer"])
    losses, _ = fit(net, None, batches(), loss_of, after_backward, after_step, score, doctor, 20)
    doctor.close()
    return outcome(losses, before, score(honest=True))
