"""Gradients that are never reset: every backward pass adds to those of all passes before."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from stepwell.findings import Check, Finding, Fix
from stepwell.lint import edits
from stepwell.lint.analysis import Event, Script
from stepwell.lint.analysis.relations import may_reset, may_touch
from stepwell.lint.analysis.syntax import written

CHECK = Check(
    code="SW101",
    name="missing-zero-grad",
    severity="error",
    certainty="certain",
    looks_for="a loop calls backward() and optimizer.step(), and nothing in it resets the gradients",
    why="backward() adds to the gradients that are there: each update uses the sum over all batches so far, an old and "
    "ever larger direction",
    instead="call optimizer.zero_grad() before each backward pass, or after each step",
    silent_when="a function of another file is given the optimizer, the step has a closure, or a framework owns "
    "the loop",
    example_bad="for x, y in loader:\n    loss = loss_fn(model(x), y)\n    loss.backward()\n    optimizer.step()",
    example_good="for x, y in loader:\n    optimizer.zero_grad()\n    loss = loss_fn(model(x), y)\n    "
    "loss.backward()\n"
    "    optimizer.step()",
    reference="https://docs.pytorch.org/docs/stable/generated/torch.optim.Optimizer.zero_grad.html",
)
FIX = "unsafe"
_ADJUSTS = re.compile(
    r"(^|[._])(adjust|set|update|get|change|decay)_?(the_)?(lr|learning_?rate)(_|$)|learning_?rate$", re.I
)


def find(script: Script) -> Iterator[Finding]:
    for steps in script.places("step"):
        if all(_is_never_reset(script, step) for step in steps):
            step = steps[0]
            backward = _backward(step)
            if backward is not None and step.target is not None:
                yield script.finding(
                    CHECK,
                    step.node,
                    f"{step.target.name}.step() is called in the loop of line {_line(step)}, in which nothing resets "
                    "its gradients",
                    [(backward.node, "this adds to the gradients of the rounds before")],
                    fix=_fix(script, step, backward),
                )


def _is_never_reset(script: Script, step: Event) -> bool:
    optimizer = step.target
    if optimizer is None or optimizer.kind != "optimizer" or step.closure or step.name or not step.loops:
        return False
    if all(loop.once for loop in step.loops) or _backward(step) is None:
        return False
    outermost = step.loops[0]
    for event in outermost.events():
        if may_reset(event, optimizer) or (may_touch(event, optimizer) and not _ADJUSTS.search(event.name)):
            return False
        if event.kind == "unknown" and any(word in event.name.lower() for word in ("zero", "reset_grad", "clear_grad")):
            return False
        made = event.kind == "make" and event.target is not None and event.target.is_same(optimizer)
        if made and len(event.loops) >= len(step.loops):  # a new optimizer in every round: another mistake, if one
            return False
    return True


def _backward(step: Event) -> Event | None:
    """The backward pass in the same round."""
    for event in step.loops[-1].events():
        if event.kind == "backward" and (event.by is None or event.by.kind in ("scaler", "accelerator")):
            return event
    return None


def _line(step: Event) -> int:
    return getattr(step.loops[-1].node, "lineno", 0)


def _fix(script: Script, step: Event, backward: Event) -> Fix | None:
    if step.target is None or step.by is not None or step.function is not backward.function:
        return None
    name = (
        written(step.node.func.value)
        if isinstance(step.node, ast.Call) and isinstance(step.node.func, ast.Attribute)
        else ""
    )
    edit = edits.insert_before(script, backward.node, f"{name}.zero_grad()") if name else None
    return Fix(f"insert {name}.zero_grad() before the backward pass", (edit,)) if edit else None


BAD = (
    CHECK.example_bad.replace("optimizer.step()", "optimizer.step()  # expect"),
    """
import torch
model = torch.nn.Linear(2, 1)
opt = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(3):
    for x, y in train_loader:
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        opt.step()  # expect
""",
    """
import torch
from helpers import adjust_learning_rate
def train_one_epoch(model, loader, opt):
    for x, y in loader:
        loss = loss_fn(model(x), y)
        loss.backward()
        opt.step()  # expect
model = torch.nn.Linear(2, 1)
opt = torch.optim.Adam(model.parameters())
for epoch in range(9):
    adjust_learning_rate(opt, epoch)
    train_one_epoch(model, loader, opt)
""",
    """
def train(model, loader, optimizer, criterion):
    model.train()
    for batch in loader:
        loss = criterion(model(batch.x), batch.y)
        loss.backward()
        optimizer.step()  # expect
""",
    """
import torch
class Trainer:
    def __init__(self, model, loader):
        self.model, self.loader = model, loader
        self.optimizer = torch.optim.Adam(model.parameters())
    def update(self, x, y):
        loss = (self.model(x) - y).pow(2).mean()
        loss.backward()
        self.optimizer.step()  # expect
    def fit(self):
        for epoch in range(10):
            for x, y in self.loader:
                self.update(x, y)
""",
    """
from accelerate import Accelerator
accelerator = Accelerator()
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
for x, y in loader:
    loss = loss_fn(model(x), y)
    accelerator.backward(loss)
    optimizer.step()  # expect
""",
    """
import torch
optimizer = torch.optim.AdamW(net.parameters())
scaler = torch.amp.GradScaler()
for i, (x, y) in enumerate(loader):
    with torch.autocast("cuda"):
        loss = loss_fn(net(x), y)
    scaler.scale(loss).backward()
    scaler.step(optimizer)  # expect
    scaler.update()
""",
)
GOOD = (
    CHECK.example_good,
    """
for i, (x, y) in enumerate(loader):
    loss = loss_fn(model(x), y) / 4
    loss.backward()
    if (i + 1) % 4 == 0:
        optimizer.step()
        optimizer.zero_grad()
""",
    """
from helpers import update
for x, y in loader:
    loss = loss_fn(model(x), y)
    loss.backward()
    update(optimizer)
    optimizer.step()
""",
    """
for x, y in loader:
    for p in model.parameters():
        p.grad = None
    loss_fn(model(x), y).backward()
    optimizer.step()
""",
    """
import torch
optimizer = torch.optim.LBFGS(model.parameters())
for x, y in loader:
    def closure():
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        return loss
    optimizer.step(closure)
""",
    """
def step(loss, model, optimizer):
    model.zero_grad()
    loss.backward()
    optimizer.step()
for x, y in loader:
    step(loss_fn(model(x), y), model, optimizer)
""",
    """
done = False
while not done:
    action = policy(state)
    state, reward, done, info = env.step(action)
""",
    """
import torch
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loss = loss_fn(model(x), y)
loss.backward()
optimizer.step()
""",
)
