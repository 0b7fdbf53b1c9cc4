"""A schedule that counts in epochs and is stepped per batch, or the reverse."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Block, Branch, Call, Event, Loop, Script, argument
from stepwell.lint.analysis.schedules import of_torch, receiver
from stepwell.lint.analysis.syntax import written

CHECK = Check(
    code="SW203",
    name="scheduler-horizon-mismatch",
    severity="error",
    certainty="certain",
    looks_for="the length of a schedule is counted in epochs and the scheduler is stepped per batch, or it is "
    "counted in batches and the scheduler is stepped per epoch",
    why="the schedule is over after a fraction of the training, or has hardly begun at its end",
    instead="count in the unit of the steps: len(loader) * epochs for a step per batch, epochs for a step per epoch",
    silent_when="the unit of the length or the pace of the steps is not certain",
    example_bad="import torch\nscheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=num_epochs)\n"
    "for epoch in range(num_epochs):\n    for x, y in loader:\n        optimizer.zero_grad()\n"
    "        loss_fn(model(x), y).backward()\n        optimizer.step()\n        scheduler.step()",
    example_good="import torch\nscheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=num_epochs)\n"
    "for epoch in range(num_epochs):\n    for x, y in loader:\n        optimizer.zero_grad()\n"
    "        loss_fn(model(x), y).backward()\n        optimizer.step()\n    scheduler.step()",
    reference="https://docs.pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.OneCycleLR.html",
)
FIX = ""

# class -> the arguments that are lengths, counted in steps of the scheduler
_LENGTHS: dict[str, tuple[tuple[int, str], ...]] = {
    "CosineAnnealingLR": ((1, "T_max"),),
    "OneCycleLR": ((2, "total_steps"),),
    "PolynomialLR": ((1, "total_iters"),),
    "StepLR": ((1, "step_size"),),
    "MultiStepLR": ((1, "milestones"),),
    "get_linear_schedule_with_warmup": ((2, "num_training_steps"),),
    "get_cosine_schedule_with_warmup": ((2, "num_training_steps"),),
    "get_polynomial_decay_schedule_with_warmup": ((2, "num_training_steps"),),
    "get_cosine_with_hard_restarts_schedule_with_warmup": ((2, "num_training_steps"),),
    "get_scheduler": ((3, "num_training_steps"),),
}
_PER_EPOCH = re.compile(r"(steps?|iters?|iterations?|batch(es)?|updates?|samples?|it)_?(per|in|an|each)_?epoch|"
                        r"epoch_?(len|size|steps|length|iters)|^len_\w*loader", re.I)  # fmt: skip
_EPOCHS = re.compile(r"^(n|num|max|total|nb|number_of|train|training|no_of|n_train|num_train)?_?epochs?(_num|"
                     r"_count|_no|_total)?$|^(\w+_)?epochs(_\w+)?$", re.I)  # fmt: skip
_BATCHES = re.compile(r"^(n|num|max|total|nb)?_?(train(ing)?_?)?(total_?)?(steps|iters|iterations|"
                      r"updates)(_for_scheduler)?$|^t_total$", re.I)  # fmt: skip
_PROCESSES = re.compile(
    r"accum|(num_processes|world_?size|n_?gpus?|num_gpus|num_devices)$", re.I
)  # that Accelerate steps for; factors
_LOADER = re.compile(r"load|dataloader|(^|_)(dl|iterator|iter)(_|$)|batches", re.I)


def find(script: Script) -> Iterator[Finding]:
    yield from _configured(script)
    for places in script.places("schedule"):
        event = places[0]
        scheduler = event.target
        if scheduler is None or event.name != "step" or not of_torch(scheduler) or scheduler.either:
            continue
        paces = {_pace(one) for one in places}
        made = scheduler.made
        if made is None or len(paces) != 1 or any(one.target is not scheduler for one in places):
            continue
        pace = paces.pop()
        others = [one for one in script.of_kind("schedule") if one.target is not None and one.target.is_same(scheduler)]
        if not pace or any(_pace(one) != pace for one in others):
            continue
        length = _length(script, event, made, scheduler.cls.rsplit(".", 1)[-1])
        if length is None:
            continue
        node, unit = length
        if (unit == "epochs" and pace == "batch") or (unit == "batches" and pace == "epoch"):
            yield script.finding(
                CHECK,
                made,
                f"{receiver(event)} is stepped per {pace} in line {event.line}, and its length {script.text(node)} "
                f"counts {unit}",
                [(event.node, f"one step per {pace}")],
            )


def _configured(script: Script) -> Iterator[Finding]:
    """Schedulers that Lightning steps: per epoch, unless "interval" says otherwise."""
    if "configure_optimizers" not in script.source:
        return
    for function in script.nodes:
        if not isinstance(function, ast.FunctionDef) or function.name != "configure_optimizers":
            continue
        inside = {id(node) for node in ast.walk(function)}
        made = [one for one in script.made("scheduler") if one.made is not None and id(one.made) in inside]
        text = written(script.parents.get(id(function)) or function)
        if len(made) != 1 or not of_torch(made[0]) or "lr_scheduler_step" in text or "lr_schedulers()" in text:
            continue
        call, own = made[0].made, written(function)
        found = re.findall(r"'?interval'?\s*[:=]\s*'(\w+)'", own)
        if call is None or ("interval" in own and found not in (["step"], ["epoch"])):
            continue
        pace = "batch" if found == ["step"] else "epoch"
        length = _length(script, None, call, made[0].cls.rsplit(".", 1)[-1])
        if length is not None and (length[1] == "epochs") == (pace == "batch"):
            said = "'interval': 'step'" if pace == "batch" else "no 'interval', or that of epochs"
            yield script.finding(
                CHECK,
                call,
                f"Lightning steps the scheduler per {pace} ({said}), and its length {script.text(length[0])} counts "
                f"{length[1]}",
            )


def _pace(event: Event) -> str:
    """ "batch" or "epoch": how often a scheduler is stepped; "" if that is not certain."""
    if not event.loops or (event.frames and event.function is None):
        return ""
    inner = event.loops[-1]
    steps = [one for one in inner.events() if one.kind == "step" and one.target is not None]
    if not steps or inner.once:
        return ""
    inside = [branch for branch, _ in event.branches if any(branch is other for other in _branches(inner.body))]
    for branch in inside:
        if branch.test is None or ("%" not in branch.test and re.search(r"==|[<>]|last|end|epoch|len\(", branch.test)):
            return ""
        if "%" in branch.test and not re.search(r"accum|grad", branch.test):
            return ""
    if any(len(one.loops) > len(event.loops) and one.loops[len(event.loops)].role == "batch" for one in steps):
        return "epoch" if inner.role == "epoch" and all(len(one.loops) > len(event.loops) for one in steps) else ""
    outer = [loop for loop in event.loops[:-1] if loop.role == "epoch"]
    if inner.role == "batch" and outer and any(one.loops == event.loops for one in steps):
        return "batch"
    return ""


def _branches(block: Block) -> Iterator[Branch]:
    for item in block:
        if isinstance(item, Branch):
            yield item
            for body in item.bodies:
                yield from _branches(body)
        elif isinstance(item, (Loop, Call)):
            yield from _branches(item.body)


def _length(script: Script, event: Event | None, made: ast.Call, cls: str) -> tuple[ast.expr, str] | None:
    """An argument that is a length, and its unit."""
    if any(one.arg is None for one in made.keywords):
        return None
    if cls == "OneCycleLR" and argument(made, 2, "total_steps") is None:
        epochs, steps = argument(made, 3, "epochs"), argument(made, 4, "steps_per_epoch")
        if epochs is None or steps is None:
            return None
        units = _unit(script, epochs), _unit(script, steps)
        if units[1] == "batches per epoch":
            return steps, "batches"
        return (epochs, "epochs") if units == ("epochs", "1") else None
    for position, keyword in _LENGTHS.get(cls, ()):
        node = argument(made, position, keyword)
        if node is None:
            continue
        unit = _unit(script, node)
        if (
            unit == "number"
            and event is not None
            and _loop_length(script, event) == script.literal(node)
            and script.literal(node) > 2
        ):
            unit = "epochs"
        if unit in ("batches per epoch",) and cls in ("CosineAnnealingLR", "StepLR"):
            unit = ""  # a period of one epoch is meant: only the step per epoch is wrong
        return (node, unit) if unit in ("epochs", "batches") else None
    return None


def _loop_length(script: Script, event: Event) -> object:
    """N of `for epoch in range(N)` around a step."""
    for loop in event.loops:
        node = loop.node
        if loop.role == "epoch" and isinstance(node, ast.For):
            over = node.iter
            while isinstance(over, ast.Call) and over.args and written(over.func) not in ("range", "trange"):
                over = over.args[0]
            if isinstance(over, ast.Call) and 1 <= len(over.args) <= 2:
                start, end = over.args[0] if len(over.args) == 2 else None, over.args[-1]
                if start is not None and isinstance(end, ast.BinOp) and written(end.left) == written(start):
                    start, end = None, end.right  # range(start_epoch, start_epoch + 200)
                value, first = script.literal(end), script.literal(start)
                if not isinstance(value, int):
                    return None
                return value - first if isinstance(first, int) else value
    return None


def _epoch_counts(script: Script) -> set[str]:
    """N of every `for epoch in range(N)`, as it is written."""
    found: set[str] = set()
    for _, loop in script.loops:
        over = loop.node.iter if loop.role == "epoch" and isinstance(loop.node, ast.For) else None
        while isinstance(over, ast.Call) and over.args and written(over.func) not in ("range", "trange"):
            over = over.args[0]
        if isinstance(over, ast.Call) and len(over.args) == 1 and isinstance(over.args[0], (ast.Name, ast.Attribute)):
            found.add(written(over.args[0]))
    return found


def _unit(script: Script, node: ast.expr, depth: int = 4) -> str:
    """ "epochs", "batches", "batches per epoch", "number", "1", or "" if it is not certain."""
    if depth == 0:
        return ""
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return "1" if node.value == 1 else "number"
    if isinstance(node, (ast.List, ast.Tuple)):
        units = {_unit(script, one, depth - 1) for one in node.elts}
        return units.pop() if len(units) == 1 else ""
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
        return _unit(script, ast.Attribute(node.value, node.slice.value), depth)
    if isinstance(node, (ast.Name, ast.Attribute)):
        known = script.resolved(node)
        name = node.id if isinstance(node, ast.Name) else node.attr
        if known is not None and known is not node:
            unit = _unit(script, known, depth - 1)
            if unit not in ("", "number", "1"):
                return unit
            if unit != "" and not (_EPOCHS.match(name) or _BATCHES.match(name)):
                return unit
        if _PROCESSES.search(name):
            return "number"
        if written(node) in _epoch_counts(script):
            return "epochs"
        if _PER_EPOCH.search(name):
            return "batches per epoch"
        if _EPOCHS.match(name):
            return "epochs"
        return "batches" if _BATCHES.match(name) or name == "estimated_stepping_batches" else ""
    if isinstance(node, ast.Call):
        name = written(node.func)
        if name == "len" and len(node.args) == 1 and _LOADER.search(written(node.args[0])):
            return "batches per epoch"
        if name in ("int", "round", "math.ceil", "math.floor", "max", "float") and node.args:
            units = {_unit(script, one, depth - 1) for one in node.args} - {"number", "1"}
            return units.pop() if len(units) == 1 else ""
        return ""
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Mult, ast.Div, ast.FloorDiv, ast.Sub, ast.Add)):
        left, right = _unit(script, node.left, depth), _unit(script, node.right, depth)
        plain = ("number", "1")
        if isinstance(node.op, ast.Mult):
            if {left, right} == {"epochs", "batches per epoch"}:
                return "batches"
            return left if right in plain else right if left in plain else ""
        if left in plain and right in plain:
            return "number"
        if isinstance(node.op, (ast.Div, ast.FloorDiv)):
            if right in plain or (left in ("batches", "batches per epoch") and "accum" in written(node.right)):
                return left
            return ""
        return left if right == left or right in plain else ""
    return ""


_HEAD = "\nimport torch\nfrom torch.optim import lr_scheduler\n"
_BATCH = """
for epoch in range(epochs):
    for x, y in train_loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
        scheduler.step()
