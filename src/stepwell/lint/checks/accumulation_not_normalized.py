"""Accumulated gradients that are the sum over n batches, where the loss is a mean."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Event, Loop, Script, Tensor
from stepwell.lint.analysis.accumulation import accumulations
from stepwell.lint.analysis.order import history, may_concern, models_of, uses_gradients
from stepwell.lint.analysis.syntax import written

CHECK = Check(
    code="SW111",
    name="accumulation-not-normalized",
    severity="warning",
    certainty="certain",
    looks_for="optimizer.step() is called for every n-th batch, and the loss of each batch is a mean that is not "
    "divided by n",
    why="the gradient is n times that of one large batch: SGD makes steps that are n times too long, and clipping "
    "and weight decay get another meaning",
    instead="divide the loss by n before backward()",
    silent_when="the loss is a sum, it is divided by anything, gradients or the learning rate are divided, or a "
    "framework divides",
    example_bad="for i, (x, y) in enumerate(loader):\n    loss = criterion(model(x), y)\n    loss.backward()\n"
    "    if (i + 1) % 4 == 0:\n        optimizer.step()\n        optimizer.zero_grad()",
    example_good="for i, (x, y) in enumerate(loader):\n    loss = criterion(model(x), y) / 4\n    loss.backward()\n"
    "    if (i + 1) % 4 == 0:\n        optimizer.step()\n        optimizer.zero_grad()",
    reference="https://docs.pytorch.org/docs/stable/notes/amp_examples.html#gradient-accumulation",
)
FIX = ""
_MICRO = re.compile(r"accum|micro|grad_?steps|n_acc|acc_steps", re.I)
_SCALES = re.compile(r"scale|normali[sz]e|average|reduce|(div|mul)\w*_grad|grad\w*_(div|mul)", re.I)


def find(script: Script) -> Iterator[Finding]:
    if uses_gradients(script):
        return
    for places in accumulations(script):
        if all(_is_sum(script, one.backward, one.loop, one.every) for one in places):
            one = places[0]
            yield _finding(script, one.backward, one.step, one.every)
    for back, step, every in _inner(script):
        if _is_sum(script, back, back.loops[-1], every):
            yield _finding(script, back, step, every)


def _finding(script: Script, back: Event, step: Event, every: ast.expr) -> Finding:
    count = written(every)
    return script.finding(
        CHECK,
        back.node,
        f"the gradients of {count} batches are added up before the step of line {step.line}, and the loss is not "
        f"divided by {count}",
        [(step.node, f"one step for {count} batches")],
    )


def _inner(script: Script) -> Iterator[tuple[Event, Event, ast.expr]]:
    """(backward, step, n) where an inner loop `for _ in range(n)` goes backward n times for one step after it."""
    for places in script.places("backward"):
        back = places[0]
        loop = back.loops[-1] if back.loops else None
        if (
            loop is None
            or len(back.loops) < 2
            or not isinstance(loop.node, ast.For)
            or len(back.branches) > len(_around(back, loop))
        ):
            continue
        call = loop.node.iter
        if (
            not isinstance(call, ast.Call)
            or written(call.func) not in ("range", "trange", "tqdm.trange")
            or len(call.args) != 1
        ):
            continue
        if not _MICRO.search(f"{written(call.args[0])} {loop.target}"):
            continue
        inside = list(loop.events())
        if any(event.kind in ("zero", "step") for event in inside) or not any(
            event.kind == "forward" for event in inside
        ):
            continue
        step = next(
            (
                event
                for event in back.loops[-2].events()
                if event.kind == "step"
                and event.order > back.order
                and event.loops == back.loops[:-1]
                and may_concern(event.target, models_of(back))
            ),
            None,
        )
        if step is not None:
            yield back, step, call.args[0]


def _around(back: Event, loop: Loop) -> set[int]:
    """The branches that stand around a loop."""
    inside = {id(branch) for event in loop.events() for branch, _ in event.branches}
    shared = [{id(branch) for branch, _ in event.branches} for event in loop.events()]
    return inside.intersection(*shared)


def _is_sum(script: Script, back: Event, loop: Loop, every: ast.expr) -> bool:
    loss, by = back.value, back.by
    if not isinstance(loss, Tensor) or not _is_mean(loss, back):
        return False
    if isinstance(every, ast.Constant) and every.value == 1:
        return False
    if by is not None and by.kind == "accelerator" and (by.made is None or by.made.keywords or by.made.args):
        names = {keyword.arg or "" for keyword in by.made.keywords} if by.made is not None else {""}
        if by.made is None or by.made.args or any(not name or "accum" in name or "plugin" in name for name in names):
            return False
    if any(event.kind == "unknown" and _SCALES.search(event.name) for event in loop.events()):
        return False
    return not _divides(script, written(every))


def _is_mean(loss: Tensor, back: Event) -> bool:
    """Whether a loss is the mean of a criterion, and nothing has divided it."""
    base = loss
    while base.by == "scaled" and base.parts:
        base = base.parts[0]
    mean = base.by in ("model", "[]") and "loss" in written(back.node)  # logits, loss = model(x, y)
    for part in history(loss):
        if part.by in ("/", "div", "sum", "div_", "true_divide", "mul") or (part.by == "call" and part is not loss):
            return False
        if part.by == "*" and not _is_weight(part.node):
            return False
        if part.by == "loss":
            made = part.criterion.made if part.criterion is not None else None
            words = written(made) if made is not None else ""
            if ("reduction" in words and "mean" not in words) or "size_average" in words:
                return False
            mean = True
    return mean


def _is_weight(node: ast.AST | None) -> bool:
    """Whether a factor is the weight of one loss among others, and not 1 / n."""
    text = written(node) if node is not None else ""
    return "/" not in text and not any(
        word in text.lower() for word in ("accum", "scale", "norm", "inv", "frac", "size")
    )


def _divides(script: Script, every: str) -> bool:
    """Whether anything in the script is divided by n."""
    last = every.rsplit(".", 1)[-1]
    for node in script.nodes:
        right: ast.expr | None = None
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and "len(" not in written(node.left):
            right = node.right
        elif isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Div):
            right = node.value
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("div", "div_")
            and node.args
        ):
            right = node.args[0]
        if right is not None:
            text = written(right)
            if text == every or (not last.isdigit() and last in text) or "accum" in text:
                return True
    return False


BAD = (
    """
