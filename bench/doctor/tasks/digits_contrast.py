"""Embeddings of digits: InfoNCE over two noisy views, a moving-average teacher, or triplets; a generator of batches."""

from __future__ import annotations

import copy

import torch
from bench.doctor.causes import wrong_lr
from bench.doctor.data import digits, outcome
from torch import nn
from torch.nn import functional as F

NAME, STEPS = "digits-contrast", 150
HEALTHY = ("infonce", "teacher", "triplet", "sgd")
FAULTS = {
    "infonce": [
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
        "labels-shuffled",
        "batch-too-small",
        "decay-strong",
        "init-zero",
        "detached-loss",
        "fp16-overflow",
    ],
    "triplet": ["sqrt-zero", "lr-300x", "no-zero-grad", "lr-1000-low", "labels-shuffled"],
    "sgd": ["lr-100-low", "clip-always", "momentum-0.999", "lr-300x", "optimizer-remade"],
}


def encoder(fault):
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))
    if fault == "init-zero":
        for p in net.parameters():
            nn.init.zeros_(p)
    return net


def views(x, size, fault):
    """Endless pairs of noisy views of the same images."""
    while True:
        rows = torch.randint(len(x), (size,))
        other = rows[torch.randperm(size)] if fault == "labels-shuffled" else rows
        yield tuple(x[r] + 0.35 * torch.randn(size, 64) for r in (rows, other))


def triplets(x, y, size, fault):
    """Endless anchors, others of the same digit, and others of another digit."""
    if fault == "labels-shuffled":
        y = y[torch.randperm(len(y))]
    while True:
        a = torch.randint(len(x), (size,))
        scores = torch.rand(size, len(x))
        same = y[a][:, None] == y[None]
        if fault != "sqrt-zero":
            scores[torch.arange(size), a] = -1.0
        else:
            scores[torch.arange(3), a[:3]] = 2.0  # the anchor may be its own positive
        yield x[a], x[(scores * same - 1.0 * ~same).argmax(1)], x[(scores * ~same - 1.0 * same).argmax(1)]


def infonce(a, b, fault=None):
    a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
    logits = a @ b.T / 0.2
    if fault == "fp16-overflow":
        logits = (a.half() * 300) @ (b.half() * 300).T
        return (logits.exp().sum(1).log() - logits.diag()).mean()
    return F.cross_entropy(logits, torch.arange(len(a)))


def triplet(a, p, n, fault=None):
    if fault == "sqrt-zero":
        return F.relu((a - p).pow(2).sum(1).sqrt() - (a - n).pow(2).sum(1).sqrt() + 1.0).mean()
    return F.triplet_margin_loss(a, p, n, margin=1.0)


def train(watch, seed, config="infonce", fault=None):
    torch.manual_seed(seed)
    x, y, vx, vy = digits()
    x, vx = x / 8 - 1, vx / 8 - 1
    if fault == "nan-in-data":
        x = x.clone()
        x[::400, 0] = float("nan")
    net = encoder(fault)
    projector = nn.Linear(16, 16)
    model = nn.ModuleList([net, projector])
    if fault == "unused-layer":
        model.append(nn.Linear(16, 10))
    if fault == "frozen":
        net[0].requires_grad_(False)
        net[2].requires_grad_(False)
    teacher = copy.deepcopy(model).requires_grad_(False)
    size = 2 if fault == "batch-too-small" else 64
    learn = projector.parameters() if fault == "not-in-optimizer" else model.parameters()
    if config == "sgd":
        momentum = 0.999 if fault == "momentum-0.999" else 0.9

        def make():
            return torch.optim.SGD(model.parameters(), wrong_lr(fault, 0.02), momentum=momentum)
    else:

        def make():
            decay = 100.0 if fault == "decay-strong" else 0.01
            return torch.optim.AdamW(learn, wrong_lr(fault, 3e-3), weight_decay=decay)

    optimizer = make()

    def embed(which, inputs):
        h = which[0](inputs)
        return which[1](h.detach() if fault == "cut-by-detach" else h)

    if config == "triplet":
        batches = triplets(x, y, size, fault)
        state = torch.random.get_rng_state()
        torch.manual_seed(5)
        held = next(triplets(vx, vy, 300, None))
        torch.random.set_rng_state(state)
    else:
        batches = views(x, size, fault)
        noise = torch.randn(2, 200, 64, generator=torch.Generator().manual_seed(5))
        held = vx[:200] + 0.35 * noise[0], vx[:200] + 0.35 * noise[1]
    measure = triplet if config == "triplet" else infonce

    def validation():
        with torch.no_grad():
            return measure(*(embed(model, part) for part in held)).item()

    before, losses = validation(), []
    doctor = watch(model, optimizer)
    for step, batch in zip(range(STEPS), batches, strict=False):
        if fault == "optimizer-remade":
            optimizer = make()
        codes = [embed(model, part) for part in batch]
        if config == "teacher":
            with torch.no_grad():
                codes[1] = embed(teacher, batch[1])
        loss = measure(*codes, fault)
        if fault == "detached-loss":
            loss = torch.tensor(float(loss), requires_grad=True)
        if fault != "no-zero-grad":
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if fault == "zero-between":
            optimizer.zero_grad(set_to_none=True)
        if fault == "clip-always":
            nn.utils.clip_grad_norm_(model.parameters(), 2e-3)
        optimizer.step()
        doctor.loss(loss)
        losses.append(loss.item())
        if config == "teacher":
            for slow, fast in zip(teacher.parameters(), model.parameters(), strict=True):
                slow.data.mul_(0.9).add_(fast.data, alpha=0.1)
        if step % 30 == 29:
            doctor.val(validation())
    doctor.close()
    return outcome(losses, before, validation())
