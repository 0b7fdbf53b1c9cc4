"""A scaler that makes steps and never adapts its scale."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from stepwell.findings import Check, Finding, Fix
from stepwell.lint import edits
from stepwell.lint.analysis import Event, Script
from stepwell.lint.analysis.order import happens, is_off, outermost
from stepwell.lint.analysis.relations import may_touch

CHECK = Check(
    code="SW305",
    name="scaler-without-update",
    severity="error",
    certainty="certain",
    looks_for="scaler.step(optimizer) is called, and nothing calls scaler.update()",
    why="the scale never changes: after an overflow every later step is skipped, too, and training stands still "
    "in silence",
    instead="call scaler.update() after the last scaler.step() of each round",
    silent_when="a function of another file is given the scaler, or the scaler is switched off by a constant",
    example_bad="for x, y in loader:\n    optimizer.zero_grad()\n    loss = loss_fn(model(x), y)\n"
    "    scaler.scale(loss).backward()\n"
    "    scaler.step(optimizer)",
    example_good="for x, y in loader:\n    optimizer.zero_grad()\n    loss = loss_fn(model(x), y)\n"
    "    scaler.scale(loss).backward()\n"
    "    scaler.step(optimizer)\n    scaler.update()",
    reference="https://docs.pytorch.org/docs/stable/amp.html#gradient-scaling",
)
FIX = "unsafe"
_UPDATES = re.compile(r"scaler\w*\.update|update_?\w*scal", re.I)


def find(script: Script) -> Iterator[Finding]:
    for steps in script.places("step"):
        if all(_is_never_updated(script, step) for step in steps):
            step = steps[0]
            assert step.by is not None
            back = next(
                (one for one in happens(outermost(script, step)) if one.kind == "backward" and one.by is step.by), None
            )
            yield script.finding(
                CHECK,
                step.node,
                f"{step.by.name or 'the scaler'} makes a step here, and nothing calls its update()",
                [(back.node, "the loss is scaled here")] if back is not None else (),
                fix=_fix(script, step),
            )


def _is_never_updated(script: Script, step: Event) -> bool:
    scaler = step.by
    if scaler is None or scaler.kind != "scaler" or is_off(scaler):
        return False
    inside = outermost(script, step)
    events = happens(inside)
    if not any(event.kind == "backward" for event in events):
        return False
    for event in events:
        if (
            (event.kind == "update" and event.is_on(scaler))
            or may_touch(event, scaler)
            or (event.kind == "unknown" and _UPDATES.search(event.name))
        ):
            return False
    for event in script.of_kind("update"):  # of a method that the caller calls
        if event.is_on(scaler) and not any(one.kind == "step" for one in happens(outermost(script, event))):
            return False
    return True


def _fix(script: Script, step: Event) -> Fix | None:
    last = [event for event in script.of_kind("step") if event.by is not None and event.by.is_same(step.by)]
    text = edits.text(script, step.node) if isinstance(step.node, ast.expr) else ""
    if len({id(event.node) for event in last}) != 1 or ".step(" not in text:
        return None
    call = f"{text.rpartition('.step(')[0]}.update()"
    edit = edits.insert_after(script, step.node, call)
    return Fix(f"insert {call} after the step", (edit,)) if edit else None


BAD = (
    """
for x, y in loader:
    d_scaler.scale(bce(D(y), ones)).backward()
    d_scaler.step(opt_d)
    d_scaler.update()
    g_scaler.scale(bce(D(G(x)), ones)).backward()
    g_scaler.step(opt_g)  # expect
""",
    CHECK.example_bad.replace("step(optimizer)", "step(optimizer)  # expect"),
    """
import torch
def train(model, loader, optimizer, scaler):
    for x, y in loader:
        optimizer.zero_grad()
        with torch.autocast("cuda"):
            loss = loss_fn(model(x), y)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)  # expect
        scheduler.step()
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
        self.scaler.step(self.optimizer)  # expect
""",
    """
for i, (x, y) in enumerate(loader):
    with torch.autocast("cuda"):
        loss = loss_fn(model(x), y) / 4
    scaler.scale(loss).backward()
    if (i + 1) % 4 == 0:
        scaler.step(optimizer)  # expect
        optimizer.zero_grad()
""",
    """
for real in loader:
    scaler.scale(loss_fn(D(real), ones)).backward()
    scaler.step(opt_d)  # expect
    opt_d.zero_grad()
""",
)
GOOD = (
    CHECK.example_good,
    """
for real in loader:
    scaler.scale(loss_fn(D(real), ones)).backward()
    scaler.step(opt_d)
    scaler.scale(loss_fn(D(G(z)), ones)).backward()
    scaler.step(opt_g)
    scaler.update()
""",
    """
class Trainer:
    def optimizer_step(self):
        self.scaler.step(self.optimizer)
    def after_step(self):
        self.scaler.update()
""",
    """
for x, y in loader:
    scaler.scale(loss_fn(model(x), y)).backward()
    scaler.step(optimizer)
    finish(scaler)
""",
    """
for x, y in loader:
    loss_fn(model(x), y).backward()
    optimizer.step()
""",
)
