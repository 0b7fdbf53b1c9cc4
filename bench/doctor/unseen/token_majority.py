"""Which of eight tokens is most frequent: torch's own encoder layers, padding, a loop of epochs inside a class."""

from __future__ import annotations

import torch
from bench.doctor.causes import wrong_lr
from bench.doctor.data import outcome
from torch import nn

NAME, STEPS = "token-majority", 120
HEALTHY = ("linear-decay", "accumulate", "staged", "restarts")
FAULTS = {
    "linear-decay": [
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
        "scheduler-per-batch",
        "labels-shuffled",
        "labels-constant",
        "batch-too-small",
        "eval-in-training",
        "init-large",
        "leak",
        "softmax-before-ce",
    ],
    "accumulate": ["no-zero-grad", "clip-always", "lr-300x"],
}
LENGTH, KINDS = 16, 8


def sample(n, generator):
    """Token rows [n, 16] (0 is padding) and the winner of each row."""
    winner = torch.randint(KINDS, (n,), generator=generator)
    tokens = torch.randint(KINDS, (n, LENGTH), generator=generator)
    chosen = torch.rand(n, LENGTH, generator=generator) < 0.3
    tokens = torch.where(chosen, winner[:, None], tokens) + 1
    length = torch.randint(LENGTH // 2, LENGTH + 1, (n, 1), generator=generator)
    return torch.where(torch.arange(LENGTH) < length, tokens, 0), winner


class Voter(nn.Module):
    def __init__(self, fault):
        super().__init__()
        self.fault = fault
        self.tokens = nn.Embedding(KINDS + 1 + KINDS, 32, padding_idx=0)
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(32, KINDS)
        if fault == "unused-layer":
            self.pool = nn.Linear(32, 32)
        if fault == "init-large":
            for p in self.parameters():
                if p.dim() > 1:
                    nn.init.normal_(p, std=1.5)

    def forward(self, x):
        mask = x == 0
        h = self.encoder(self.tokens(x), src_key_padding_mask=mask)
        if self.fault == "cut-by-detach":
            h = h.detach()
        h = h.masked_fill(mask[..., None], 0).sum(1) / (~mask).sum(1, keepdim=True)
        z = self.out(h)
        return z.softmax(-1) if self.fault == "softmax-before-ce" else z


class Loop:
    epochs, per_epoch = 6, 20

    def __init__(self, config, fault, seed):
        torch.manual_seed(seed)
        self.config, self.fault = config, fault
        self.source = torch.Generator().manual_seed(seed + 50)
        self.held = sample(300, torch.Generator().manual_seed(1))
        self.net = Voter(fault)
        if fault == "frozen":
            self.net.encoder.requires_grad_(False)
            self.net.tokens.requires_grad_(False)
        if config == "staged":
            self.net.encoder.layers[0].requires_grad_(False)
        learn = self.net.out.parameters() if fault == "not-in-optimizer" else self.net.parameters()
        if config == "accumulate":
            self.optimizer = torch.optim.SGD(learn, lr=wrong_lr(fault, 0.1), momentum=0.9)
        else:
            self.optimizer = torch.optim.AdamW(learn, lr=wrong_lr(fault, 3e-3), betas=(0.9, 0.98))
        total = self.epochs * self.per_epoch
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer,
            lambda i: min((i + 1) / 10, 1 - i / (total + 10)),
        )
        if fault == "scheduler-per-batch":  # counts epochs
            self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda i: max(1 - i / 6, 0.01))
        if config == "restarts":
            self.scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(self.optimizer, 20, 2)
        self.criterion = nn.CrossEntropyLoss()

    def evaluate(self):
        self.net.eval()
        with torch.no_grad():
            value = self.criterion(self.net(self.held[0]).float(), self.held[1]).item()
        if self.fault != "eval-in-training":
            self.net.train()
        return value

    def micro_batches(self):
        size = 2 if self.fault == "batch-too-small" else 32
        x, y = sample(size, self.source)
        if self.fault == "labels-shuffled":
            y = y[torch.randperm(size)]
        elif self.fault == "labels-constant":
            y = torch.zeros_like(y)
        elif self.fault == "leak":
            x[:, 0] = y + KINDS + 1
        parts = 2 if self.config == "accumulate" else 1
        return list(zip(x.chunk(parts), y.chunk(parts), strict=True))

    def run(self, watch):
        before, losses = self.evaluate(), []
        self.net.train()
        doctor = watch(self.net, self.optimizer)
        for epoch in range(self.epochs):
            if self.config == "staged" and epoch == 1:
                self.net.encoder.layers[0].requires_grad_(True)
            for _ in range(self.per_epoch):
                if self.fault != "no-zero-grad":
                    self.optimizer.zero_grad()
                parts = self.micro_batches()
                for x, y in parts:
                    loss = self.criterion(self.net(x).float(), y)
                    losses.append(loss.item())
                    loss = loss / len(parts)
                    loss.backward()
                    doctor.loss(loss)
                if self.fault == "zero-between":
                    self.optimizer.zero_grad()
                if self.fault == "clip-always":
                    nn.utils.clip_grad_norm_(self.net.parameters(), 1e-3)
                self.optimizer.step()
                self.scheduler.step()
            doctor.val(self.evaluate())
        doctor.close()
        return outcome(losses, before, self.evaluate())


def train(watch, seed, config="linear-decay", fault=None):
    return Loop(config, fault, seed).run(watch)
