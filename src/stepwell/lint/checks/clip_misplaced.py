"""Clipping of gradients that do not exist yet, or that were used already."""

from __future__ import annotations

from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Event, Script
from stepwell.lint.analysis.order import around, is_hidden, may_concern, may_go_back, may_step, models_of, ways_to

CHECK = Check(
    code="SW301",
    name="clip-misplaced",
    severity="error",
    certainty="certain",
    looks_for="gradients are clipped before backward() has computed them, or after the step has used them",
    why="the step uses gradients that are not clipped: one bad batch moves the weights as far as it likes",
    instead="clip between backward() and step()",
    silent_when="gradients of earlier rounds are clipped before a step at the head of the loop, or a function of "
    "another file may go backward",
    example_bad="for x, y in loader:\n    optimizer.zero_grad()\n    loss = loss_fn(model(x), y)\n"
    "    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n    loss.backward()\n    optimizer.step()",
    example_good="for x, y in loader:\n    optimizer.zero_grad()\n    loss = loss_fn(model(x), y)\n"
    "    loss.backward()\n"
    "    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n    optimizer.step()",
    reference="https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_norm_.html",
)
FIX = ""


def find(script: Script) -> Iterator[Finding]:
    if is_hidden(script, "backward"):
        return
    for clip, other in script.for_every_caller("clip", lambda clip: _misplaced(script, clip)):
        late = other.kind == "step"
        where = (
            f"after the step of line {other.line} has used them"
            if late
            else (f"before the backward pass of line {other.line} computes them")
        )
        yield script.finding(
            CHECK,
            clip.node,
            f"gradients are clipped here, {where}",
            [
                (
                    other.node,
                    "the step uses gradients that are not clipped" if late else "the gradients are computed here",
                )
            ],
        )


def _misplaced(script: Script, clip: Event) -> Event | None:
    """The step that comes too early, or the backward pass that comes too late, on all ways to a clipping."""
    inside = around(script, clip, lambda one: one.kind == "backward" and may_concern_clip(clip, one))
    found: Event | None = None
    for before, after in ways_to(script, clip, inside):
        other = _on_way(script, clip, before, after)
        if other is None:
            return None
        found = other
    return found


def may_concern_clip(clip: Event, back: Event) -> bool:
    """Whether a backward pass may be through what is clipped."""
    models = models_of(back)
    return (
        not clip.targets
        or not models
        or any(
            one.is_inside(model) or model.is_inside(one) or not (one.sure and model.sure)
            for one in clip.targets
            for model in models
        )
    )


def _on_way(script: Script, clip: Event, before: list[Event], after: list[Event]) -> Event | None:
    last: Event | None = None
    for event in before:
        if event.kind == "grad" or may_go_back(script, event) or may_step(event, None):
            return None
        if event.kind == "backward" and may_concern_clip(clip, event):
            return None
        if event.kind == "step" and may_concern(event.target, clip.targets):
            last = event
            break
    if last is not None and not clip.loops and not any(event.kind == "backward" for event in before):
        return None
    if last is not None and not any(event.kind == "backward" for event in [*before, *after]):
        return None  # gradients come from somewhere else
    for event in after:
        if event.kind == "step" and may_concern(event.target, clip.targets):
            return None
        if event.kind == "grad" or may_go_back(script, event) or may_step(event, None):
            return None
        if event.kind == "backward" and may_concern_clip(clip, event):
            return last or event
    return last


BAD = (
    CHECK.example_bad.replace("1.0)", "1.0)  # expect"),
    """
def train(model, loader, optimizer, criterion):
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)  # expect
""",
    """
from torch.nn.utils import clip_grad_value_
class Trainer:
    def step(self, x, y):
        self.optimizer.zero_grad()
        loss = self.criterion(self.model(x), y)
        clip_grad_value_(self.model.parameters(), 0.5)  # expect
        loss.backward()
        self.optimizer.step()
    def fit(self):
        for epoch in range(10):
            for x, y in self.loader:
                self.step(x, y)
""",
    """
from accelerate import Accelerator
accelerator = Accelerator()
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
for batch in loader:
    loss = model(**batch).loss
    accelerator.clip_grad_norm_(model.parameters(), 1.0)  # expect
    accelerator.backward(loss)
    optimizer.step()
    optimizer.zero_grad()
""",
    """
for epoch in range(5):
    for x, y in loader:
        with torch.autocast("cuda"):
            loss = loss_fn(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # expect
        optimizer.zero_grad()
""",
    """
import torch
G, D = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
opt_g, opt_d = torch.optim.Adam(G.parameters()), torch.optim.Adam(D.parameters())
for real in loader:
    opt_d.zero_grad()
    d_loss = D(G(real).detach()).mean() - D(real).mean()
    torch.nn.utils.clip_grad_norm_(D.parameters(), 1.0)  # expect
    d_loss.backward()
    opt_d.step()
    opt_g.zero_grad()
    g_loss = -D(G(real)).mean()
    g_loss.backward()
    torch.nn.utils.clip_grad_norm_(G.parameters(), 1.0)
    opt_g.step()
""",
)
GOOD = (
    CHECK.example_good,
    """
for i, (x, y) in enumerate(loader):
    if i % 4 == 0 and i:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
""",
    """
for real in loader:
    d_loss = D(real).mean()
    d_loss.backward()
    opt_d.step()
    for p in D.parameters():
        p.data.clamp_(-0.01, 0.01)
""",
    """
def optimizer_step(self):
    torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
    self.optimizer.step()
    self.optimizer.zero_grad()
""",
    """
for x, y in loader:
    def closure():
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        return loss
    optimizer.step(closure)
""",
    """
for x, y in loader:
    loss = loss_fn(model(x), y)
    scaler.scale(loss).backward()
    if use_amp:
        scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
""",
)
