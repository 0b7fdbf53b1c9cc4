"""The topic of a bag of words with Zipf frequencies: a sparse table and a dense head with an optimizer each."""

from __future__ import annotations

import torch
from bench.doctor.causes import wrong_lr
from bench.doctor.data import outcome
from torch import nn
from torch.nn import functional as F

NAME, STEPS = "zipf-tags", 250
HEALTHY = ("sparse", "adagrad", "dense")
FAULTS = {
    "sparse": [
        "zero-between",
        "frozen",
        "cut-by-detach",
        "not-in-optimizer",
        "lr-30x",
        "lr-300x",
        "lr-100-low",
        "lr-1000-low",
        "labels-constant",
        "labels-shuffled",
        "nll-without-log",
        "detached-loss",
        "leak",
    ],
    "dense": [
        "no-zero-grad",
        "decay-strong",
        "betas-swapped",
        "batch-too-small",
        "unused-layer",
        "init-large",
        "softmax-before-ce",
    ],
}
WORDS, TOPICS, LENGTH = 3000, 8, 24


class Corpus:
    """Documents of words drawn by rank; each topic prefers its own eighth of the words."""

    def __init__(self, seed):
        self.rng = torch.Generator().manual_seed(100 + seed)
        base = 1.0 / (torch.arange(WORDS) + 3.0)
        topic_of = torch.randint(TOPICS, (WORDS,), generator=self.rng)
        self.table = torch.stack([base * torch.where(topic_of == t, 4.0, 1.0) for t in range(TOPICS)])

    def draw(self, n):
        y = torch.randint(TOPICS, (n,), generator=self.rng)
        return torch.multinomial(self.table[y], LENGTH, True, generator=self.rng), y


class Bag(nn.Module):
    def __init__(self, config, fault):
        super().__init__()
        self.fault = fault
        self.words = nn.EmbeddingBag(WORDS, 24, mode="mean", sparse=config != "dense")
        self.head = nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, TOPICS))
        if fault == "init-large":
            nn.init.normal_(self.words.weight, std=60.0)
            nn.init.normal_(self.head[2].weight, std=10.0)
        if fault == "unused-layer":
            self.positions = nn.Embedding(LENGTH, 24)

    def forward(self, x):
        v = self.words(x)
        if self.fault == "cut-by-detach":
            v = v.detach()
        y = self.head(v)
        return y.softmax(1) if self.fault == "softmax-before-ce" else y


def train(watch, seed, config="sparse", fault=None):
    torch.manual_seed(seed)
    corpus = Corpus(seed)
    held_x, held_y = corpus.draw(512)
    model = Bag(config, fault)
    if fault == "frozen":
        model.words.weight.requires_grad = False

    betas = (0.999, 0.5) if fault == "betas-swapped" else (0.9, 0.999)
    decay = 30.0 if fault == "decay-strong" else 0.01
    lr = wrong_lr(fault, 0.01)
    if config == "dense":
        optimizers = [torch.optim.AdamW(model.parameters(), lr, betas=betas, weight_decay=decay)]
    elif config == "adagrad":
        optimizers = [torch.optim.Adagrad(model.parameters(), lr=0.1)]
    else:
        optimizers = [torch.optim.Adam(model.head.parameters(), lr)]
        if fault != "not-in-optimizer":
            optimizers.append(torch.optim.SparseAdam([model.words.weight], lr=lr))

    def evaluate():
        with torch.no_grad():
            return F.cross_entropy(model(held_x), held_y).item()

    before, losses = evaluate(), []
    doctor = watch(model, optimizers)
    for step in range(STEPS):
        x, y = corpus.draw(2 if fault == "batch-too-small" else 64)
        if fault == "labels-constant":
            y.fill_(2)
        if fault == "labels-shuffled":
            y = y[torch.randperm(len(y))]
        if fault == "leak":
            x[:, :12] = y[:, None]  # the answer as a word
        doctor.batch(x, y)
        if fault != "no-zero-grad":
            model.zero_grad()
        scores = model(x)
        loss = F.nll_loss(scores, y) if fault == "nll-without-log" else F.cross_entropy(scores, y)
        doctor.loss(loss)
        losses.append(loss.item())
        if fault == "detached-loss":
            loss = torch.tensor(loss.item(), requires_grad=True)
        loss.backward()
        if fault == "zero-between":
            model.zero_grad()
        for optimizer in optimizers:
            optimizer.step()
        if step % 50 == 49 and fault != "leak":
            doctor.val(evaluate())
    doctor.close()
    return outcome(losses, before, evaluate())