"""
_EPOCH = _BATCH.replace("        scheduler.step()", "    scheduler.step()")
BAD: tuple[str, ...] = (
    CHECK.example_bad.replace("T_max=num_epochs)", "T_max=num_epochs)  # expect"),
    _HEAD
    + "scheduler = lr_scheduler.OneCycleLR(optimizer, 0.1, epochs=epochs, steps_per_epoch=len(train_loader))  # expect"
    + _EPOCH,
    _HEAD + "scheduler = lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=args.epochs)  # expect" + _BATCH,
    _HEAD
    + "total = len(train_loader) * epochs\nscheduler = lr_scheduler.CosineAnnealingLR(optimizer, total)  # expect"
    + _EPOCH,
    _HEAD
    + """
class Trainer:
    def __init__(self, model, args):
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        self.scheduler = lr_scheduler.MultiStepLR(  # expect
            self.optimizer, milestones=[int(args.epochs * 0.5), int(args.epochs * 0.75)])
    def train_epoch(self):
        for x, y in self.train_loader:
            self.optimizer.zero_grad()
            self.loss(x, y).backward()
            self.optimizer.step()
            self.scheduler.step()
    def fit(self):
        for epoch in range(self.args.epochs):
            self.train_epoch()
""",
    """
from transformers import get_linear_schedule_with_warmup
scheduler = get_linear_schedule_with_warmup(optimizer, 0, num_training_steps=num_epochs)  # expect
for epoch in range(num_epochs):
    for i, batch in enumerate(train_dataloader):
        loss = model(**batch).loss
        accelerator.backward(loss)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
