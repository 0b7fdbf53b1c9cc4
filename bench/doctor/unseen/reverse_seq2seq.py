"""Short strings read out backwards: a recurrent encoder and a recurrent decoder with teacher forcing."""

from __future__ import annotations

import torch
from bench.doctor.causes import wrong_lr
from bench.doctor.data import outcome
from torch import nn
from torch.nn.functional import cross_entropy

NAME, STEPS = "reverse-seq2seq", 220
HEALTHY = ("adam", "nadam", "shared")
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
        "labels-shifted",
        "labels-constant",
        "batch-too-small",
        "clip-always",
        "init-zero",
        "leak",
    ],
}
LETTERS, LENGTH = 10, 5


class Reverser(nn.Module):
    def __init__(self, config, fault):
        super().__init__()
        self.fault = fault
        self.letters = nn.Embedding(LETTERS + 1, 16)
        self.answers = self.letters if config == "shared" else nn.Embedding(LETTERS + 1, 16)
        self.encoder, self.decoder = nn.GRU(16, 48, batch_first=True), nn.GRU(16, 48, batch_first=True)
        self.to_letter = nn.Linear(48, LETTERS)
        if fault == "unused-layer":
            self.bridge = nn.Linear(48, 48)
        if fault == "init-zero":
            for p in self.parameters():
                p.data.zero_()

    def forward(self, source, target):
        _, state = self.encoder(self.letters(source))
        if self.fault == "cut-by-detach":
            state = state.detach()
        start = torch.full((len(source), 1), LETTERS)
        given = target if self.fault == "leak" else torch.cat([start, target[:, :-1]], 1)
        return self.to_letter(self.decoder(self.answers(given), state)[0])


def strings(n, rng):
    source = torch.randint(LETTERS, (n, LENGTH), generator=rng)
    return source, source.flip(1)


def train(watch, seed, config="adam", fault=None):
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed + 11)
    held = strings(300, torch.Generator().manual_seed(8))
    net = Reverser(config, fault)
    if fault == "frozen":
        for p in net.encoder.parameters():
            p.requires_grad = False
    learn = list(net.parameters())
    if fault == "not-in-optimizer":
        learn = [*net.decoder.parameters(), *net.to_letter.parameters(), *net.answers.parameters()]
    if config == "nadam":
        optimizer = torch.optim.NAdam(learn, lr=5e-3)
    elif fault == "clip-always":
        optimizer = torch.optim.SGD(learn, lr=0.5, momentum=0.9)
    else:
        optimizer = torch.optim.Adam(learn, lr=wrong_lr(fault, 1e-2))

    def quality():
        with torch.no_grad():
            source, target = held
            if fault == "leak":
                net.fault = None
            out = net(source, target).float()
            net.fault = fault
            return cross_entropy(out.transpose(1, 2), target).item()

    before, losses = quality(), []
    doctor = watch(net, optimizer)
    for i in range(STEPS):
        source, target = strings(2 if fault == "batch-too-small" else 48, rng)
        goal = target
        if fault == "labels-shifted":
            goal = target.roll(1, 0)
        elif fault == "labels-constant":
            goal = torch.zeros_like(target)
        out = net(source, target).float()
        loss = cross_entropy(out.reshape(-1, LETTERS), goal.reshape(-1))
        doctor.loss(loss)
        losses.append(loss.item())
        if fault == "detached-loss":
            loss = torch.tensor(loss.detach().numpy(), requires_grad=True)
        loss.backward()
        if fault == "zero-between":
            optimizer.zero_grad()
        if fault == "clip-always":
            nn.utils.clip_grad_norm_(learn, 1e-3)
        elif fault not in ("lr-30x", "lr-300x", "no-zero-grad"):
            nn.utils.clip_grad_norm_(learn, 3.0)
        optimizer.step()
        if fault != "no-zero-grad":
            optimizer.zero_grad()
        if i % 55 == 54:
            doctor.val(quality())
    doctor.close()
    return outcome(losses, before, quality())
