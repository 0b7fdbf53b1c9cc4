"""The next byte of source text, an LSTM with carried state: flat script, plain counters, truncated backpropagation."""

from __future__ import annotations

import torch
from bench.doctor.causes import wrong_lr
from bench.doctor.data import outcome, source_bytes
from torch import nn
from torch.nn import functional as F

NAME, STEPS = "byte-lstm", 150
HEALTHY = ("adam", "rmsprop", "sgd", "dropout")
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
        "init-large",
        "exploding",
        "labels-constant",
        "labels-shuffled",
        "labels-shifted",
        "leak",
        "nll-without-log",
        "betas-swapped",
        "decay-strong",
    ],
    "sgd": ["no-zero-grad", "lr-30x", "lr-100-low", "clip-always", "momentum-0.999", "scheduler-per-batch"],
    "dropout": ["eval-in-training", "train-in-eval"],
}


class LanguageModel(nn.Module):
    def __init__(self, config, fault):
        super().__init__()
        self.fault = fault
        self.table = nn.Embedding(128, 24)
        self.drop = nn.Dropout(0.15 if config == "dropout" else 0.0)
        self.lstm = nn.LSTM(24, 48, batch_first=True)
        self.out = nn.Linear(48, 128)
        if fault == "unused-layer":
            self.second = nn.LSTM(48, 48, batch_first=True)
        if fault == "init-large":
            nn.init.normal_(self.out.weight, std=5.0)
            nn.init.normal_(self.lstm.weight_ih_l0, std=3.0)
        if fault == "exploding":
            self.lstm = nn.RNN(24, 48, nonlinearity="relu", batch_first=True)
            nn.init.eye_(self.lstm.weight_hh_l0)
            self.lstm.weight_hh_l0.data.mul_(1.5)

    def forward(self, x, state):
        h, state = self.lstm(self.drop(self.table(x)), state)
        if self.fault == "cut-by-detach":
            h = h.data
        return self.out(self.drop(h)), state


def evaluate(model, text, config, fault):
    if fault != "train-in-eval":
        model.eval()
    with torch.no_grad():
        rows = text[: 32 * 60].view(32, 60)
        logits, _ = model(rows[:, :-1], None)
        loss = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()).item()
    if fault != "eval-in-training":
        model.train()
    return loss


def train(watch, seed, config="adam", fault=None):
    torch.manual_seed(seed)
    text, held = (part.long().clamp(max=127) for part in source_bytes())
    streams = text[: len(text) // 16 * 16].view(16, -1)

    net = LanguageModel(config, fault)
    if fault == "frozen":
        for p in net.lstm.parameters():
            p.requires_grad_(False)
    weights = list(net.parameters()) if fault != "not-in-optimizer" else list(net.out.parameters())
    if config == "sgd":
        momentum = 0.999 if fault == "momentum-0.999" else 0.9
        opt = torch.optim.SGD(weights, lr=wrong_lr(fault, 0.5), momentum=momentum)
    elif config == "rmsprop":
        opt = torch.optim.RMSprop(weights, lr=3e-3)
    else:
        betas = (0.999, 0.9) if fault == "betas-swapped" else (0.9, 0.999)
        decay = 1.0 if fault == "decay-strong" else 0.0
        opt = torch.optim.Adam(weights, lr=wrong_lr(fault, 1e-2), betas=betas, weight_decay=decay)
    if fault == "scheduler-per-batch":
        sched = torch.optim.lr_scheduler.StepLR(opt, 4, gamma=0.5)

    first = evaluate(net, held, config, None)
    doctor = watch(net, opt)
    state, position, history = None, int(torch.randint(4000, ())), []
    for i in range(STEPS):
        chunk = streams[:, position : position + 24]
        target = streams[:, position + 1 : position + 25]
        if fault == "labels-constant":
            target = torch.full_like(target, 101)
        elif fault == "labels-shuffled":
            target = target[torch.randperm(16)]
        elif fault == "labels-shifted":
            target = streams[:, position + 9 : position + 33]
        elif fault == "leak":
            target = chunk
        position += 24
        if fault != "no-zero-grad":
            net.zero_grad()
        logits, state = net(chunk, state)
        state = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
        if fault == "nll-without-log":
            loss = F.nll_loss(logits.flatten(0, 1).softmax(-1), target.flatten())
        else:
            loss = F.cross_entropy(logits.flatten(0, 1), target.flatten())
        doctor.loss(loss)
        history.append(float(loss))
        if fault == "detached-loss":
            loss = torch.tensor(loss.item(), requires_grad=True)
        loss.backward()
        if fault == "clip-always":
            nn.utils.clip_grad_norm_(net.parameters(), 1e-3)
        elif fault not in ("exploding", "lr-30x", "lr-300x", "init-large"):
            nn.utils.clip_grad_norm_(net.parameters(), 2.0)
        if fault == "zero-between":
            opt.zero_grad()
        opt.step()
        if fault == "scheduler-per-batch":
            sched.step()
        if (i + 1) % 50 == 0:
            metric = evaluate(net, held, config, fault)
            doctor.val(metric)
    doctor.close()
    return outcome(history, first, metric)
