"""A step with no gradients: nothing has called backward()."""

from __future__ import annotations

import re
from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Event, Script
from stepwell.lint.analysis.order import (
    happens,
    is_hidden,
    is_open,
    may_concern,
    may_go_back,
    models_of,
    outermost,
    uses_gradients,
    ways_to,
)
from stepwell.lint.analysis.relations import may_touch

CHECK = Check(
    code="SW105",
    name="missing-backward",
    severity="error",
    certainty="certain",
    looks_for="a loop computes a loss and calls optimizer.step(), and nothing calls backward() before that step",
    why="the step finds no gradients: the weights never change, or change by momentum and decay alone",
    instead="call loss.backward() before the step",
    silent_when="the step has a closure, a function of another file may call backward(), or the script writes "
    ".grad itself",
    example_bad="for x, y in loader:\n    optimizer.zero_grad()\n    loss = loss_fn(model(x), y)\n    optimizer.step()",
    example_good="for x, y in loader:\n    optimizer.zero_grad()\n    loss = loss_fn(model(x), y)\n"
    "    loss.backward()\n"
    "    optimizer.step()",
    reference="https://docs.pytorch.org/docs/stable/optim.html#taking-an-optimization-step",
)
FIX = ""
_MAY = re.compile(r"step|update|backward|train|grad", re.I)


def find(script: Script) -> Iterator[Finding]:
    if uses_gradients(script, scaling=False) or is_hidden(script, "backward"):
        return
    for step, loss in script.for_every_caller("step", lambda step: _loss(script, step)):
        assert step.target is not None
        yield script.finding(
            CHECK,
            step.node,
            f"{step.target.name}.step() is called, and nothing calls backward() before it",
            [(loss.node, "nothing goes backward from here")],
        )


def _loss(script: Script, step: Event) -> Event | None:
    """What should have been back-propagated, where a step surely finds no gradients."""
    optimizer = step.target
    if optimizer is None or optimizer.kind != "optimizer" or step.closure or step.name or is_open(script, step):
        return None
    inside = outermost(script, step)
    if any(may_go_back(script, event) or event.kind == "grad" for event in happens(inside)):
        return None
    events = happens(inside)
    if any(event.kind == "backward" for event in events) and not any(
        event.kind == "step" and event.target is not None and not event.target.is_same(optimizer) for event in events
    ):
        return None  # it goes through a model that this, the only optimizer, does not have: SW602
    losses = [
        event
        for event in events
        if event.no_grad is False
        and (
            event.kind in ("loss", "forward")
            or (event.kind == "unknown" and "loss" in event.name.lower().rsplit(".", 1)[-1])
        )
    ]
    ways = ways_to(script, step, inside)
    if not ways or not losses or not all(_has_no_gradients(step, before, after, losses) for before, after in ways):
        return None
    return next((loss for loss in reversed(losses) if loss.order < step.order), losses[0])


def _has_no_gradients(step: Event, before: list[Event], after: list[Event], losses: list[Event]) -> bool:
    """Whether no gradients are computed for a step, on one way."""
    for index, event in enumerate([*before, *after[::-1]] if step.loops else before):
        if event.kind == "backward" and may_concern(step.target, models_of(event)):
            return False
        if event.kind == "unknown" and may_touch(event, step.target) and _MAY.search(event.name.rsplit(".", 1)[-1]):
            return False
        if (
            event.kind != "zero"
            or event.target is None
            or not event.target.is_same(step.target)
            or index >= len(before)
        ):
            continue
        if any(event.order < loss.order < step.order for loss in losses):
            return True
    return bool(step.loops)


BAD = (
    CHECK.example_bad.replace("optimizer.step()", "optimizer.step()  # expect"),
    """
def train(model, loader, optimizer, criterion):
    model.train()
    total = 0
    for x, y in loader:
        loss = criterion(model(x), y)
        optimizer.step()  # expect
        optimizer.zero_grad()
        total += loss.item()
    return total
""",
    """
import torch
class Trainer:
    def __init__(self, model, loader):
        self.model, self.loader = model, loader
        self.optimizer = torch.optim.Adam(model.parameters())
    def fit(self):
        for epoch in range(10):
            for x, y in self.loader:
                self.optimizer.zero_grad()
                loss = (self.model(x) - y).pow(2).mean()
                self.optimizer.step()  # expect
                self.log(epoch, loss.item())
""",
    """
import torch
G, D = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
opt_g, opt_d = torch.optim.Adam(G.parameters()), torch.optim.Adam(D.parameters())
for real in loader:
    opt_d.zero_grad()
    d_loss = bce(D(real), ones) + bce(D(G(z).detach()), zeros)
    opt_d.step()  # expect
    opt_g.zero_grad()
    g_loss = bce(D(G(z)), ones)
    g_loss.backward()
    opt_g.step()
""",
    """
import lightning as L
class Model(L.LightningModule):
    def training_step(self, batch, index):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = self.loss_fn(self.net(batch), batch)
        optimizer.step()  # expect
""",
    """
for batch in loader:
    loss = model(**batch).loss
    scaler.scale(loss)
    scaler.step(optimizer)  # expect
    scaler.update()
    optimizer.zero_grad()
""",
)
GOOD = (
    CHECK.example_good,
    """
for x, y in loader:
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    amp.backward(loss, optimizer)
    optimizer.step()
""",
    """
for x, y in loader:
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    for p, g in zip(model.parameters(), torch.autograd.grad(loss, model.parameters())):
        p.grad = g
    optimizer.step()
""",
    """
for i, (x, y) in enumerate(loader):
    if i % 4 == 0:
        optimizer.step()
        optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
""",
    """
for x, y in loader:
    def closure():
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        return loss
    optimizer.step(closure)
""",
    """
class Agent:
    def act(self, state):
        return self.policy(state)
    def apply(self):
        self.optimizer.step()
        self.optimizer.zero_grad()
""",
)
