"""A schedule that is stepped before the optimizer: the first value of the learning rate is never used."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from stepwell.findings import Check, Finding, Fix
from stepwell.lint import edits
from stepwell.lint.analysis import Event, Script
from stepwell.lint.analysis.relations import may_touch
from stepwell.lint.analysis.schedules import counts, drives, is_class, of_torch, receiver, shared
from stepwell.lint.analysis.syntax import written

CHECK = Check(
    code="SW201",
    name="scheduler-before-optimizer",
    severity="error",
    certainty="certain",
    looks_for="scheduler.step() comes before the first optimizer.step() of the loop or of the run",
    why="the first learning rate of the schedule is skipped and every later one comes a step too early; since torch "
    "1.1 a scheduler is stepped after the optimizer",
    instead="call scheduler.step() after optimizer.step(), or at the end of the epoch",
    silent_when="the scheduler is no torch scheduler, the step is only taken when a counter says so, or a function of "
    "another file may have stepped the optimizer before",
    example_bad="import torch\noptimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
    "scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 30)\nfor epoch in range(90):\n    scheduler.step()\n"
    "    for x, y in loader:\n        optimizer.zero_grad()\n        loss_fn(model(x), y).backward()\n"
    "        optimizer.step()",
    example_good="import torch\noptimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
    "scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 30)\nfor epoch in range(90):\n    for x, y in loader:\n"
    "        optimizer.zero_grad()\n        loss_fn(model(x), y).backward()\n        optimizer.step()\n"
    "    scheduler.step()",
    reference="https://docs.pytorch.org/docs/stable/optim.html#how-to-adjust-learning-rate",
)
FIX = "unsafe"
_STEPS_NOT = re.compile(r"prepare|setup|init|dict|[gs]et_|train_test_split|load|save|print|log|watch|\w*state_dict")
_LIKE = re.compile(r"^(self\.)?((exp_)?lr_?)?sched(uler)?$", re.I)
# train(), agent.update(), self.train_epoch(); not progress.update() or net.train()
_TRAINS = re.compile(
    r"^((self|\w*(trainer|agent|learner|engine|runner|solver|algo\w*))\.)?(\w*_)?(train|fit|update|step|"
    r"optimi[sz]e|learn)(_\w*)?$"
)


def find(script: Script) -> Iterator[Finding]:
    first: dict[int, Event | None] = {}  # of a scheduler's step: the update that it comes before, None if not always
    for root in script.roots:
        if any(_is_meant(event) for event in root.events):
            _look(root.events, first)
            ways = script.ways(root) if any(first.get(id(event)) is _ONLY_BY_WAYS for event in root.events) else None
            for way in ways or ():
                _look_again(way, first)
    for places in script.places("schedule"):
        steps = [first.get(id(event)) for event in places]
        event, step = places[0], steps[0]
        if step is not None and all(one is not None and one is not _ONLY_BY_WAYS for one in steps):
            name = receiver(event)
            yield script.finding(
                CHECK,
                event.node,
                f"{name}.step() is called before {receiver(step)}.step() of line {step.line}",
                [(step.node, "the first update comes after the first change of the learning rate")],
                fix=_fix(script, event, step),
            )


_ONLY_BY_WAYS = Event("", ast.Pass())  # the order of the text does not tell


def _is_meant(event: Event) -> bool:
    return event.kind == "schedule" and event.name == "step" and (of_torch(event.target) or _is_as_torch(event))


def _is_as_torch(event: Event) -> bool:
    """Whether a scheduler from another file is used as those of torch are: `scheduler.step()`."""
    scheduler, call = event.target, event.call
    if scheduler is None or scheduler.sure or scheduler.local is not None or scheduler.made is not None:
        return False
    return call is not None and not call.args and not call.keywords and bool(_LIKE.match(receiver(event)))


def _look(events: list[Event], first: dict[int, Event | None]) -> None:
    """By the order of the text, where the scheduler's step is taken whenever the update is."""
    for index, event in enumerate(events):
        if _is_meant(event) and not _is_after(events[:index], event):
            step = _next(events[index + 1 :], event)
            if step is not None and shared(event, step) < len(event.branches) and not _is_settled(event, step):
                step = _ONLY_BY_WAYS
            first[id(event)] = step


def _is_settled(event: Event, step: Event) -> bool:
    """Whether the conditions around a scheduler's step hold in all rounds or in none, and the update has fewer."""
    extra = [branch for branch, _ in event.branches[shared(event, step) :]]
    if len(step.branches) > shared(event, step) or not event.loops:
        return False
    changed = {one.id for one in ast.walk(event.loops[0].node) if isinstance(one, ast.Name)
               and isinstance(one.ctx, ast.Store)}  # fmt: skip
    for branch in extra:
        test = branch.node.test if isinstance(branch.node, ast.If) else None
        if test is None or any(isinstance(one, (ast.Call, ast.Subscript)) for one in ast.walk(test)):
            return False
        if any(isinstance(one, ast.Name) and one.id in changed for one in ast.walk(test)) or "self." in written(test):
            return False
    return True


def _look_again(way: list[Event], first: dict[int, Event | None]) -> None:
    for index, event in enumerate(way):
        if id(event) in first and first[id(event)] is not None and any(one.kind == "step" for one in way):
            step = None if _is_after(way[:index], event) else _next(way[index + 1 :], event)
            first[id(event)] = step if step is None or first[id(event)] is _ONLY_BY_WAYS else first[id(event)]


