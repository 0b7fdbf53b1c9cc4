"""Accumulation that never steps for the batches after the last full group."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Script
from stepwell.lint.analysis.accumulation import Accumulation, accumulations
from stepwell.lint.analysis.order import happens, may_step, outermost
from stepwell.lint.analysis.relations import is_within, may_reset
from stepwell.lint.analysis.syntax import written

CHECK = Check(
    code="SW113",
    name="accumulation-tail",
    severity="warning",
    certainty="likely",
    looks_for="a step is made for every n-th batch only, and nothing steps for the batches that are left at the "
    "end of an epoch",
    why="where n does not divide the number of batches, the gradients of the last ones are lost, or leak into the "
    "first step of the next epoch",
    instead="step for the last batch, too: `if (i + 1) % n == 0 or i + 1 == len(loader)`",
    silent_when="the condition names the last batch, a step follows the loop, or the counter continues over epochs",
    example_bad="for epoch in range(epochs):\n    for i, (x, y) in enumerate(loader):\n"
    "        (criterion(model(x), y) / 4).backward()\n"
    "        if (i + 1) % 4 == 0:\n            optimizer.step()\n            optimizer.zero_grad()",
    example_good="for epoch in range(epochs):\n    for i, (x, y) in enumerate(loader):\n"
    "        (criterion(model(x), y) / 4).backward()\n"
    "        if (i + 1) % 4 == 0 or i + 1 == len(loader):\n            optimizer.step()\n"
    "            optimizer.zero_grad()",
    reference="https://docs.pytorch.org/docs/stable/notes/amp_examples.html#gradient-accumulation",
)
FIX = ""
_CUT = re.compile(r"len\(\w+\)\s*[/-]|//|islice|drop_last|max_steps|%\s*len")


def find(script: Script) -> Iterator[Finding]:
    for places in accumulations(script):
        one = places[0]
        if all(_has_tail(script, each) for each in places):
            every = written(one.every)
            leaks = not any(
                may_reset(event, one.step.target) and not is_within(event, one.loop)
                for event in happens(outermost(script, one.step))
            )
            yield script.finding(
                CHECK,
                one.branch.node,
                f"a step is made for every {every} batches, and none for those that are left at the end of the loop "
                f"of line {getattr(one.loop.node, 'lineno', 0)}",
                [(one.backward.node, "their gradients " + ("leak into the next epoch" if leaks else "are lost"))],
            )


def _has_tail(script: Script, one: Accumulation) -> bool:
    if not one.alone or one.loop.implicit or not isinstance(one.loop.node, ast.For):
        return False
    if not isinstance(one.counter, (ast.Name, ast.BinOp)) or one.loop.role != "batch":
        return False
    names = {node.id for node in ast.walk(one.counter) if isinstance(node, ast.Name)}
    targets = {node.id for node in ast.walk(one.loop.node.target) if isinstance(node, ast.Name)}
    if not names or not names <= targets or _CUT.search(written(one.loop.node.iter)):
        return False
    for event in happens(outermost(script, one.step)):
        if event.kind == "step" and event.is_on(one.step.target) and event is not one.step:
            return False
        if may_step(event, one.step.target):
            return False
    return True


BAD = (
    CHECK.example_bad.replace("== 0:", "== 0:  # expect"),
    """
def train(model, loader, optimizer, criterion, accumulation_steps):
    optimizer.zero_grad()
    for step, batch in enumerate(loader):
        loss = criterion(model(batch.x), batch.y) / accumulation_steps
        loss.backward()
        if (step + 1) % accumulation_steps == 0:  # expect
            optimizer.step()
            optimizer.zero_grad()
""",
    """
class Trainer:
    def fit(self):
        for epoch in range(self.epochs):
            for i, batch in enumerate(self.loader, 1):
                loss = self.model(**batch).loss / self.accum
                self.scaler.scale(loss).backward()
                if i % self.accum == 0:  # expect
                    self.scaler.step(self.optimizer)
                    self.scaler.update()
                    self.optimizer.zero_grad()
""",
    """
from accelerate import Accelerator
accelerator = Accelerator()
model, optimizer, train_loader = accelerator.prepare(model, optimizer, train_loader)
for step, batch in enumerate(train_loader):
    loss = model(**batch).loss / 4
    accelerator.backward(loss)
    if step % 4 == 3:  # expect
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
""",
    """
for epoch in range(3):
    optimizer.zero_grad()
    for idx, (x, y) in enumerate(tqdm(train_loader)):
        (loss_fn(model(x), y) / n).backward()
        if (idx + 1) % n == 0:  # expect
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
""",
)
GOOD = (
    CHECK.example_good,
    """
for epoch in range(3):
    for i, (x, y) in enumerate(loader):
        (criterion(model(x), y) / 4).backward()
        if (i + 1) % 4 == 0:
            optimizer.step()
            optimizer.zero_grad()
    optimizer.step()
    optimizer.zero_grad()
""",
    """
for epoch in range(3):
    for x, y in loader:
        (criterion(model(x), y) / 4).backward()
        count += 1
        if count % 4 == 0:
            optimizer.step()
            optimizer.zero_grad()
""",
    """
for step in range(100000):
    x, y = next(batches)
    (criterion(model(x), y) / 4).backward()
    if (step + 1) % 4 == 0:
        optimizer.step()
        optimizer.zero_grad()
""",
    """
for i, (x, y) in enumerate(loader):
    last = i + 1 == len(loader)
    (criterion(model(x), y) / 4).backward()
    if (i + 1) % 4 == 0 or last:
        optimizer.step()
        optimizer.zero_grad()
""",
    """
for i, (x, y) in enumerate(loader):
    optimizer.zero_grad()
    criterion(model(x), y).backward()
    optimizer.step()
    if (i + 1) % 4 == 0:
        scheduler.step()
""",
)
