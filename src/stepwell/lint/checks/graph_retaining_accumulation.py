"""A running sum of losses that keeps the graph of every batch alive."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from stepwell.findings import Check, Finding, Fix
from stepwell.lint import edits
from stepwell.lint.analysis import Event, Script, Tensor
from stepwell.lint.analysis.syntax import written

CHECK = Check(
    code="SW110",
    name="graph-retaining-accumulation",
    severity="warning",
    certainty="certain",
    looks_for="a loss with its graph is added to a sum or a list that outlives the iteration, and is never "
    "back-propagated from there",
    why="the sum holds the graph of every batch: memory grows from step to step until it runs out",
    instead="add loss.item(), or loss.detach() to avoid a synchronization with the GPU",
    silent_when="the sum is back-propagated, the loss was detached or is a number, or no graph is recorded",
    example_bad="for x, y in loader:\n    optimizer.zero_grad()\n    loss = loss_fn(model(x), y)\n    loss.backward()\n"
    "    optimizer.step()\n    total += loss",
    example_good="for x, y in loader:\n    optimizer.zero_grad()\n    loss = loss_fn(model(x), y)\n    "
    "loss.backward()\n"
    "    optimizer.step()\n    total += loss.item()",
    reference="https://docs.pytorch.org/docs/stable/notes/faq.html",
)
_DETACHES = re.compile(r"detach\w*\(|\bitem\(|to_float|as_float|reduce_\w*loss|gather\w*\(", re.I)
FIX = "safe"


def find(script: Script) -> Iterator[Finding]:
    used = {id(part) for event in script.of_kind("backward", "grad") if isinstance(event.value, Tensor)
            for part in event.value.history()}  # fmt: skip
    used |= {id(part) for event in script.of_kind("unknown")
             for one in event.extra.get("tensors", ()) for part in one.history()
             if "backward" in event.name or "step" in event.name}  # fmt: skip
    backwards = [event for event in script.of_kind("backward") if isinstance(event.value, Tensor)]
    for places in script.places("accumulate"):
        if all(_keeps_graph(event, used, backwards) for event in places):
            event = places[0]
            back = _backward(event, backwards)
            yield script.finding(
                CHECK,
                event.node,
                f"{event.name} keeps the graph of {_words(event)} of every iteration",
                [(back.node, "the loss is back-propagated here")] if back is not None else (),
                fix=_fix(script, event),
            )


def _keeps_graph(event: Event, used: set[int], backwards: list[Event]) -> bool:
    value, result = event.value, event.result
    if isinstance(event.node, ast.AugAssign) and _DETACHES.search(written(event.node.value)):
        return False
    if not isinstance(value, Tensor) or result is None or value.attached is False or event.no_grad is not False:
        return False
    if id(result) in used or not event.loops or result.attached is False:
        return False
    born = event.extra.get("born", ())
    if len(born) >= len(event.loops):  # it begins again in every round
        return False
    emptied = [one for one in event.loops[-1].events() if one.kind == "reset" and one.name == event.name]
    if emptied and ("list" in event.extra or any(len(one.branches) <= len(event.branches) for one in emptied)):
        return False  # in every round; a list may be a memory that is learned from when it is full
    return not _is_cut_on_the_way(event) and _backward(event, backwards) is not None


def _is_cut_on_the_way(event: Event) -> bool:
    """Whether some branch of the round adds a detached value: `loss = loss.detach()` where it went backward before."""
    if not isinstance(event.node, ast.Call) or not event.node.args or not isinstance(event.node.args[0], ast.Name):
        return False
    name = event.node.args[0].id
    return any(
        isinstance(node, ast.Assign)
        and any(isinstance(target, ast.Name) and target.id == name for target in node.targets)
        and re.match(rf"{name}\.(detach\(|item\(|data\b)", written(node.value))
        for node in ast.walk(event.loops[-1].node)
    )


def _backward(event: Event, backwards: list[Event]) -> Event | None:
    """The backward pass of what is added, in the same loop."""
    assert isinstance(event.value, Tensor)
    history = {id(part) for part in event.value.history()}
    parts = ("loss",) if "list" in event.extra else ("loss", "call", "mean", "sum", "+", "*")
    for back in backwards:
        assert isinstance(back.value, Tensor)
        own = id(back.value) in history or _is_moved(event.value, back.value)
        if "list" in event.extra and event.value.by == "call":
            own = False  # an object that a call made of the loss
        if not own and any(id(part) in history and part.by in parts for part in back.value.history()):
            own = (
                event.value.by != "model"
                and event.value.attached is True
                and ("list" not in event.extra or event.value.by != "call")
            )
        if own and back.loops and back.loops[-1] in event.loops:
            return back
    return None


def _is_moved(value: Tensor, loss: Tensor) -> bool:
    """Whether a value is the loss itself, on another device or in another type."""
    name = getattr(getattr(value.node, "func", None), "attr", "")
    return (
        value.by == "loss"
        and name in ("cpu", "to", "cuda", "float", "double")
        and any(one.by == "loss" and one.parts == value.parts for one in loss.history())
    )


def _words(event: Event) -> str:
    node = event.node
    added = (
        node.value
        if isinstance(node, ast.AugAssign)
        else node.args[0]
        if isinstance(node, ast.Call) and node.args
        else None
    )
    return written(added) if added is not None else "the loss"


def _fix(script: Script, event: Event) -> Fix | None:
    node = event.node
    added = (
        node.value
        if isinstance(node, ast.AugAssign)
        else node.args[0]
        if isinstance(node, ast.Call) and node.args
        else None
    )
    if not isinstance(added, (ast.Name, ast.Attribute)):
        return None
    return Fix(
        f"add {written(added)}.item()",
        (edits.replace(script, added, f"{edits.text(script, added)}.item()"),),
        safe=True,
    )


BAD = (
    """
