"""Communities of a random graph: two graph convolutions, all nodes in every step, labels for a tenth of the nodes."""

from __future__ import annotations

import torch
from bench.doctor.causes import wrong_lr
from bench.doctor.data import outcome
from torch import nn

NAME, STEPS = "graph-nodes", 100
HEALTHY = ("adam", "sgd", "attention")
FAULTS = {
    "adam": [
        "no-zero-grad",
        "zero-between",
        "unused-layer",
        "frozen",
        "cut-by-detach",
        "lr-100-low",
        "lr-1000-low",
        "lr-300x",
        "decay-strong",
        "eval-in-training",
        "train-in-eval",
        "labels-constant",
        "labels-shuffled",
        "leak",
        "overfit",
        "nan-in-data",
        "softmax-before-ce",
    ],
    "sgd": ["lr-100-low", "clip-always", "optimizer-remade", "exploding", "vanishing", "momentum-0.999"],
}
NODES, GROUPS = 300, 4


def graph(seed):
    rng = torch.Generator().manual_seed(70 + seed)
    y = torch.randint(GROUPS, (NODES,), generator=rng)
    chance = torch.where(y[:, None] == y[None], 0.06, 0.012)
    a = (torch.rand(NODES, NODES, generator=rng) < chance).float().triu(1)
    a = a + a.T + torch.eye(NODES)
    scale = a.sum(1).rsqrt()
    x = torch.randn(NODES, 16, generator=rng) + 0.7 * torch.eye(GROUPS, 16)[y]
    return x, scale[:, None] * a * scale, y, torch.randperm(NODES, generator=rng)


class GraphNet(nn.Module):
    def __init__(self, inputs, config, fault):
        super().__init__()
        self.config, self.fault = config, fault
        width = 128 if fault == "overfit" else 24
        self.w1, self.w2 = nn.Linear(inputs, width), nn.Linear(width, GROUPS)
        self.query = nn.Linear(width, 8) if config == "attention" or fault == "unused-layer" else None
        self.deep = nn.ModuleList()
        if fault in ("exploding", "vanishing"):
            self.deep.extend(nn.Linear(width, width) for _ in range(6))
            for layer in self.deep:
                nn.init.normal_(layer.weight, std=2.0 if fault == "exploding" else 0.02)
        self.drop = nn.Dropout(0.0 if fault == "overfit" else 0.4)

    def forward(self, x, a):
        h = torch.relu(a @ self.w1(self.drop(x)))
        for layer in self.deep:
            h = torch.relu(layer(h))
        if self.fault == "cut-by-detach":
            h = h.detach()
        if self.config == "attention":
            q = self.query(h)
            weight = (q @ q.T / 3).masked_fill(a == 0, -1e9).softmax(1)
            h = 0.5 * h + 0.5 * weight @ h
        z = a @ self.w2(self.drop(h))
        return z.softmax(1) if self.fault == "softmax-before-ce" else z


def train(watch, seed, config="adam", fault=None):
    torch.manual_seed(seed)
    x, a, y, order = graph(seed)
    if fault == "overfit":
        a = torch.eye(NODES)
    learn, held = order[: 24 if fault == "overfit" else 80], order[150:]
    target = y.clone()
    if fault == "labels-constant":
        target.fill_(1)
    if fault == "labels-shuffled":
        target = target[torch.randperm(NODES)]
    if fault == "nan-in-data":
        x[5, 5] = float("nan")
    if fault == "leak":
        x = torch.cat([x, 6 * torch.eye(GROUPS)[y]], 1)
    net = GraphNet(x.shape[1], config, fault)
    if fault == "frozen":
        net.w1.requires_grad_(False)
    loss_of = nn.CrossEntropyLoss()

    def make():
        if config == "sgd":
            momentum = 0.999 if fault == "momentum-0.999" else 0.9
            return torch.optim.SGD(net.parameters(), lr=wrong_lr(fault, 0.1), momentum=momentum, weight_decay=5e-3)
        decay = 2.0 if fault == "decay-strong" else 0.0 if fault == "overfit" else 5e-3
        return torch.optim.Adam(net.parameters(), lr=wrong_lr(fault, 7e-3), weight_decay=decay)

    def check(features):
        if fault != "train-in-eval":
            net.eval()
        with torch.no_grad():
            return loss_of(net(features, a)[held], y[held]).item()

    optimizer = make()
    before, history = check(x), []
    net.train()
    doctor = watch(net, optimizer)
    for t in range(STEPS):
        if fault != "eval-in-training":
            net.train()
        if fault == "optimizer-remade":
            optimizer = make()
        loss = loss_of(net(x, a)[learn], target[learn])
        doctor.loss(loss)
        if fault != "no-zero-grad":
            optimizer.zero_grad()
        loss.backward()
        if fault == "zero-between":
            optimizer.zero_grad()
        if fault == "clip-always":
            nn.utils.clip_grad_norm_(net.parameters(), 1e-3)
        optimizer.step()
        history.append(loss.item())
        if t % 10 == 9:
            doctor.val(check(x))
    doctor.close()
    honest = x if fault != "leak" else torch.cat([x[:, :16], torch.zeros(NODES, GROUPS)], 1)
    return outcome(history, before, check(honest))