def _is_after(before: list[Event], event: Event) -> bool:
    """Whether anything may have updated the weights before."""
    scheduler = event.target
    assert scheduler is not None
    if is_class(scheduler, "ReduceLROnPlateau", "SWALR"):
        return True
    for one in before:
        if one.kind == "step" and drives(scheduler, one.target) is not False:
            return True
        if one.kind == "unknown" and (
            may_touch(one, scheduler)
            or any(may_touch(one, optimizer) for optimizer in scheduler.of)
            or _TRAINS.search(one.name)
        ):
            if one.call is not None and scheduler.made is one.call:
                continue
            name = one.name.rsplit(".", 1)[-1]
            if not name[:1].isupper() and not _STEPS_NOT.match(name):  # making an object is no update
                return True
        if one.kind in ("load", "load_state") and not event.loops:
            return True
    return False


def _next(after: list[Event], event: Event) -> Event | None:
    """The update that follows in the same round."""
    scheduler = event.target
    assert scheduler is not None
    for one in after:
        if one.kind == "step" and one.target is not None and drives(scheduler, one.target) is not False:
            if scheduler.of and drives(scheduler, one.target) is None:
                return None
            if not of_torch(scheduler) and one.function is not event.function:
                return None
            inside = event.loops[len(event.loops) - 1] if event.loops else None
            if inside is not None and inside not in one.loops:
                return None  # a loop of its own, to come to where the run had stopped
            together = shared(event, one)
            if any(counts(branch) for branch, _ in event.branches[together:]):
                return None
            return one
        if one.kind == "make" and one.target is not None and drives(scheduler, one.target):
            return None
    return None


def _fix(script: Script, event: Event, step: Event) -> Fix | None:
    """Move the statement behind the step, or to the end of the loop where the step stands in an inner one."""
    statement, other = script.statement(event.node), script.statement(step.node)
    if not isinstance(statement, ast.Expr) or statement.value is not event.node or other is None:
        return None
    block = script.block_of(statement)
    if block is None:
        return None
    last = other if other in block else block[-1]
    if not (last is other or isinstance(script.parents.get(id(statement)), (ast.For, ast.While))):
        return None
    if isinstance(last, (ast.Continue, ast.Break, ast.Return, ast.Raise)) or last is statement:
        return None
    out, into = edits.remove(script, statement), edits.insert_after(script, last, edits.text(script, statement))
    where = "behind the optimizer's step" if last is other else "to the end of the loop"
    return Fix(f"move {edits.text(script, statement)} {where}", (out, into)) if out and into else None


_HEAD = """
import torch
from torch.optim import lr_scheduler
"""
BAD = (
    CHECK.example_bad.replace("    scheduler.step()", "    scheduler.step()  # expect"),
    _HEAD
    + """
def train_epoch(model, loader, optimizer):
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
def main():
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = lr_scheduler.MultiStepLR(optimizer, [30, 60])
    for epoch in range(90):
        scheduler.step()  # expect
        train_epoch(model, loader, optimizer)
""",
    _HEAD
    + """
class Trainer:
    def __init__(self, model, loader):
        self.model, self.loader = model, loader
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        self.scheduler = lr_scheduler.CosineAnnealingLR(self.optimizer, 100)
    def train_step(self, x, y):
        loss = (self.model(x) - y).pow(2).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.scheduler.step()  # expect
        self.optimizer.step()
    def fit(self):
        for x, y in self.loader:
            self.train_step(x, y)
""",
    """
from accelerate import Accelerator
from transformers import get_linear_schedule_with_warmup
import torch
accelerator = Accelerator()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
scheduler = get_linear_schedule_with_warmup(optimizer, 100, 1000)
model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
for batch in loader:
    loss = model(**batch).loss
    accelerator.backward(loss)
    scheduler.step()  # expect
    optimizer.step()
    optimizer.zero_grad()
""",
    _HEAD
    + """
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scheduler = lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=1000)
scaler = torch.amp.GradScaler("cuda")
for step, (x, y) in enumerate(loader):
    optimizer.zero_grad()
    with torch.autocast("cuda"):
        loss = loss_fn(model(x), y)
    scaler.scale(loss).backward()
    scheduler.step()  # expect
    scaler.step(optimizer)
    scaler.update()
""",
    _HEAD
    + """
optimizer_G = torch.optim.Adam(G.parameters())
optimizer_D = torch.optim.Adam(D.parameters())
scheduler_G = lr_scheduler.StepLR(optimizer_G, 10)
scheduler_D = lr_scheduler.StepLR(optimizer_D, 10)
for epoch in range(10):
    scheduler_D.step()  # expect
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
    CHECK.example_good,
    _HEAD
    + """
from timm.scheduler import CosineLRScheduler
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scheduler = CosineLRScheduler(optimizer, 100)
for epoch in range(90):
    scheduler.step(epoch)
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
""",
    _HEAD
    + """
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scheduler = lr_scheduler.StepLR(optimizer, 30)
for epoch in range(90):
    if epoch > 0:
        scheduler.step()
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
""",
    _HEAD
    + """
from engine import train_one_epoch
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scheduler = lr_scheduler.StepLR(optimizer, 30)
for epoch in range(90):
    train_one_epoch(model, optimizer, loader)
    scheduler.step()
    optimizer.step()
""",
    _HEAD
    + """
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scheduler = lr_scheduler.StepLR(optimizer, 30)
for _ in range(start_epoch):
    scheduler.step()
for epoch in range(start_epoch, 90):
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
    scheduler.step()
""",
    """
class NoamSchedule:
    def __init__(self, optimizer):
        self.optimizer = optimizer
    def step(self):
        for group in self.optimizer.param_groups:
            group["lr"] = 0.1
scheduler = NoamSchedule(optimizer)
for x, y in loader:
    scheduler.step()
    optimizer.zero_grad()
    loss_fn(model(x), y).backward()
    optimizer.step()
""",
)