""",
    _HEAD
    + "scheduler = lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)  # expect"
    + _BATCH.replace("epochs", "20"),
)
_LIGHTNING = """
import torch
import lightning.pytorch as pl
class Model(pl.LightningModule):
    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters())
        total = self.trainer.estimated_stepping_batches
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=total)
        return [optimizer], [scheduler]
"""
BAD = (
    *BAD,
    _LIGHTNING.replace("=total)", "=total)  # expect"),
    _LIGHTNING.replace("OneCycleLR(optimizer, 0.1, total_steps=total)",
                       "CosineAnnealingLR(optimizer, T_max=self.trainer.max_epochs)  # expect")
    .replace("[scheduler]", "[{'scheduler': scheduler, 'interval': 'step'}]"),
)  # fmt: skip
GOOD = (
    _LIGHTNING.replace("[scheduler]", "[{'scheduler': scheduler, 'interval': 'step'}]"),
    CHECK.example_good,
    _HEAD
    + "scheduler = lr_scheduler.OneCycleLR(optimizer, 0.1, epochs=epochs, steps_per_epoch=len(train_loader))"
    + _BATCH,
    _HEAD + "scheduler = lr_scheduler.OneCycleLR(optimizer, 0.1, epochs=epochs, steps_per_epoch=1)" + _EPOCH,
    _HEAD + "scheduler = lr_scheduler.CosineAnnealingLR(optimizer, T_max=len(train_loader))" + _BATCH,
    _HEAD + "scheduler = lr_scheduler.StepLR(optimizer, 30)" + _BATCH,
    _HEAD + "scheduler = lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)" + _EPOCH.replace("epochs", "20"),
    _HEAD
    + "scheduler = lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)"
    + _BATCH.replace(
        "        scheduler.step()", "        if i == len(train_loader) - 1:\n            scheduler.step()"
    ),
)
