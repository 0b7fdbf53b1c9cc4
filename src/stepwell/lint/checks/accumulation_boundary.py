"""Accumulation whose first step comes after one batch: the index of the first batch is 0."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from stepwell.findings import Check, Finding, Fix
from stepwell.lint import edits
from stepwell.lint.analysis import Script
from stepwell.lint.analysis.accumulation import INVERTED, Accumulation, accumulations
from stepwell.lint.analysis.syntax import written

CHECK = Check(
    code="SW112",
    name="accumulation-boundary",
    severity="warning",
    certainty="certain",
    looks_for="a step is made where index % n == 0, and the index counts from 0, after the backward pass of that "
    "round; or where index % n is not 0",
    why="the first step comes after a single batch, each later one after n, and the rest at the end is longer by n - "
    "1 batches: the first update is made of one noisy batch, and updates do not fall on the ends of groups",
    instead="test (index + 1) % n == 0",
    silent_when="the counter begins at 1 or is kept by hand, or the step comes before the backward pass of its round",
    example_bad="for i, (x, y) in enumerate(loader):\n    loss = criterion(model(x), y) / 4\n    loss.backward()\n"
    "    if i % 4 == 0:\n        optimizer.step()\n        optimizer.zero_grad()",
    example_good="for i, (x, y) in enumerate(loader):\n    loss = criterion(model(x), y) / 4\n    loss.backward()\n"
    "    if (i + 1) % 4 == 0:\n        optimizer.step()\n        optimizer.zero_grad()",
    reference="https://docs.pytorch.org/docs/stable/notes/amp_examples.html#gradient-accumulation",
)
FIX = "unsafe"


def find(script: Script) -> Iterator[Finding]:
    for places in accumulations(script):
        one = places[0]
        if one.rest == INVERTED:
            text = written(one.test)
            yield script.finding(
                CHECK,
                one.test,
                f"{text} is not 0 in every round but each n-th: the step is made where gradients should be collected",
                [(one.step.node, "the step"), (one.backward.node, "gradients are added up here")],
                instead=f"test ({written(one.counter)} + 1) % {written(one.every)} == 0",
            )
            continue
        if all(_is_early(each) for each in places):
            counter, every = written(one.counter), written(one.every)
            yield script.finding(
                CHECK,
                one.test,
                f"{counter} counts from 0, so that the first step comes after one batch, and not after {every}",
                [(one.step.node, "the step"), (one.backward.node, "gradients are added up here")],
                instead=f"test ({counter} + 1) % {every} == 0",
                fix=Fix(f"test ({counter} + 1) % {every}", (edits.replace(script, one.counter, f"({counter} + 1)"),)),
            )


def _is_early(one: Accumulation) -> bool:
    if isinstance(one.every, ast.Constant) and one.every.value == 1:
        return False
    test = one.branch.node.test if isinstance(one.branch.node, ast.If) else None
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):  # i > 0 and i % n == 0
        return False
    return one.rest == "0" and one.is_counted_from_zero


BAD = (
    CHECK.example_bad.replace("== 0:", "== 0:  # expect"),
    """
def train(model, loader, optimizer, criterion, accumulation_steps):
    for step, batch in enumerate(tqdm(loader)):
        loss = criterion(model(batch.x), batch.y) / accumulation_steps
        loss.backward()
        if step % accumulation_steps == 0:  # expect
            optimizer.step()
            optimizer.zero_grad()
""",
    """
class Trainer:
    def fit(self):
        for epoch in range(self.epochs):
            for i, batch in enumerate(self.loader):
                loss = self.model(**batch).loss / self.accum
                self.scaler.scale(loss).backward()
                if not i % self.accum:  # expect
                    self.scaler.step(self.optimizer)
                    self.scaler.update()
                    self.optimizer.zero_grad()
""",
    """
for epoch in range(opt.epochs):
    for batch_i, (imgs, targets) in enumerate(dataloader):
        batches_done = len(dataloader) * epoch + batch_i
        loss, outputs = model(imgs, targets)
        loss.backward()
        if batches_done % opt.gradient_accumulations:  # expect
            optimizer.step()
            optimizer.zero_grad()
""",
    """
for step in range(1000):
    x, y = next(batches)
    loss = loss_fn(model(x), y) / 8
    loss.backward()
    if step % 8 == 0 or step == 999:  # expect
        optimizer.step()
        optimizer.zero_grad()
""",
    """
import lightning as L
class Model(L.LightningModule):
    def training_step(self, batch, batch_idx):
        opt = self.optimizers()
        loss = self.loss(batch) / 4
        self.manual_backward(loss)
        if batch_idx % 4 == 0:  # expect
            opt.step()
            opt.zero_grad()
""",
)
GOOD = (
    CHECK.example_good,
    """
for i, (x, y) in enumerate(loader, 1):
    (criterion(model(x), y) / 4).backward()
    if i % 4 == 0:
        optimizer.step()
        optimizer.zero_grad()
""",
    """
for i, (x, y) in enumerate(loader):
    if i % 4 == 0:
        optimizer.step()
        optimizer.zero_grad()
    (criterion(model(x), y) / 4).backward()
""",
    """
count = 0
for x, y in loader:
    (criterion(model(x), y) / 4).backward()
    count += 1
    if count % 4 == 0:
        optimizer.step()
        optimizer.zero_grad()
""",
    """
for i, real in enumerate(loader):
    optimizer_D.zero_grad()
    d_loss = D(real).mean() - D(G(z)).mean()
    d_loss.backward()
    optimizer_D.step()
    if i % n_critic == 0:
        optimizer_G.zero_grad()
        g_loss = -D(G(z)).mean()
        g_loss.backward()
        optimizer_G.step()
""",
    """
for i, (x, y) in enumerate(loader):
    optimizer.zero_grad()
    loss = criterion(model(x), y)
    loss.backward()
    optimizer.step()
    if i % 100 == 0:
        print(loss.item())
""",
)
