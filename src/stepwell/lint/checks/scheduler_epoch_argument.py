"""A scheduler that is told the epoch at each step."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from stepwell.findings import Check, Edit, Finding, Fix
from stepwell.lint import edits
from stepwell.lint.analysis import Event, Script
from stepwell.lint.analysis.schedules import is_class, is_general, of_torch, receiver
from stepwell.lint.analysis.syntax import written

CHECK = Check(
    code="SW206",
    name="scheduler-epoch-argument",
    severity="warning",
    certainty="certain",
    looks_for="step() of a torch scheduler is given an argument",
    why="torch takes the argument for the epoch to jump to: it is deprecated, leaves the chain of factors, and gives "
    "other learning rates than step() where schedules are combined or the number is no epoch",
    instead="call scheduler.step() without an argument",
    silent_when="the scheduler is ReduceLROnPlateau, CosineAnnealingWarmRestarts, one of timm or of the file itself",
    example_bad="import torch\nscheduler = torch.optim.lr_scheduler.StepLR(optimizer, 30)\n"
    "for epoch in range(epochs):\n    train_one_epoch(model)\n    scheduler.step(epoch)",
    example_good="import torch\nscheduler = torch.optim.lr_scheduler.StepLR(optimizer, 30)\n"
    "for epoch in range(epochs):\n    train_one_epoch(model)\n    scheduler.step()",
    reference="https://docs.pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.LRScheduler.html",
)
FIX = "unsafe"


def find(script: Script) -> Iterator[Finding]:
    for places in script.places("schedule"):
        if all(_is_told(event) for event in places):
            event = places[0]
            assert event.call is not None
            assert event.target is not None
            given = (*event.call.args, *(one.value for one in event.call.keywords))
            made = event.target.made
            words = event.target.cls.rsplit(".", 1)[-1] or "a class"
            yield script.finding(
                CHECK,
                event.node,
                f"{receiver(event)}.step() is given {script.text(given[0])}",
                [(made, f"it is made by {words} of torch or transformers")] if made is not None else [],
                fix=_fix(script, event.call),
            )


def _is_told(event: Event) -> bool:
    call, scheduler = event.call, event.target
    if call is None or scheduler is None or event.name != "step" or not of_torch(scheduler) or is_general(scheduler):
        return False
    if is_class(scheduler, "ReduceLROnPlateau", "CosineAnnealingWarmRestarts", "get_reduce_on_plateau_schedule"):
        return False
    if any(isinstance(one, ast.Starred) for one in call.args):
        return False
    given = [*call.args, *(one.value for one in call.keywords if one.arg in ("epoch", "metrics"))]
    if scheduler.cls.startswith("transformers") and is_class(scheduler, "get_scheduler"):  # it may make a plateau
        return len(given) == 1 and "epoch" in written(given[0])
    return len(given) == 1 and not (isinstance(given[0], ast.Constant) and given[0].value is None)


def _fix(script: Script, call: ast.Call) -> Fix | None:
    text = edits.text(script, call)
    if "\n" in text or "#" in text:
        return None
    end = (call.end_lineno or 0, script.column(call.end_lineno or 0, call.end_col_offset or 0))
    after = (call.func.end_lineno or 0, script.column(call.func.end_lineno or 0, call.func.end_col_offset or 0))
    return Fix("drop the argument of step()", (Edit(after, end, "()"),))


_HEAD = "\nimport torch\nfrom torch.optim.lr_scheduler import *\n"
BAD = (
    CHECK.example_bad.replace("scheduler.step(epoch)", "scheduler.step(epoch)  # expect"),
    _HEAD
    + """
class Trainer:
    def __init__(self, model):
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        self.lr_scheduler = MultiStepLR(self.optimizer, [30, 60])
    def fit(self):
        for epoch in range(10):
            self.train_epoch(epoch)
            self.lr_scheduler.step(epoch=epoch)  # expect
""",
    _HEAD
    + """
schedulers = [StepLR(optimizer_G, 30), StepLR(optimizer_D, 30)]
for epoch in range(10):
    train(epoch)
    for scheduler in schedulers:
        scheduler.step(epoch + 1)  # expect
""",
    _HEAD
    + """
scheduler = CosineAnnealingLR(optimizer, 100)
for epoch in range(10):
    val_loss = train(epoch)
    scheduler.step(val_loss)  # expect
""",
    """
from transformers import get_cosine_schedule_with_warmup
def train(model, loader, optimizer, scheduler):
    for step, batch in enumerate(loader):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
        scheduler.step(step)  # expect
scheduler = get_cosine_schedule_with_warmup(optimizer, 100, 1000)
train(model, loader, optimizer, scheduler)
""",
)
GOOD = (
    CHECK.example_good,
    _HEAD + "scheduler = ReduceLROnPlateau(optimizer)\nfor epoch in range(3):\n    scheduler.step(validate(model))\n",
    _HEAD
    + "scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 10)\n"
    + "for epoch in range(3):\n    for i, x in enumerate(loader):\n        scheduler.step(epoch + i / len(loader))\n",
    "from timm.scheduler import CosineLRScheduler\nscheduler = CosineLRScheduler(optimizer, 10)\n"
    "for epoch in range(3):\n    optimizer.step()\n    scheduler.step(epoch)\n",
    _HEAD
    + """
class Warmup(LRScheduler):
    def step(self, epoch):
        super().step()
scheduler = Warmup(optimizer)
for epoch in range(3):
    optimizer.step()
    scheduler.step(epoch)
""",
    _HEAD
    + """
def train(model, optimizer, scheduler):
    for epoch in range(3):
        optimizer.step()
        scheduler.step(epoch)
""",
    _HEAD
    + """
if args.plateau:
    scheduler = ReduceLROnPlateau(optimizer)
else:
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 30)
for epoch in range(3):
    optimizer.step()
    scheduler.step(loss)
""",
)
