"""A GradScaler for bfloat16, which does not need one."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Script, Tensor
from stepwell.lint.analysis.order import is_off
from stepwell.lint.analysis.syntax import written

CHECK = Check(
    code="SW309",
    name="scaler-with-bfloat16",
    severity="note",
    certainty="likely",
    looks_for="the forward pass runs in bfloat16, and its loss is scaled by a GradScaler",
    why="bfloat16 has the range of float32, so that small gradients do not vanish: the scale changes nothing, and "
    "steps are skipped while the scaler searches for it",
    instead="drop the scaler, or use float16",
    silent_when="the type is chosen at run time, or the scaler is switched by an argument",
    example_bad='scaler = torch.amp.GradScaler("cuda")\nfor x, y in loader:\n'
    '    with torch.autocast("cuda", dtype=torch.bfloat16):\n'
    "        loss = loss_fn(model(x), y)\n    scaler.scale(loss).backward()\n    scaler.step(optimizer)\n"
    "    scaler.update()",
    example_good='for x, y in loader:\n    with torch.autocast("cuda", dtype=torch.bfloat16):\n'
    "        loss = loss_fn(model(x), y)\n"
    "    loss.backward()\n    optimizer.step()",
    reference="https://docs.pytorch.org/docs/stable/amp.html#gradient-scaling",
)
FIX = ""


def find(script: Script) -> Iterator[Finding]:
    for places in script.places("backward"):
        event = places[0]
        scaler = event.by
        if scaler is None or scaler.kind != "scaler" or is_off(scaler) or not isinstance(event.value, Tensor):
            continue
        if scaler.argument(4, "enabled") is not None and not isinstance(scaler.argument(4, "enabled"), ast.Constant):
            continue
        nodes = {id(part.node) for part in event.value.history()}
        guards = {
            id(one.autocast): one.autocast
            for one in script.of_kind("forward", "loss")
            if one.autocast is not None and id(one.node) in nodes
        }
        types = [_type(script, guard) for guard in guards.values()]
        if types and all(one is not None for one in types):
            yield script.finding(
                CHECK,
                event.node,
                f"{scaler.name or 'a scaler'} scales the loss of a forward pass in bfloat16",
                [(one, "the type is set here") for one in types if one is not None],
            )


def _type(script: Script, guard: ast.AST) -> ast.AST | None:
    """The `dtype=torch.bfloat16` of an autocast block."""
    for item in getattr(guard, "items", ()):
        call: ast.expr | None = item.context_expr
        if isinstance(call, (ast.Name, ast.Attribute)):
            text = written(call)
            found = [
                one.value
                for one in script.nodes
                if isinstance(one, ast.Assign) and any(written(target) == text for target in one.targets)
            ]
            call = found[0] if len(found) == 1 else None
        if isinstance(call, ast.Call) and "autocast" in written(call.func):
            for one in (*(k.value for k in call.keywords if k.arg == "dtype"), *call.args[1:2]):
                if written(one) in ("torch.bfloat16", "bfloat16"):
                    return one
    return None


BAD = (
    CHECK.example_bad.replace(".backward()", ".backward()  # expect"),
    """
import torch
from torch.cuda.amp import GradScaler
class Trainer:
    def __init__(self, model):
        self.model, self.scaler = model, GradScaler()
        self.optimizer = torch.optim.Adam(model.parameters())
    def train_step(self, x, y):
        with torch.cuda.amp.autocast(dtype=torch.bfloat16):
            loss = self.criterion(self.model(x), y)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()  # expect
        self.scaler.step(self.optimizer)
        self.scaler.update()
""",
    """
import torch
def train(model, loader, optimizer, scaler):
    for x, y in loader:
        with torch.autocast(device_type="cuda", dtype=torch.bfloat16):
            out = model(x)
        loss = loss_fn(out, y)
        scaler.scale(loss).backward()  # expect
        scaler.step(optimizer)
        scaler.update()
""",
    """
import torch
ctx = torch.amp.autocast("cuda", dtype=torch.bfloat16)
scaler = torch.amp.GradScaler("cuda", enabled=True)
for x, y in loader:
    with ctx:
        loss = loss_fn(model(x), y)
    scaler.scale(loss).backward()  # expect
    scaler.step(optimizer)
    scaler.update()
""",
    """
import torch
for i, batch in enumerate(loader):
    with torch.autocast("cuda", torch.bfloat16):
        loss = model(**batch).loss / 4
    scaler.scale(loss).backward()  # expect
    if (i + 1) % 4 == 0:
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
""",
)
GOOD = (
    CHECK.example_good,
    """
import torch
for x, y in loader:
    with torch.autocast("cuda", dtype=torch.float16):
        loss = loss_fn(model(x), y)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
""",
    """
import torch
scaler = torch.amp.GradScaler("cuda", enabled=dtype == "float16")
for x, y in loader:
    with torch.autocast("cuda", dtype=torch.bfloat16):
        loss = loss_fn(model(x), y)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
""",
    """
import torch
dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
for x, y in loader:
    with torch.autocast("cuda", dtype=dtype):
        loss = loss_fn(model(x), y)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
""",
    """
import torch
scaler = torch.amp.GradScaler("cuda", enabled=False)
for x, y in loader:
    with torch.autocast("cuda", dtype=torch.bfloat16):
        loss = loss_fn(model(x), y)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
""",
)
