"""A distributed sampler that gives the same order in every epoch."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from stepwell.findings import Check, Finding, Fix
from stepwell.lint import edits
from stepwell.lint.analysis import Event, Loop, Script, Thing
from stepwell.lint.analysis.syntax import written

CHECK = Check(
    code="SW503",
    name="sampler-without-set-epoch",
    severity="warning",
    certainty="certain",
    looks_for="a DistributedSampler shuffles for a training of several epochs, and nothing calls its set_epoch()",
    why="the order depends on the seed and the epoch only: without set_epoch() every epoch sees the same batches "
    "in the same order",
    instead="call sampler.set_epoch(epoch) at the head of the loop over epochs",
    silent_when="the sampler does not shuffle or is not of the training data, a framework or another file runs the "
    "loop, or there is one epoch",
    example_bad="sampler = DistributedSampler(train_set)\nloader = DataLoader(train_set, sampler=sampler)\n"
    "for epoch in range(epochs):\n    for x, y in loader:\n        train_step(x, y)",
    example_good="sampler = DistributedSampler(train_set)\nloader = DataLoader(train_set, sampler=sampler)\n"
    "for epoch in range(epochs):\n    sampler.set_epoch(epoch)\n    for x, y in loader:\n        train_step(x, y)",
    reference="https://docs.pytorch.org/docs/stable/data.html#torch.utils.data.distributed.DistributedSampler",
)
FIX = "safe"
_OTHER = re.compile(r"(^|[^a-z])(val|valid|validation|test|dev|eval|infer|pred)", re.I)


def find(script: Script) -> Iterator[Finding]:
    if "DistributedSampler" not in script.source or "set_epoch" in script.source:
        return
    for places in script.places("make"):
        event = places[0]
        sampler = event.target
        if sampler is None or sampler.kind != "sampler" or not _shuffles(script, sampler, event):
            continue
        epochs = _epochs(script)
        if epochs is None:
            continue
        yield script.finding(
            CHECK,
            event.node,
            f"{sampler.name or 'the sampler'} shuffles, and nothing calls its set_epoch() in the loop over epochs of "
            f"line {getattr(epochs.node, 'lineno', 0)}",
            [(epochs.node, "every epoch of this loop sees the same order")],
            fix=_fix(script, sampler, event, epochs),
        )


def _shuffles(script: Script, sampler: Thing, made: Event) -> bool:
    """Whether it is for training, and shuffles."""
    shuffle = sampler.argument(3, "shuffle")
    if shuffle is not None and not (isinstance(shuffle, ast.Constant) and shuffle.value is True):
        return False
    if not sampler.cls.startswith("torch.") or any(one.arg is None for one in getattr(sampler.made, "keywords", ())):
        return False
    data = sampler.argument(0, "dataset")
    statement = script.statement(made.node)
    target = written(statement.targets[0]) if isinstance(statement, ast.Assign) else ""
    if _OTHER.search(target) or (data is not None and _OTHER.search(written(data))) or _OTHER.search(sampler.name):
        return False
    return not _OTHER.search(getattr(made.function, "name", ""))


def _epochs(script: Script) -> Loop | None:
    """The loop over epochs that trains over a loader."""
    for _, loop in script.loops:
        if loop.role == "epoch" and not loop.once and isinstance(loop.node, ast.For) and any(
            event.kind in ("backward", "step")
            and any(one.role == "batch" for one in event.loops[event.loops.index(loop) + 1 :])
            for event in loop.events()
            if loop in event.loops
        ):  # fmt: skip
            iterated = written(loop.node.iter)
            return loop if iterated not in ("range(1)", "range(0, 1)") else None
    return None


def _fix(script: Script, sampler: Thing, made: Event, epochs: Loop) -> Fix | None:
    """One line at the head of the loop, where the sampler is known there by its name."""
    node = epochs.node
    if not isinstance(node, ast.For) or not isinstance(node.target, ast.Name) or made.branches:
        return None
    statement = script.statement(made.node)
    if not isinstance(statement, ast.Assign) or statement.value is not made.node or len(statement.targets) != 1:
        return None
    target = statement.targets[0]
    name = written(target)
    same = made.function is epochs.function or made.function is None
    if not (
        (isinstance(target, ast.Name) and same)
        or (name.startswith("self.") and name.count(".") == 1 and _is_method(script, epochs))
    ):
        return None
    if node.body[0].lineno == node.lineno:
        return None
    edit = edits.insert_before(script, node.body[0], f"{name}.set_epoch({node.target.id})")
    return Fix(f"insert {name}.set_epoch({node.target.id})", (edit,), safe=True) if edit is not None else None


def _is_method(script: Script, epochs: Loop) -> bool:
    arguments = getattr(epochs.function, "args", None)
    return arguments is not None and bool(arguments.args) and arguments.args[0].arg == "self"


_STEP = """
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
"""
_HEAD = "import torch\nfrom torch.utils.data import DataLoader, DistributedSampler\n"
BAD = (
    _HEAD
    + CHECK.example_bad.replace("(train_set)\nl", "(train_set)  # expect\nl").replace(
        "\n        train_step(x, y)", _STEP
    ),
    """
import torch
def train(model, loader, optimizer):
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
def main(rank):
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
    sampler = torch.utils.data.distributed.DistributedSampler(dataset, num_replicas=2, rank=rank)  # expect
    loader = torch.utils.data.DataLoader(dataset, batch_size=8, sampler=sampler)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(10):
        train(model, loader, optimizer)
torch.multiprocessing.spawn(main, nprocs=2)
""",
    _HEAD
    + """
class Trainer:
    def __init__(self, model, data):
        self.model = model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        self.sampler = DistributedSampler(data, shuffle=True)  # expect
        self.loader = DataLoader(data, sampler=self.sampler)
    def _run_epoch(self, epoch):
        for x, y in self.loader:
            self.optimizer.zero_grad()
            loss_fn(self.model(x), y).backward()
            self.optimizer.step()
    def train(self, max_epochs):
        for epoch in range(max_epochs):
            self._run_epoch(epoch)
""",
    _HEAD
    + """
if args.distributed:
    train_sampler = DistributedSampler(train_set)  # expect
    val_sampler = DistributedSampler(val_set, shuffle=False)
else:
    train_sampler = None
train_loader = DataLoader(train_set, shuffle=train_sampler is None, sampler=train_sampler)
for epoch in range(args.epochs):
    for i, (x, y) in enumerate(train_loader):
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
""",
    _HEAD
    + """
def get_loader(data):
    return DataLoader(data, sampler=DistributedSampler(data), batch_size=4)  # expect
loader = get_loader(train_set)
for epoch in tqdm(range(100)):
    for batch in loader:
        loss = model(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
""",
)
GOOD = (
    _HEAD + CHECK.example_good.replace("\n        train_step(x, y)", _STEP),
    _HEAD
    + CHECK.example_bad.replace("(train_set)\nl", "(train_set, shuffle=False)\nl").replace(
        "\n        train_step(x, y)", _STEP
    ),
    _HEAD
    + CHECK.example_bad.replace("for epoch in range(epochs):\n    for", "for epoch in range(1):\n    for").replace(
        "\n        train_step(x, y)", _STEP
    ),
    _HEAD
    + """
from lightning import Trainer
loader = DataLoader(train_set, sampler=DistributedSampler(train_set))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
Trainer(max_epochs=3).fit(model, loader)
""",
    _HEAD
    + """
val_loader = DataLoader(val_set, sampler=DistributedSampler(val_set))
for epoch in range(3):
    for x, y in train_loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
""",
)