while True:
    for micro_step in range(gradient_accumulation_steps):
        with ctx:
            logits, loss = model(x, y)
        x, y = get_batch("train")
        scaler.scale(loss).backward()  # expect
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
""",
    CHECK.example_bad.replace("loss.backward()", "loss.backward()  # expect"),
    """
import torch
criterion = torch.nn.CrossEntropyLoss()
def train(model, loader, optimizer, accum_steps=8):
    optimizer.zero_grad()
    for step, (x, y) in enumerate(loader):
        loss = criterion(model(x), y)
        loss.backward()  # expect
        if (step + 1) % accum_steps == 0 or step + 1 == len(loader):
            optimizer.step()
            optimizer.zero_grad()
""",
    """
class Trainer:
    def fit(self):
        for epoch in range(self.epochs):
            for i, batch in enumerate(self.loader):
                with torch.autocast("cuda"):
                    loss = self.model(**batch).loss
                self.scaler.scale(loss).backward()  # expect
                if (i + 1) % self.args.gradient_accumulation_steps == 0:
                    self.scaler.step(self.optimizer)
                    self.scaler.update()
                    self.optimizer.zero_grad()
""",
    """
from accelerate import Accelerator
import torch.nn.functional as F
accelerator = Accelerator()
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
for step, (x, y) in enumerate(loader):
    loss = F.cross_entropy(model(x), y)
    accelerator.backward(loss)  # expect
    if step % 4 == 3:
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
""",
    """
import lightning as L
import torch.nn.functional as F
class Model(L.LightningModule):
    def training_step(self, batch, batch_idx):
        opt = self.optimizers()
        x, y = batch
        loss = F.mse_loss(self(x), y)
        self.manual_backward(loss)  # expect
        if (batch_idx + 1) % 4 == 0:
            opt.step()
            opt.zero_grad()
""",
)
GOOD = (
    CHECK.example_good,
    """
import torch
criterion = torch.nn.CrossEntropyLoss(reduction="sum")
for i, (x, y) in enumerate(loader):
    loss = criterion(model(x), y)
    loss.backward()
    if (i + 1) % 4 == 0:
        optimizer.step()
        optimizer.zero_grad()
""",
    """
for i, (x, y) in enumerate(loader):
    loss = criterion(model(x), y)
    if args.accumulation > 1:
        loss = loss / args.accumulation
    loss.backward()
    if (i + 1) % args.accumulation == 0:
        optimizer.step()
        optimizer.zero_grad()
""",
    """
from accelerate import Accelerator
accelerator = Accelerator(gradient_accumulation_steps=4)
for i, (x, y) in enumerate(loader):
    loss = criterion(model(x), y)
    accelerator.backward(loss)
    if (i + 1) % 4 == 0:
        optimizer.step()
        optimizer.zero_grad()
""",
    """
for step in range(10000):
    if step % 4 == 0:
        loss = criterion(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
""",
    """
for i, (x, y) in enumerate(loader):
    loss = criterion(model(x), y)
    loss.backward()
    if (i + 1) % 4 == 0:
        for p in model.parameters():
            p.grad /= 4
        optimizer.step()
        optimizer.zero_grad()
""",
)
