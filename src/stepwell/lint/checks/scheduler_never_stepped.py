"""A scheduler that is made and never stepped: the learning rate stays where it is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Script, Thing
from stepwell.lint.analysis.schedules import of_torch
from stepwell.lint.analysis.syntax import written
from stepwell.lint.analysis.uses import enclosing, uses

CHECK = Check(
    code="SW202",
    name="scheduler-never-stepped",
    severity="error",
    certainty="certain",
    looks_for="a learning-rate scheduler is made, and nothing calls its step()",
    why="the learning rate never changes (of a schedule with warmup, it stays at its first, tiny value)",
    instead="call scheduler.step() after optimizer.step(), at the pace that the schedule counts in",
    silent_when="the scheduler is returned, stored, or handed to a trainer or a function of another file",
    example_bad="import torch\noptimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
    "scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 30)\nfor epoch in range(90):\n    for x, y in loader:\n"
    "        optimizer.zero_grad()\n        loss_fn(model(x), y).backward()\n        optimizer.step()",
    example_good="import torch\noptimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
    "scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 30)\nfor epoch in range(90):\n    for x, y in loader:\n"
    "        optimizer.zero_grad()\n        loss_fn(model(x), y).backward()\n        optimizer.step()\n"
    "    scheduler.step()",
    reference="https://docs.pytorch.org/docs/stable/optim.html#how-to-adjust-learning-rate",
)
FIX = ""
_TRAINS = re.compile(r"(^|_|\.)(train|fit)(_|$)")  # of another file, given the optimizer
_HARMLESS = frozenset(
    ["state_dict", "load_state_dict", "get_last_lr", "get_lr", "last_epoch", "base_lrs", "optimizer", "T_max", "gamma",
     "print_lr", "_last_lr", "best", "num_bad_epochs", "patience", "milestones", "verbose"]
)  # fmt: skip


def find(script: Script) -> Iterator[Finding]:
    trains = [event for event in script.of_kind("step") if event.loops or script.root_of(event).uncalled]
    trains += [event for event in script.of_kind("unknown") if event.loops and _TRAINS.search(event.name)
               and any(one.kind == "optimizer" for one in event.targets)]  # fmt: skip
    trains = trains or [event for event in script.of_kind("backward") if event.loops]  # the step is missing, too
    seen: set[int] = set()
    stepped = [event.target for event in script.of_kind("schedule") if event.target is not None]
    for scheduler in script.made("scheduler"):
        call = scheduler.made
        if call is None or id(call) in seen or not of_torch(scheduler) or scheduler.local is not None:
            continue
        seen.add(id(call))
        if not trains and not _is_configured(script, call):
            continue
        if any(one.is_same(scheduler) or _made_by(one, scheduler) for one in stepped):
            continue
        if _is_left_to_nobody(script, call):
            yield script.finding(
                CHECK,
                call,
                "this scheduler is returned by configure_optimizers() of a module that optimizes by hand, where "
                "Lightning does not step it",
                instead="take it by self.lr_schedulers() in training_step() or on_train_epoch_end(), and step it there",
            )
            continue
        asked = uses(script, call)
        if asked is None or any(one.attr not in _HARMLESS for one in asked):
            continue
        name = scheduler.name or scheduler.cls.rsplit(".", 1)[-1]
        yield script.finding(
            CHECK,
            call,
            f"{name} is made here, and nothing steps it",
            [(trains[0].node, "the optimizer is used here, and the learning rate stays the same")] if trains else [],
        )


def _is_left_to_nobody(script: Script, call: ast.Call) -> bool:
    """Whether a module of Lightning with manual optimization returns this scheduler and never asks for it."""
    if not _is_configured(script, call):
        return False
    cls = next((one for one in enclosing(script, call) if isinstance(one, ast.ClassDef)), None)
    if cls is None or re.search(r"lr_schedulers|sched\w*\.step\(|\bsch\w*\.step\(", script.source):
        return False
    text = written(cls)
    return bool(
        re.search(r"automatic_optimization = False|def automatic_optimization\(self\)[^\n]*\n\s*return False", text)
    )


def _is_configured(script: Script, call: ast.Call) -> bool:
    """Whether this stands in configure_optimizers of Lightning, which steps what that returns."""
    return any(
        isinstance(one, ast.FunctionDef) and one.name == "configure_optimizers" for one in enclosing(script, call)
    )


def _made_by(one: Thing, scheduler: Thing) -> bool:
    return one.made is scheduler.made


_HEAD = """
import torch
from torch.optim import lr_scheduler
"""
BAD = (
    """
