"""A backward pass inside autocast."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from stepwell.findings import Check, Edit, Finding, Fix
from stepwell.lint import edits
from stepwell.lint.analysis import Event, Script

CHECK = Check(
    code="SW308",
    name="backward-under-autocast",
    severity="warning",
    certainty="certain",
    looks_for="backward() is called inside `with autocast()`",
    why="autocast is made for the forward pass: operations of backward run in the types of their forward anyway, and "
    "what is recomputed there (checkpointing, penalties of gradients, hooks) is cast once more",
    instead="end the autocast block after the loss, and call backward() outside",
    silent_when="autocast is switched off by a constant",
    example_bad='for x, y in loader:\n    optimizer.zero_grad()\n    with torch.autocast("cuda"):\n'
    "        loss = loss_fn(model(x), y)\n"
    "        loss.backward()\n    optimizer.step()",
    example_good='for x, y in loader:\n    optimizer.zero_grad()\n    with torch.autocast("cuda"):\n'
    "        loss = loss_fn(model(x), y)\n"
    "    loss.backward()\n    optimizer.step()",
    reference="https://docs.pytorch.org/docs/stable/amp.html#autocasting",
)
FIX = "unsafe"


def find(script: Script) -> Iterator[Finding]:
    if not script.of_kind("step", "zero"):  # nothing is trained here
        return
    for places in script.places("backward"):
        if all(event.autocast is not None and _trains(script, event) for event in places):
            event = places[0]
            assert event.autocast is not None
            yield script.finding(
                CHECK,
                event.node,
                f"backward() is called inside the autocast of line {getattr(event.autocast, 'lineno', 0)}",
                [(event.autocast, "autocast begins here")],
                fix=_fix(script, event),
            )


def _trains(script: Script, event: Event) -> bool:
    """Whether a backward pass is for a step, and not for measuring or a test."""
    root = script.root_of(event)
    return root.uncalled or any(one.kind in ("step", "zero") for one in root.events)


def _fix(script: Script, event: Event) -> Fix | None:
    """Dedents the backward pass and all that follows it in the block, where the block is that of the autocast."""
    around, statement = event.autocast, script.statement(event.node)
    if not isinstance(around, ast.With) or statement is None or not any(one is statement for one in around.body):
        return None
    moved = around.body[[one is statement for one in around.body].index(True) :]
    if len(moved) == len(around.body) or any(
        isinstance(one, (ast.With, ast.For, ast.While, ast.If, ast.Try)) for one in moved
    ):
        return None
    first, last = moved[0].lineno, moved[-1].end_lineno or moved[-1].lineno
    inner, outer = edits.indentation(script, statement), edits.indentation(script, around)
    lines = script.lines[first - 1 : last]
    if any(line.strip() and not line.startswith(inner) for line in lines) or any(
        '"""' in line or "'''" in line for line in lines
    ):
        return None
    if around.items and script.block_of(around) is None:
        return None
    changes = tuple(
        Edit((first + index, 1), (first + index, len(inner) + 1), outer)
        for index, line in enumerate(lines)
        if line.strip()
    )
    return Fix("end the autocast block before the backward pass", changes)


BAD = (
    CHECK.example_bad.replace("loss.backward()", "loss.backward()  # expect"),
    """
import torch
def train(model, loader, optimizer, scaler):
    for x, y in loader:
        with torch.cuda.amp.autocast():
            loss = loss_fn(model(x), y)
            optimizer.zero_grad()
            scaler.scale(loss).backward()  # expect
            scaler.step(optimizer)
            scaler.update()
""",
    """
from torch.cuda.amp import autocast
class Trainer:
    def fit(self):
        for x, y in self.loader:
            with autocast(enabled=self.amp):
                self.update(x, y)
    def update(self, x, y):
        loss = self.criterion(self.model(x), y)
        self.optimizer.zero_grad()
        loss.backward()  # expect
        self.optimizer.step()
""",
    """
from accelerate import Accelerator
accelerator = Accelerator(mixed_precision="fp16")
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
for batch in loader:
    with accelerator.autocast():
        loss = model(**batch).loss
        accelerator.backward(loss)  # expect
    optimizer.step()
    optimizer.zero_grad()
""",
    """
import torch
from contextlib import nullcontext
ctx = nullcontext() if device == "cpu" else torch.amp.autocast(device_type=device, dtype=torch.bfloat16)
for x, y in loader:
    with ctx:
        for head in heads:
            loss = loss_fn(head(x), y)
            loss.backward()  # expect
    optimizer.step()
    optimizer.zero_grad()
""",
)
GOOD = (
    CHECK.example_good,
    """
import torch
for x, y in loader:
    with torch.autocast("cuda"):
        out = model(x)
        with torch.autocast("cuda", enabled=False):
            loss = loss_fn(out.float(), y)
            loss.backward()
    optimizer.step()
    optimizer.zero_grad()
""",
    """
import torch
for x, y in loader:
    with torch.autocast("cuda", enabled=False):
        loss = loss_fn(model(x), y)
        loss.backward()
    optimizer.step()
    optimizer.zero_grad()
""",
    """
import torch
@torch.autocast("cuda")
def forward(x, y):
    return loss_fn(model(x), y)
for x, y in loader:
    forward(x, y).backward()
    optimizer.step()
    optimizer.zero_grad()
""",
    """
for x, y in loader:
    with torch.enable_grad():
        loss = loss_fn(model(x), y)
        loss.backward()
    optimizer.step()
    optimizer.zero_grad()
""",
)
