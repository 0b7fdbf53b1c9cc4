"""Clipping of sums that are not complete yet."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Script
from stepwell.lint.analysis.accumulation import accumulations

CHECK = Check(
    code="SW304",
    name="clip-inside-accumulation",
    severity="warning",
    certainty="certain",
    looks_for="gradients are clipped after every batch, and a step is made for every n-th batch only",
    why="a sum of some batches is clipped again and again: the first batches of a group weigh less than the last, "
    "and the norm of the whole is not what the threshold says",
    instead="clip once, right before the step",
    silent_when="clipping stands in the branch of the step, or the script trains with differential privacy",
    example_bad="for i, (x, y) in enumerate(loader):\n    (criterion(model(x), y) / 4).backward()\n"
    "    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n    if (i + 1) % 4 == 0:\n        optimizer.step()\n"
    "        optimizer.zero_grad()",
    example_good="for i, (x, y) in enumerate(loader):\n    (criterion(model(x), y) / 4).backward()\n"
    "    if (i + 1) % 4 == 0:\n"
    "        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n        optimizer.step()\n"
    "        optimizer.zero_grad()",
    reference="https://docs.pytorch.org/docs/stable/notes/amp_examples.html#gradient-clipping",
)
FIX = ""


def find(script: Script) -> Iterator[Finding]:
    if "opacus" in script.source or "noise_multiplier" in script.source:
        return
    told: set[int] = set()
    for places in accumulations(script):
        one = places[0]
        for clip in one.clips:
            if id(clip.node) not in told and clip.order > one.backward.order:
                told.add(id(clip.node))
                every = ast.unparse(one.every)
                yield script.finding(
                    CHECK,
                    clip.node,
                    f"gradients are clipped after every batch, and the step of line {one.step.line} is made for "
                    f"every {every}",
                    [(one.step.node, "the step"), (one.backward.node, "gradients are added up here")],
                )


BAD = (
    CHECK.example_bad.replace("1.0)", "1.0)  # expect"),
    """
def train(model, loader, optimizer, criterion, accumulation_steps):
    for step, batch in enumerate(loader):
        loss = criterion(model(batch.x), batch.y) / accumulation_steps
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # expect
        if (step + 1) % accumulation_steps == 0 or step == len(loader) - 1:
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
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)  # expect
                if i % self.accum == 0:
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
    accelerator.clip_grad_norm_(model.parameters(), 1.0)  # expect
    if step % 4 == 3:
        optimizer.step()
        optimizer.zero_grad()
""",
    """
for idx, (x, y) in enumerate(train_loader):
    (loss_fn(model(x), y) / n).backward()
    if max_norm > 0:
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)  # expect
    if (idx + 1) % n == 0:
        optimizer.step()
        optimizer.zero_grad()
""",
)
GOOD = (
    CHECK.example_good,
    """
for x, y in loader:
    loss_fn(model(x), y).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
""",
    """
for i, (x, y) in enumerate(loader):
    (criterion(model(x), y) / 4).backward()
    if (i + 1) % 4 == 0:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    if (i + 1) % 4 == 0:
        optimizer.step()
        optimizer.zero_grad()
""",
    """
for i, (x, y) in enumerate(loader):
    optimizer.zero_grad()
    criterion(model(x), y).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    if (i + 1) % 4 == 0:
        scheduler.step()
""",
    """
for i, (x, y) in enumerate(loader):  # differential privacy: noise_multiplier
    (criterion(model(x), y) / 4).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    if (i + 1) % 4 == 0:
        optimizer.step()
        optimizer.zero_grad()
""",
)
