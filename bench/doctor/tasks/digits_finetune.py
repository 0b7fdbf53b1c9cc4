"""Fine-tuning on new digits after training on others: frozen backbone, LoRA, stages, all weights, accumulation."""

from __future__ import annotations

import copy
from functools import lru_cache

import torch
from bench.doctor.causes import wrong_lr
from bench.doctor.data import digits, outcome
from torch import nn
from torch.nn import functional as F

NAME, STEPS = "digits-finetune", 150
HEALTHY = ("frozen-backbone", "lora", "staged", "full", "sgd-accumulate", "mean-teacher", "gentle")
FAULTS = {
    "frozen-backbone": ["not-in-optimizer", "lr-1000-low", "lr-300x", "no-zero-grad", "zero-between"],
    "lora": ["not-in-optimizer", "lr-300x", "lr-1000-low", "init-zero", "cut-by-no-grad"],
    "staged": ["not-in-optimizer", "zero-between", "lr-300x"],
    "full": [
        "lr-30x",
        "lr-300x",
        "lr-100-low",
        "frozen",
        "cut-by-detach",
        "eval-in-training",
        "train-in-eval",
        "bf16-lost",
        "decay-strong",
        "labels-shifted",
        "labels-constant",
        "softmax-before-ce",
        "nll-without-log",
    ],
    "sgd-accumulate": ["accumulation-sum", "no-zero-grad", "lr-30x", "lr-100-low", "clip-always"],
    "gentle": ["bf16-lost"],
}


def network():
    return nn.Sequential(
        nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU(), nn.Dropout(0.3)
    )


@lru_cache(maxsize=8)
def pretrained(seed):
    """A backbone that tells the digits 0 to 4 apart."""
    torch.manual_seed(1000 + seed)
    x, y, _, _ = digits()
    x, y = x[y < 5] / 8 - 1, y[y < 5]
    net, head = network(), nn.Linear(64, 5)
    optimizer = torch.optim.AdamW([*net.parameters(), *head.parameters()], 3e-3)
    for _ in range(150):
        rows = torch.randint(len(x), (48,))
        optimizer.zero_grad()
        F.cross_entropy(head(net(x[rows])), y[rows]).backward()
        optimizer.step()
    return net


class LoRA(nn.Module):
    """A frozen layer and a product of two thin matrices that learns beside it."""

    def __init__(self, layer, fault):
        super().__init__()
        self.layer, self.fault = layer.requires_grad_(False), fault
        self.down = nn.Parameter(torch.randn(8, layer.in_features) / 8)
        self.up = nn.Parameter(torch.zeros(layer.out_features, 8))
        if fault == "init-zero":
            nn.init.zeros_(self.down)

    def forward(self, x):
        if self.fault == "cut-by-no-grad":
            with torch.no_grad():
                return self.layer(x) + x @ self.down.T @ self.up.T
        return self.layer(x) + x @ self.down.T @ self.up.T


class Tuned(nn.Module):
    def __init__(self, backbone, config, fault):
        super().__init__()
        self.backbone, self.head, self.fault = backbone, nn.Linear(64, 5), fault
        if config in ("frozen-backbone", "lora", "staged"):
            backbone.requires_grad_(False)
        if config == "lora":
            backbone[0], backbone[3] = LoRA(backbone[0], fault), LoRA(backbone[3], fault)

    def forward(self, x):
        h = self.backbone(x)
        if self.fault == "cut-by-detach":
            h = h.detach()
        z = self.head(h)
        return z.softmax(1) if self.fault == "softmax-before-ce" else z


def train(watch, seed, config="full", fault=None):
    backbone = copy.deepcopy(pretrained(seed))
    torch.manual_seed(seed)
    x, y, vx, vy = digits()
    x, y, vx, vy = x[y > 4] / 8 - 1, y[y > 4] - 5, vx[vy > 4] / 8 - 1, vy[vy > 4] - 5
    y = {"labels-constant": torch.zeros_like(y), "labels-shifted": y.roll(3)}.get(fault, y)
    model = Tuned(backbone, config, fault)
    if fault == "frozen":
        backbone.requires_grad_(False)
    if fault == "bf16-lost":
        model, x, vx = model.bfloat16(), x.bfloat16(), vx.bfloat16()

    learn = [p for p in model.parameters() if p.requires_grad or config in ("full", "sgd-accumulate")]
    if fault == "not-in-optimizer" and config == "frozen-backbone":
        learn = list(model.head.parameters())
        model.head = nn.Linear(64, 5)  # replaced after the optimizer's list was made
    if fault == "not-in-optimizer" and config == "lora":
        learn = list(model.head.parameters())
    if config == "sgd-accumulate":
        optimizer = torch.optim.SGD(learn, wrong_lr(fault, 0.04), momentum=0.9, weight_decay=5e-3)
    elif config == "frozen-backbone":
        optimizer = torch.optim.Adam(learn, wrong_lr(fault, 3e-2))
    else:
        decay = 300.0 if fault == "decay-strong" else 0.01
        optimizer = torch.optim.AdamW(
            learn,
            wrong_lr(fault, {"lora": 2.5e-3, "staged": 5e-3, "gentle": 3e-4}.get(config, 1e-3)),
            weight_decay=decay,
        )
    teacher = copy.deepcopy(model).requires_grad_(False).eval() if config == "mean-teacher" else None

    def evaluate(wrong_mode=False):
        model.train(wrong_mode)
        with torch.no_grad():
            loss = F.cross_entropy(model(vx).float(), vy).item()
        model.train(fault != "eval-in-training")
        return loss

    def criterion(inputs, target):
        out = model(inputs).float()
        if fault == "nll-without-log":
            return F.nll_loss(out, target)
        loss = F.cross_entropy(out, target)
        if teacher is not None:
            with torch.no_grad():
                goal = teacher(inputs).softmax(1)
            loss = loss + 0.3 * F.mse_loss(out.softmax(1), goal)
        return loss

    before, losses, micro = evaluate(), [], 8 if config == "sgd-accumulate" else 1
    falls = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS) if micro > 1 else None
    doctor = watch(model, optimizer)
    for step in range(STEPS):
        if config == "staged" and step == 50:
            backbone[3].requires_grad_(True)
            if fault != "not-in-optimizer":
                optimizer.add_param_group({"params": list(backbone[3].parameters()), "lr": 1e-3})
        for part in torch.randint(len(x), (32,)).chunk(micro):
            loss = criterion(x[part], y[part]) / (1 if fault == "accumulation-sum" else micro)
            doctor.loss(loss)
            loss.backward()
        losses.append(loss.item() * (1 if fault == "accumulation-sum" else micro))
        if fault == "zero-between":
            optimizer.zero_grad()
        if fault == "clip-always":
            nn.utils.clip_grad_norm_(learn, 3e-3)
        optimizer.step()
        if falls is not None:
            falls.step()
        if fault != "no-zero-grad":
            optimizer.zero_grad()
        if teacher is not None:
            with torch.no_grad():
                for slow, fast in zip(teacher.parameters(), model.parameters(), strict=True):
                    slow.lerp_(fast, 0.05)
        if step % 30 == 29:
            doctor.val(evaluate(fault == "train-in-eval"))
    doctor.close()
    return outcome(losses, before, evaluate(fault == "train-in-eval"))