total = 0
for step, (x, y) in enumerate(loader):
    optimizer.zero_grad()
    loss = criterion(model(x), y)
    loss.backward()
    optimizer.step()
    total += loss  # expect
    if step % 100 == 0:
        print(total / 100)
        total = 0
""",
    CHECK.example_bad.replace("total += loss", "total += loss  # expect").replace("for x", "total = 0\nfor x"),
    """
def train(model, loader, optimizer, criterion, scaler):
    total = torch.tensor(0.0)
    for x, y in loader:
        loss = criterion(model(x), y)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        total += loss.cpu()  # expect
    return total.item() / len(loader)
""",
    """
losses = []
for x, y in loader:
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.step()
    losses.append(loss)  # expect
""",
    """
def train(model, loader, optimizer):
    running_loss = 0.0
    for x, y in loader:
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        running_loss = running_loss + loss * x.size(0)  # expect
    return running_loss / len(loader)
""",
    """
class AverageMeter:
    def __init__(self):
        self.sum = 0
    def update(self, val, n=1):
        self.sum += val * n  # expect
meter = AverageMeter()
for x, y in loader:
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.step()
    meter.update(loss, x.size(0))
""",
    """
history = {"loss": []}
for epoch in range(3):
    total = 0
    for batch in loader:
        loss = model(**batch).loss
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        total += loss  # expect
""",
)
GOOD = (
    CHECK.example_good.replace("for x", "total = 0\nfor x"),
    """
total = 0
for x, y in loader:
    loss = loss_fn(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    loss = loss.item()
    total += loss
""",
    """
for x, y in loader:
    loss = 0
    for head in heads:
        loss += loss_fn(head(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
""",
    """
total = 0
for x, y in loader:
    loss = loss_fn(model(x), y)
    total += loss.detach()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
""",
    """
total = 0
for x, y in loader:
    with torch.no_grad():
        total += loss_fn(model(x), y)
""",
    """
losses = []
for x, y in loader:
    losses.append(loss_fn(model(x), y))
torch.stack(losses).mean().backward()
""",
    """
total = 0
for x, y in loader:
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.step()
    total += float(loss)
    correct += (model(x).argmax(1) == y).sum()
""",
)
