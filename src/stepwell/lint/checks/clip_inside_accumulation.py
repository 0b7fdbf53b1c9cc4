"""Clipping of sums that are not complete yet."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Script
from stepwell.lint.analysis.accumulation import accumulations
from stepwell.lint.analysis.syntax import written
from stepwell.lint.analysis.uses import enclosing

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
_MANY = re.compile(r"gradient_accumulation_(steps|plugin)(?!\s*=\s*1\b)")


def find(script: Script) -> Iterator[Finding]:
    if "opacus" in script.source or "noise_multiplier" in script.source:
        return
    told: set[int] = set()
    for places in accumulations(script):
        one = places[0]
        for clip in one.clips:
            if id(clip.node) not in told and clip.order > one.backward.order:
                told.add(id(clip.node))
                every = written(one.every)
                yield script.finding(
                    CHECK,
                    clip.node,
                    f"gradients are clipped after every batch, and the step of line {one.step.line} is made for "
                    f"every {every}",
                    [(one.step.node, "the step"), (one.backward.node, "gradients are added up here")],
                )
    for clips in script.places("clip"):
        around = _accumulates(script, clips[0].node)
        if around is not None and id(clips[0].node) not in told:
            yield script.finding(
                CHECK,
                clips[0].node,
                "gradients are clipped after every batch, and accelerator.accumulate() makes the step for every few",
                [(around, "gradients are added up here")],
                instead="clip under `if accelerator.sync_gradients:`",
            )


def _accumulates(script: Script, clip: ast.AST) -> ast.AST | None:
    """The `with accelerator.accumulate(model):` around clipping that does not ask whether this round makes a step."""
    for node in enclosing(script, clip):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            return None
        if isinstance(node, ast.If) and "sync_gradients" in written(node.test):
            return None
        if isinstance(node, ast.With):
            for item in node.items:
                call = item.context_expr
                if (
                    isinstance(call, ast.Call)
                    and isinstance(call.func, ast.Attribute)
                    and call.func.attr == "accumulate"
                ):
                    return node if _MANY.search(script.source) or "Accelerator(" not in script.source else None
    return None


BAD = (
    """
from accelerate import Accelerator
accelerator = Accelerator(gradient_accumulation_steps=4)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
for x, y in loader:
    with accelerator.accumulate(model):
        loss = loss_fn(model(x), y)
        accelerator.backward(loss)
        if max_norm is not None:
            accelerator.clip_grad_norm_(model.parameters(), max_norm)  # expect
        optimizer.step()
        optimizer.zero_grad()
""",
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
from accelerate import Accelerator
accelerator = Accelerator(gradient_accumulation_steps=4)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
for x, y in loader:
    with accelerator.accumulate(model):
        accelerator.backward(loss_fn(model(x), y))
        if accelerator.sync_gradients:
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
""",
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
