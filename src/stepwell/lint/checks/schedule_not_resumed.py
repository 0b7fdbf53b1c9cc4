"""A training that continues at a later epoch with a schedule that begins again."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Event, Script, Thing
from stepwell.lint.analysis.schedules import is_class, of_torch
from stepwell.lint.analysis.syntax import written

CHECK = Check(
    code="SW508",
    name="schedule-not-resumed",
    severity="warning",
    certainty="certain",
    looks_for="a resume loads the optimizer and the epoch, and a scheduler is made without last_epoch, never loaded "
    "and never brought to that epoch",
    why="the scheduler counts from 0 again: the warmup is repeated, and every decay comes as many epochs too late as "
    "the training had run",
    instead="save scheduler.state_dict() in the checkpoint and load it with the optimizer",
    silent_when="the scheduler is loaded, gets last_epoch, is stepped up to the epoch, or watches a metric",
    example_bad="""scheduler = StepLR(optimizer, 30)
if resume:
    checkpoint = torch.load("last.pt")
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    start_epoch = checkpoint["epoch"]
for epoch in range(start_epoch, 90):
    train(model, optimizer)
    scheduler.step()""",
    example_good="""scheduler = StepLR(optimizer, 30)
if resume:
    checkpoint = torch.load("last.pt")
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    scheduler.load_state_dict(checkpoint["scheduler"])
    start_epoch = checkpoint["epoch"]
for epoch in range(start_epoch, 90):
    train(model, optimizer)
    scheduler.step()""",
    reference="https://docs.pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.LRScheduler.html",
)
FIX = ""
_EPOCH = re.compile(
    r"^\s*([\w.]*(start|begin|first|epoch|resume)[\w.]*)\s*=\s*(int\()?[\w.]+(\.get\(|\[)['\"]\w*epoch", re.M
)
_BRINGS = re.compile(
    r"last_epoch|initial_lr|_step_count|sched\w*\.(load|__dict__)|load_(lr_)?sched|\.step\(\s*[\w.]*epoch"
)


def find(script: Script) -> Iterator[Finding]:
    if "load_state_dict" not in script.source or _BRINGS.search(script.source):
        return
    start = _EPOCH.search(script.source)
    loads = [event for event in script.of_kind("load_state") if event.target is not None]
    ours = [event for event in loads if event.target is not None and event.target.kind == "optimizer"]
    if start is None or not ours or any(one.target is not None and one.target.kind != "optimizer"
                                        and one.target.kind != "model" for one in loads):  # fmt: skip
        return
    if _is_caught_up(script, start.group(1)):
        return
    for scheduler in script.made("scheduler"):
        step = _step(script, scheduler)
        if (
            step is None
            or scheduler.made is None
            or not of_torch(scheduler)
            or is_class(scheduler, "ReduceLROnPlateau")
        ):
            continue
        load = next((one for one in ours if _drives(scheduler, one.target)), None)
        if load is not None and not _is_hidden(script, scheduler):
            yield script.finding(
                CHECK,
                scheduler.made,
                f"{scheduler.name or 'the scheduler'} begins at 0 in a training that continues at {start.group(1)}",
                [(load.node, "the optimizer is loaded here"), (step.node, "the scheduler counts from 0 here")],
            )
            return


def _step(script: Script, scheduler: Thing) -> Event | None:
    return next((one for one in script.of_kind("schedule") if one.loops and one.target is not None
                 and one.target.is_same(scheduler)), None)  # fmt: skip


def _drives(scheduler: Thing, optimizer: Thing | None) -> bool:
    return any(one.is_same(optimizer) for one in scheduler.of)


def _is_caught_up(script: Script, start: str) -> bool:
    """Whether a loop up to the first epoch steps something: `for _ in range(start_epoch): scheduler.step()`."""
    return any(re.fullmatch(rf"range\((0, )?{re.escape(start)}\)", written(node.iter)) for node in script.each(ast.For))


def _is_hidden(script: Script, scheduler: Thing) -> bool:
    """Whether a call from elsewhere may load it: it is given the scheduler, and says so."""
    return any(
        event.kind == "unknown"
        and re.search(r"load|resum|restor|prepare|register|wrap", event.name, re.I)
        and any(one.is_same(scheduler) or one.kind == "checkpoint" for one in event.targets)
        for event in script.events
    )


_TAIL = """
for epoch in range(start_epoch, 90):
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
    scheduler.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}, "last.pt")
"""
_HEAD = """
import torch
from torch.optim import lr_scheduler
model = torch.nn.Linear(3, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
"""
_LOAD = """
checkpoint = torch.load("last.pt")
model.load_state_dict(checkpoint["model"])
optimizer.load_state_dict(checkpoint["optimizer"])
start_epoch = checkpoint["epoch"] + 1
"""
BAD = (
    _HEAD + "scheduler = lr_scheduler.StepLR(optimizer, 30)  # expect" + _LOAD + _TAIL,
    _HEAD + _LOAD + "scheduler = lr_scheduler.CosineAnnealingLR(optimizer, T_max=90)  # expect" + _TAIL,
    """
import torch
class Trainer:
    def __init__(self, model):
        self.model = model
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda e: min(1, e / 5))  # expect
        self.start_epoch = 0
    def resume(self, path):
        state = torch.load(path)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.start_epoch = state["epoch"]
    def fit(self, loader):
        for epoch in range(self.start_epoch, 10):
            for x, y in loader:
                self.optimizer.zero_grad()
                (self.model(x) - y).pow(2).mean().backward()
                self.optimizer.step()
            self.scheduler.step()
""",
    """
import torch
def main(args):
    model = torch.nn.Linear(3, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [30, 60])  # expect
    start_epoch = 0
    if args.resume:
        ckpt = torch.load(args.resume, map_location="cpu")
        start_epoch = ckpt["epoch"]
        model.load_state_dict(ckpt["state_dict"])
        optimizer.load_state_dict(ckpt["optimizer"])
    for epoch in range(start_epoch, args.epochs):
        for x, y in loader:
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
        scheduler.step()
""",
    _HEAD
    + "sched = lr_scheduler.ExponentialLR(optimizer, 0.9)  # expect"
    + _LOAD.replace("start_epoch =", "begin_epoch =")
    + _TAIL.replace("scheduler.step", "sched.step").replace("start_epoch", "begin_epoch"),
)
GOOD = (
    _HEAD
    + "scheduler = lr_scheduler.StepLR(optimizer, 30)"
    + _LOAD
    + 'scheduler.load_state_dict(checkpoint["s"])'
    + _TAIL,
    _HEAD + _LOAD + "scheduler = lr_scheduler.StepLR(optimizer, 30, last_epoch=start_epoch - 1)" + _TAIL,
    _HEAD
    + "scheduler = lr_scheduler.StepLR(optimizer, 30)"
    + _LOAD
    + "for _ in range(start_epoch):\n    scheduler.step()\n"
    + _TAIL,
    _HEAD
    + "scheduler = lr_scheduler.ReduceLROnPlateau(optimizer)"
    + _LOAD
    + _TAIL.replace("scheduler.step()", "scheduler.step(loss)"),
    _HEAD + "scheduler = lr_scheduler.StepLR(optimizer, 30)\nstart_epoch = 0" + _TAIL,
    _HEAD
    + "scheduler = lr_scheduler.StepLR(optimizer, 30)"
    + _LOAD.replace('optimizer.load_state_dict(checkpoint["optimizer"])\n', "")
    + _TAIL,
)
