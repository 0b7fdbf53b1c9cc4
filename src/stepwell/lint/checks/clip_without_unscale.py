"""Clipping of gradients that still carry the scale of mixed precision."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from stepwell.findings import Check, Finding, Fix
from stepwell.lint import edits
from stepwell.lint.analysis import Event, Script
from stepwell.lint.analysis.order import around, is_off, may_concern, uses_gradients, ways_to
from stepwell.lint.analysis.relations import may_touch
from stepwell.lint.analysis.syntax import written

CHECK = Check(
    code="SW302",
    name="clip-without-unscale",
    severity="error",
    certainty="certain",
    looks_for="gradients of a scaled loss are clipped, and scaler.unscale_(optimizer) was not called before",
    why="the gradients are still multiplied by the scale, 65536 at the start: the threshold is that much too small, "
    "so that every step is clipped to almost nothing",
    instead="call scaler.unscale_(optimizer) before clipping",
    silent_when="the scaler is switched off by a constant, or another function is given the scaler or works on .grad",
    example_bad="for x, y in loader:\n    optimizer.zero_grad()\n    loss = loss_fn(model(x), y)\n"
    "    scaler.scale(loss).backward()\n"
    "    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n    scaler.step(optimizer)\n    scaler.update()",
    example_good="for x, y in loader:\n    optimizer.zero_grad()\n    loss = loss_fn(model(x), y)\n"
    "    scaler.scale(loss).backward()\n"
    "    scaler.unscale_(optimizer)\n    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n"
    "    scaler.step(optimizer)\n"
    "    scaler.update()",
    reference="https://docs.pytorch.org/docs/stable/notes/amp_examples.html#gradient-clipping",
)
FIX = "safe"


def find(script: Script) -> Iterator[Finding]:
    if uses_gradients(script):
        return
    for clip, proof in script.for_every_caller("clip", lambda clip: _scaled(script, clip)):
        back, step = proof
        yield script.finding(
            CHECK,
            clip.node,
            f"gradients are clipped here while they carry the scale of the loss of line {back.line}",
            [(back.node, "the loss is scaled"), (step.node, "the scale is taken out only here")],
            fix=_fix(script, clip, step),
        )


def _scaled(script: Script, clip: Event) -> tuple[Event, Event] | None:
    """The backward pass of the scaled loss and the step, on all ways to a clipping."""
    inside = around(script, clip, lambda one: one.kind == "backward")
    found: tuple[Event, Event] | None = None
    for before, after in ways_to(script, clip, inside):
        step = next(
            (event for event in after if event.kind == "step" and may_concern(event.target, clip.targets)), None
        )
        if step is None or step.by is None or step.by.kind != "scaler" or is_off(step.by):
            return None
        back = _back(before, step)
        if back is None:
            return None
        found = back, step
    return found


def _back(before: list[Event], step: Event) -> Event | None:
    for event in before:
        if event.kind == "unscale" and event.is_on(step.target):
            return None
        if may_touch(event, step.by) or (event.kind == "unknown" and "unscale" in event.name):
            return None
        if event.kind == "backward":
            return event if event.by is not None and event.by.kind == "scaler" and not is_off(event.by) else None
    return None


def _fix(script: Script, clip: Event, step: Event) -> Fix | None:
    scalers = {id(event.by) for event in script.of_kind("step") if event.by is not None}
    optimizers = {id(event.target) for event in script.of_kind("step")}
    mine, other = script.statement(clip.node), script.statement(step.node)
    if len(scalers) != 1 or len(optimizers) != 1 or mine is None or other is None:
        return None
    if script.block_of(mine) is None or script.block_of(mine) is not script.block_of(other):
        return None
    node = step.node
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or len(node.args) != 1:
        return None
    call = f"{written(node.func.value)}.unscale_({written(node.args[0])})"
    edit = edits.insert_before(script, clip.node, call)
    return Fix(f"insert {call} before clipping", (edit,), safe=True) if edit else None


BAD = (
    CHECK.example_bad.replace("1.0)", "1.0)  # expect"),
    """
import torch
scaler = torch.amp.GradScaler("cuda")
def train(model, loader, optimizer, criterion):
    for i, (x, y) in enumerate(loader):
        with torch.autocast("cuda"):
            loss = criterion(model(x), y) / 4
        scaler.scale(loss).backward()
        if (i + 1) % 4 == 0:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # expect
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
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
        self.scaler.scale(loss).backward()
        nn.utils.clip_grad_value_(self.model.parameters(), 0.5)  # expect
        self.scaler.step(self.optimizer)
        self.scaler.update()
""",
    """
for x, y in loader:
    with torch.autocast("cuda", enabled=use_amp):
        loss = loss_fn(model(x), y)
    scaled = scaler.scale(loss)
    scaled.backward()
    if max_norm is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)  # expect
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
""",
    """
for real in loader:
    scaler.scale(loss_fn(D(real), ones)).backward()
    torch.nn.utils.clip_grad_norm_(D.parameters(), 1.0)  # expect
    scaler.step(opt_d)
    scaler.scale(loss_fn(D(G(z)), ones)).backward()
    scaler.unscale_(opt_g)
    torch.nn.utils.clip_grad_norm_(G.parameters(), 1.0)
    scaler.step(opt_g)
    scaler.update()
""",
)
GOOD = (
    CHECK.example_good,
    """
import torch
scaler = torch.amp.GradScaler("cuda", enabled=False)
for x, y in loader:
    scaler.scale(loss_fn(model(x), y)).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
""",
    """
for x, y in loader:
    loss = loss_fn(model(x), y)
    if amp:
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
    else:
        loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    if amp:
        scaler.step(optimizer)
        scaler.update()
    else:
        optimizer.step()
""",
    """
for x, y in loader:
    loss = loss_fn(model(x), y)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
""",
    """
for x, y in loader:
    scaler.scale(loss_fn(model(x), y)).backward()
    unscale_gradients(scaler, optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
""",
)