import lightning as L
import torch
class Net(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
    def training_step(self, batch, i):
        opt = self.optimizers()
        opt.zero_grad()
        self.manual_backward(self(batch).sum())
        opt.step()
    def configure_optimizers(self):
        opt = torch.optim.Adam(self.parameters(), 1e-3)
        return [opt], [torch.optim.lr_scheduler.CosineAnnealingLR(opt, 10)]  # expect
""",
    CHECK.example_bad.replace("(optimizer, 30)", "(optimizer, 30)  # expect"),
    _HEAD
    + """
def train(model, loader, optimizer, scheduler):
    for epoch in range(3):
        for x, y in loader:
            optimizer.zero_grad()
            loss_fn(model(x), y).backward()
            optimizer.step()
        print(scheduler.get_last_lr())
def main():
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, T_max=3)  # expect
    train(model, loader, optimizer, scheduler)
main()
""",
    _HEAD
    + """
class Trainer:
    def __init__(self, model, loader):
        self.model, self.loader = model, loader
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        self.scheduler = lr_scheduler.CosineAnnealingLR(self.optimizer, 100)  # expect
    def fit(self):
        for x, y in self.loader:
            loss = (self.model(x) - y).pow(2).mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
if __name__ == "__main__":
    Trainer(model, loader).fit()
""",
    """
from accelerate import Accelerator
from transformers import get_linear_schedule_with_warmup
import torch
accelerator = Accelerator()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
scheduler = get_linear_schedule_with_warmup(optimizer, 100, 1000)  # expect
model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
for batch in loader:
    loss = model(**batch).loss
    accelerator.backward(loss)
    optimizer.step()
    optimizer.zero_grad()
torch.save({"scheduler": scheduler.state_dict()}, "last.pt")
""",
    _HEAD
    + """
optimizer_G = torch.optim.Adam(G.parameters())
optimizer_D = torch.optim.Adam(D.parameters())
scheduler_G = lr_scheduler.StepLR(optimizer_G, 10)
scheduler_D = lr_scheduler.StepLR(optimizer_D, 10)  # expect
for epoch in range(10):
    for real in loader:
        fake = G(z)
        optimizer_D.zero_grad()
        (D(fake.detach()) - D(real)).mean().backward()
        optimizer_D.step()
        optimizer_G.zero_grad()
        (-D(fake)).mean().backward()
        optimizer_G.step()
    scheduler_G.step()
""",
)
GOOD = (
    """
import lightning as L
import torch
class Net(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
    def training_step(self, batch, i):
        opt, sch = self.optimizers(), self.lr_schedulers()
        opt.zero_grad()
        self.manual_backward(self(batch).sum())
        opt.step()
        sch.step()
    def configure_optimizers(self):
        opt = torch.optim.Adam(self.parameters(), 1e-3)
        return [opt], [torch.optim.lr_scheduler.CosineAnnealingLR(opt, 10)]
""",
    CHECK.example_good,
    _HEAD
    + """
class Model(LightningModule):
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        scheduler = lr_scheduler.StepLR(optimizer, 30)
        return [optimizer], [scheduler]
    def training_step(self, batch, index):
        opt = self.optimizers()
        for x in batch:
            opt.zero_grad()
            self.manual_backward(self.loss(x))
            opt.step()
""",
    _HEAD
    + """
from engine import fit
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scheduler = lr_scheduler.StepLR(optimizer, 30)
fit(model, optimizer, scheduler)
for x, y in loader:
    optimizer.zero_grad()
    loss_fn(model(x), y).backward()
    optimizer.step()
""",
    _HEAD
    + """
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
schedulers = [lr_scheduler.StepLR(optimizer, 30)]
for x, y in loader:
    optimizer.zero_grad()
    loss_fn(model(x), y).backward()
    optimizer.step()
    for one in schedulers:
        one.step()
""",
    _HEAD
    + """
def build(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = lr_scheduler.StepLR(optimizer, 30)
    return optimizer, scheduler
def train(model, loader):
    optimizer, schedule = build(model)
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
        schedule.step()
""",
    _HEAD
    + """
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
warmup = lr_scheduler.LinearLR(optimizer, 0.1)
cosine = lr_scheduler.CosineAnnealingLR(optimizer, 100)
scheduler = lr_scheduler.SequentialLR(optimizer, [warmup, cosine], [5])
for x, y in loader:
    optimizer.zero_grad()
    loss_fn(model(x), y).backward()
    optimizer.step()
    scheduler.step()
""",
)
