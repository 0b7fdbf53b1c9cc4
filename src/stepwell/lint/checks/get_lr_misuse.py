"""get_lr() of a scheduler, called to read the learning rate."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from stepwell.findings import Check, Edit, Finding, Fix
from stepwell.lint.analysis import Event, Script
from stepwell.lint.analysis.schedules import is_class, is_general, of_torch, receiver
from stepwell.lint.analysis.syntax import written

CHECK = Check(
    code="SW207",
    name="get-lr-misuse",
    severity="warning",
    certainty="certain",
    looks_for="get_lr() of a torch scheduler is called from outside of a scheduler",
    why="get_lr() computes the next learning rate from the current one and is meant for step() alone: it warns, and "
    "gives a wrong value at every milestone",
    instead="call get_last_lr()",
    silent_when="the scheduler is of a class of the file, or its class is not known and the result is not a list",
    example_bad="import torch\nscheduler = torch.optim.lr_scheduler.StepLR(optimizer, 30)\nprint(scheduler.get_lr())",
    example_good="import torch\nscheduler = torch.optim.lr_scheduler.StepLR(optimizer, 30)\n"
    "print(scheduler.get_last_lr())",
    reference="https://docs.pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.LRScheduler.html",
)
FIX = "safe"


def find(script: Script) -> Iterator[Finding]:
    for places in script.places("other"):
        if all(_is_misuse(script, event) for event in places):
            event = places[0]
            made = event.target.made if event.target is not None else None
            yield script.finding(
                CHECK,
                event.node,
                f"{receiver(event)}.get_lr() is called to read the learning rate",
                [(made, "the scheduler is made here")] if made is not None else [],
                fix=_fix(script, event),
            )


def _is_misuse(script: Script, event: Event) -> bool:
    scheduler = event.target
    if event.name != "get_lr" or scheduler is None or event.call is None or event.call.args:
        return False
    if not scheduler.sure and scheduler.local is None and not _is_class(scheduler.made):  # from another file
        around = script.parents.get(id(event.call))
        return (
            isinstance(around, ast.Subscript) and around.value is event.call
        )  # torch gives a list, one for each group
    if not of_torch(scheduler):
        return False
    return is_general(scheduler) or not is_class(scheduler, "ReduceLROnPlateau", "SequentialLR", "ChainedScheduler")


def _is_class(made: ast.AST | None) -> bool:
    """Whether an object was made by a class of its own, which may mean anything by get_lr()."""
    return isinstance(made, ast.Call) and written(made.func).rsplit(".", 1)[-1][:1].isupper()


def _fix(script: Script, event: Event) -> Fix | None:
    func = event.call.func if event.call is not None else None
    if not isinstance(func, ast.Attribute) or func.end_lineno is None:
        return None
    line, end = func.end_lineno, script.column(func.end_lineno, func.end_col_offset or 0)
    return Fix("call get_last_lr()", (Edit((line, end - len("get_lr")), (line, end), "get_last_lr"),), safe=True)


_HEAD = "\nimport torch\nfrom torch.optim import lr_scheduler\n"
BAD = (
    CHECK.example_bad + "  # expect",
    """
def train(model, optimizer, scheduler, loader):
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
        print(scheduler.get_lr()[0])  # expect
        scheduler.step()
""",
    _HEAD
    + """
scheduler = lr_scheduler.CosineAnnealingLR(optimizer, 10)
for epoch in range(10):
    for x, y in loader:
        optimizer.step()
        writer.add_scalar("lr", scheduler.get_lr()[0], epoch)  # expect
    scheduler.step()
""",
    _HEAD
    + """
class Trainer:
    def __init__(self, optimizer):
        self.scheduler = lr_scheduler.MultiStepLR(optimizer, [3, 6])
    def log(self, epoch):
        lr = self.scheduler.get_lr()[0]  # expect
        print(f"{epoch}: {lr:.1e}")
    def fit(self):
        self.optimizer.step()
        self.scheduler.step()
        self.log(1)
""",
    """
from transformers import get_linear_schedule_with_warmup
def train(model, optimizer, scheduler):
    optimizer.step()
    scheduler.step()
    logs = {"lr": scheduler.get_lr()[0]}  # expect
scheduler = get_linear_schedule_with_warmup(optimizer, 10, 100)
train(model, optimizer, scheduler)
""",
    _HEAD
    + """
sched = lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=100)
for i in range(100):
    optimizer.step()
    sched.step()
    (lr,) = sched.get_lr()  # expect
""",
)
GOOD = (
    """
def train(model, optimizer, scheduler):
    optimizer.step()
    print(scheduler.get_lr())
""",
    CHECK.example_good,
    _HEAD
    + """
class Warmup(lr_scheduler._LRScheduler):
    def get_lr(self):
        return [base * 0.1 for base in self.base_lrs]
    def step(self):
        for group, lr in zip(self.optimizer.param_groups, self.get_lr()):
            group["lr"] = lr
""",
    _HEAD
    + """
class Warmup(lr_scheduler._LRScheduler):
    def __init__(self, optimizer, after):
        self.after = after
    def get_lr(self):
        return self.base_lrs
scheduler = Warmup(optimizer, None)
print(scheduler.get_lr())
""",
    "def log(scheduler):\n    print(scheduler.get_lr())\n    optimizer.step()\n",
    "from schedules import Noam\nscheduler = Noam(optimizer)\noptimizer.step()\nprint(scheduler.get_lr())\n",
    "engine, optimizer, _, scheduler = deepspeed.initialize(model=model)\nprint(engine.get_lr())\n",
)
