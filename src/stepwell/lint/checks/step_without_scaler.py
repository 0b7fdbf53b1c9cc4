"""optimizer.step() with gradients that are still scaled."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from stepwell.findings import Check, Finding, Fix
from stepwell.lint import edits
from stepwell.lint.analysis import Event, Script
from stepwell.lint.analysis.order import around, is_off, may_concern, models_of, uses_gradients, ways_to
from stepwell.lint.analysis.relations import may_touch
from stepwell.lint.analysis.syntax import written

CHECK = Check(
    code="SW306",
    name="step-without-scaler",
    severity="error",
    certainty="certain",
    looks_for="the loss is scaled by a GradScaler, and the step is made by optimizer.step() and not by "
    "scaler.step(optimizer)",
    why="the step uses gradients that are multiplied by the scale, 65536 at the start, and is not skipped where "
    "they overflow",
    instead="call scaler.step(optimizer) and scaler.update() instead of optimizer.step()",
    silent_when="the gradients were unscaled before and the step has a condition, the scaler is switched off by "
    "a constant, or the loss is scaled in another "
    "branch than that of the step",
    example_bad="for x, y in loader:\n    optimizer.zero_grad()\n    loss = loss_fn(model(x), y)\n"
    "    scaler.scale(loss).backward()\n"
    "    optimizer.step()\n    scaler.update()",
    example_good="for x, y in loader:\n    optimizer.zero_grad()\n    loss = loss_fn(model(x), y)\n"
    "    scaler.scale(loss).backward()\n"
    "    scaler.step(optimizer)\n    scaler.update()",
    reference="https://docs.pytorch.org/docs/stable/amp.html#gradient-scaling",
)
FIX = "unsafe"


def find(script: Script) -> Iterator[Finding]:
    if uses_gradients(script):
        return
    for step, back in script.for_every_caller("step", lambda step: _scaled(script, step)):
        assert step.target is not None
        yield script.finding(
            CHECK,
            step.node,
            f"{step.target.name}.step() is called without the scaler, for gradients of the loss that line "
            f"{back.line} has scaled",
            [(back.node, "the loss is scaled here")],
            fix=_fix(script, step, back),
        )


def _scaled(script: Script, step: Event) -> Event | None:
    """The backward pass of a scaled loss before a step without the scaler, on all ways."""
    if step.by is not None or step.name or step.closure or step.target is None or step.target.kind != "optimizer":
        return None
    inside = around(script, step, lambda one: one.kind == "backward")
    found: Event | None = None
    for before, _ in ways_to(script, step, inside):
        back = _back(before, step)
        if back is None:
            return None
        found = back
    return found


def _back(before: list[Event], step: Event) -> Event | None:
    for event in before:
        if event.kind == "unscale" and event.is_on(step.target) and not set(step.branches) <= set(event.branches):
            return None  # made under a condition: perhaps that the gradients are finite
        if event.kind == "unknown" and "unscale" in event.name:
            return None
        if event.kind == "backward" and may_concern(step.target, models_of(event)):
            by = event.by
            if by is None or by.kind != "scaler" or is_off(by) or any(may_touch(one, by) for one in before):
                return None
            return event
    return None


def _fix(script: Script, step: Event, back: Event) -> Fix | None:
    node, scale = step.node, back.node
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or step.function is not back.function:
        return None
    if any(event.by is not None and event.by.is_same(back.by) for event in script.of_kind("step")):
        return None
    scalers = [
        one.func.value
        for one in ast.walk(scale)
        if isinstance(one, ast.Call) and isinstance(one.func, ast.Attribute) and one.func.attr == "scale"
    ]
    if len(scalers) != 1 or not script.of_kind("update"):
        return None
    call = f"{written(scalers[0])}.step({written(node.func.value)})"
    return Fix(f"call {call}", (edits.replace(script, node, call),))


BAD = (
    CHECK.example_bad.replace("optimizer.step()", "optimizer.step()  # expect"),
    """
import torch
def train(model, loader, optimizer, scaler):
    for x, y in loader:
        with torch.autocast("cuda"):
            loss = loss_fn(model(x), y)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        optimizer.step()  # expect
""",
    """
from torch.cuda.amp import GradScaler, autocast
class Trainer:
    def __init__(self, model):
        self.model, self.scaler = model, GradScaler()
        self.optimizer = torch.optim.Adam(model.parameters())
    def train_step(self, x, y):
        with autocast():
            loss = self.criterion(self.model(x), y)
        self.optimizer.zero_grad()
        scaled = self.scaler.scale(loss)
        scaled.backward()
        self.optimizer.step()  # expect
        self.scaler.update()
""",
    """
for x, y in loader:
    with torch.autocast("cuda"):
        loss = loss_fn(model(x), y)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    optimizer.step()  # expect
    optimizer.zero_grad()
""",
    """
for i, (x, y) in enumerate(loader):
    scaler.scale(loss_fn(model(x), y) / 4).backward()
    if (i + 1) % 4 == 0:
        optimizer.step()  # expect
        scaler.update()
        optimizer.zero_grad()
""",
)
GOOD = (
    CHECK.example_good,
    """
for x, y in loader:
    loss = loss_fn(model(x), y)
    if self.use_amp:
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    else:
        loss.backward()
        optimizer.step()
""",
    """
for x, y in loader:
    loss = loss_fn(model(x), y)
    if scaler is not None:
        scaler.scale(loss).backward()
    else:
        loss.backward()
    if scaler is not None:
        scaler.step(optimizer)
        scaler.update()
    else:
        optimizer.step()
""",
    """
for real in loader:
    scaler.scale(loss_fn(D(real), ones)).backward()
    scaler.step(opt_d)
    scaler.update()
    g_loss = loss_fn(D(G(z)), ones)
    g_loss.backward()
    opt_g.step()
""",
    """
for x, y in loader:
    scaler.scale(loss_fn(model(x), y)).backward()
    scaler.unscale_(optimizer)
    if torch.isfinite(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)):
        optimizer.step()
    scaler.update()
""",
)
