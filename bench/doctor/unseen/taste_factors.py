"""Who likes what: factors of users and items with Zipf popularity, sparse tables, pairs or ratings."""

from __future__ import annotations

import torch
from bench.doctor.causes import wrong_lr
from bench.doctor.data import outcome
from torch import nn

NAME, STEPS = "taste-factors", 300
HEALTHY = ("ratings", "pairs", "adagrad")
FAULTS = {
    "ratings": [
        "zero-between",
        "frozen",
        "not-in-optimizer",
        "lr-100-low",
        "lr-1000-low",
        "lr-300x",
        "labels-shuffled",
        "labels-constant",
        "broadcast",
        "unscaled-targets",
        "init-zero",
        "init-large",
        "detached-loss",
    ],
    "pairs": ["lr-1000-low", "lr-300x", "log-zero", "cut-by-detach", "zero-between"],
}
USERS, ITEMS, RANK = 300, 800, 4


class World:
    def __init__(self, seed):
        self.rng = torch.Generator().manual_seed(40 + seed)
        self.u = torch.randn(USERS, RANK, generator=self.rng)
        self.i = torch.randn(ITEMS, RANK, generator=self.rng)
        self.popular = 1.0 / (torch.arange(ITEMS) + 5.0)
        self.level = torch.randn(ITEMS, generator=self.rng)

    def draw(self, n):
        users = torch.randint(USERS, (n,), generator=self.rng)
        items = torch.multinomial(self.popular, n, True, generator=self.rng)
        return users, items, self.truth(users, items) + 0.1 * torch.randn(n, generator=self.rng)

    def truth(self, users, items):
        return (self.u[users] * self.i[items]).sum(1) / 2 + self.level[items]


class Factors(nn.Module):
    def __init__(self, fault):
        super().__init__()
        self.fault = fault
        self.user, self.item = nn.Embedding(USERS, 8, sparse=True), nn.Embedding(ITEMS, 8, sparse=True)
        self.bias = nn.Embedding(ITEMS, 1, sparse=True)
        std = {"init-zero": 0.0, "init-large": 12.0}.get(fault, 0.3)
        for table in (self.user, self.item):
            nn.init.normal_(table.weight, std=std)
        nn.init.zeros_(self.bias.weight)

    def forward(self, users, items):
        u = self.user(users)
        if self.fault == "cut-by-detach":
            u = u.detach()
        return (u * self.item(items)).sum(1, keepdim=True) + self.bias(items)


def train(watch, seed, config="ratings", fault=None):
    torch.manual_seed(seed)
    world, model = World(seed), Factors(fault)
    held = world.draw(1000)
    scale = 5000.0 if fault == "unscaled-targets" else 1.0
    if fault == "frozen":
        model.item.requires_grad_(False)
    tables = [model.bias, model.user] if fault == "not-in-optimizer" else [model]
    params = [p for table in tables for p in table.parameters()]
    if config == "adagrad":
        optimizer = torch.optim.Adagrad(params, lr=0.2)
    else:
        optimizer = torch.optim.SparseAdam(params, lr=wrong_lr(fault, 0.02))

    def held_out():
        users, items, rating = held
        with torch.no_grad():
            if config == "pairs":
                gap = model(users[:500], items[:500]) - model(users[:500], items[500:])
                sign = (world.truth(users[:500], items[:500]) - world.truth(users[:500], items[500:])).sign()
                return nn.functional.softplus(-gap[:, 0] * sign).mean().item()
            return ((model(users, items)[:, 0] / scale - rating) ** 2).mean().item()

    before, losses = held_out(), []
    doctor = watch(model, optimizer)
    for step in range(STEPS):
        model.zero_grad()
        users, items, rating = world.draw(256)
        if fault == "labels-shuffled":
            rating = rating[torch.randperm(256)]
        elif fault == "labels-constant":
            rating = torch.ones(256)
        if config == "pairs":
            half, other = users[:128], items[128:]
            gap = (model(half, items[:128]) - model(half, other))[:, 0]
            better = (world.truth(half, items[:128]) > world.truth(half, other)).float() * 2 - 1
            if fault == "log-zero":
                loss = -torch.log(torch.relu(gap * better)).mean()
            else:
                loss = -nn.functional.logsigmoid(gap * better).mean()
        else:
            guess, rating = model(users, items), rating * scale
            loss = nn.functional.mse_loss(guess, rating if fault == "broadcast" else rating[:, None])
        loss_to_use = loss if fault != "detached-loss" else torch.tensor(loss.item(), requires_grad=True)
        loss_to_use.backward()
        doctor.loss(loss)
        losses.append(loss.item())
        if fault == "zero-between":
            optimizer.zero_grad()
        optimizer.step()
        if step % 60 == 59 and config != "adagrad":
            doctor.val(held_out())
    doctor.close()
    return outcome(losses, before, held_out())
