"""retain_graph=True where nothing uses the graph again."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from stepwell.findings import Check, Edit, Finding, Fix
from stepwell.lint.analysis import Event, Script, Tensor
from stepwell.lint.analysis.evaluating import text_of
from stepwell.lint.analysis.flow import graph
from stepwell.lint.analysis.order import is_hidden
from stepwell.lint.analysis.syntax import written

CHECK = Check(
    code="SW107",
    name="needless-retain-graph",
    severity="warning",
    certainty="certain",
    looks_for="backward(retain_graph=True) for a graph that no later backward pass goes through, and that is made in "
    "the same round",
    why="the graph and its buffers stay alive until the next loss replaces them: twice the memory for "
    "activations, for nothing",
    instead="call backward() without retain_graph",
    silent_when="anything is carried from round to round, a second backward pass or autograd.grad may use the "
    "graph, or a part of the graph is not seen",
    example_bad="model = nn.Linear(2, 1)\nfor x, y in loader:\n    optimizer.zero_grad()\n"
    "    loss = F.mse_loss(model(x), y)\n"
    "    loss.backward(retain_graph=True)\n    optimizer.step()",
    example_good="model = nn.Linear(2, 1)\nfor x, y in loader:\n    optimizer.zero_grad()\n"
    "    loss = F.mse_loss(model(x), y)\n"
    "    loss.backward()\n    optimizer.step()",
    reference="https://docs.pytorch.org/docs/stable/generated/torch.Tensor.backward.html",
)
FIX = "unsafe"
_MAY = re.compile(r"backward|step|train|optimi|learn|fit|grad|backprop|update", re.I)
_STATES = re.compile(r"hidden|memory_?[tn]?\b\s*=|carry|lstm|\brnn|\bgru|\bcells?\b|\bh[0-9t]?\s*=|recurrent", re.I)
_LOSS = re.compile(r"loss|cost|acc|metric|log|total|count|step|iter|epoch|best", re.I)


def find(script: Script) -> Iterator[Finding]:
    for places in script.places("backward"):
        event = places[0]
        keyword = _retains(event)
        if keyword is not None and all(_is_needless(script, one) for one in places):
            yield script.finding(
                CHECK,
                event.node,
                "the graph is kept after the last backward pass through it, in the round in which all of it is made",
                [(event.loops[-1].node, "the loop")] if event.loops else [],
                fix=_fix(script, event, keyword),
            )


def _retains(event: Event) -> ast.keyword | None:
    if not isinstance(event.node, ast.Call):
        return None
    return next(
        (
            one
            for one in event.node.keywords
            if one.arg == "retain_graph" and isinstance(one.value, ast.Constant) and one.value.value is True
        ),
        None,
    )


def _is_needless(script: Script, event: Event) -> bool:
    root = script.root_of(event)
    if not event.loops and (not root.uncalled or root.framework or event.function is not root.function):
        return False
    if (
        event.call is None
        or not isinstance(event.value, Tensor)
        or not event.extra.get("known")
        or is_hidden(script, "backward")
    ):
        return False
    if len(event.call.keywords) + len(event.call.args) != 1 and event.by is None:
        return False
    loop = event.loops[-1] if event.loops else None
    around = list(event.loops[0].events()) if event.loops else root.events
    others = [one for one in around if one.kind in ("backward", "grad") and one.node is not event.node]
    if (
        (loop is not None and loop.implicit)
        or any(not _is_of_another_graph(one, event) for one in others)
        or ("autograd" in script.source and "grad(" in script.source.replace("_grad(", ""))
    ):
        return False
    if any(
        one.kind == "unknown"
        and one.order > event.order
        and any(tensor.attached is not False for tensor in one.extra.get("tensors", ()))
        and _MAY.search(one.name.rsplit(".", 1)[-1])
        and not _prints(one)
        for one in (around if loop is None else loop.events())
    ):
        return False
    round_ = event.function if loop is None or event.function is not loop.function else loop.node
    if round_ is None or not _is_made_inside(event.value, round_):
        return False
    if not _keep_nothing(event.value) and _STATES.search(text_of(script, round_)):
        return False
    return not _carried(round_, _names(event.value))


def _is_of_another_graph(other: Event, event: Event) -> bool:
    """Whether a backward pass goes through nothing of this one's graph, or comes before it in the same round."""
    if other.kind != "backward" or not isinstance(other.value, Tensor) or not other.extra.get("known"):
        return False
    if other.loops == event.loops and other.order < event.order:
        return True
    assert isinstance(event.value, Tensor)
    return not {id(one) for one in graph(event.value)} & {id(one) for one in graph(other.value)}


def _prints(event: Event) -> bool:
    return any(
        word in event.name.lower() for word in ("print", "log", "append", "add_scalar", "update", "item", "write")
    )


def _is_made_inside(loss: Tensor, around: ast.AST) -> bool:
    """Whether all of the graph of a loss is made in this round: in the loop, or in the function that it calls."""
    first, last = getattr(around, "lineno", 0), getattr(around, "end_lineno", 0)
    parts = [part for part in loss.history() if part.attached is not False]
    if any(part.node is None or part.by in ("list", "") for part in parts):
        return False
    if any(isinstance(one, ast.Call) and not one.args and not one.keywords and part.models
           for part in parts for one in (part.node,) if part.by in ("model", "call")):  # fmt: skip
        return False  # what a model gives without an input is of a graph that it keeps
    inside = all(first <= getattr(part.node, "lineno", 0) <= last for part in parts)
    return inside and any(model.kind == "model" for part in parts for model in part.models)


def _keep_nothing(loss: Tensor) -> bool:
    """Whether no model of a loss keeps a part of the graph for the next round, as far as their classes are seen."""
    return all(
        _keeps_nothing((model.local is not None and model.local.node) or None, model.cls, model.sure)
        for part in loss.history()
        for model in part.models
        if model.kind == "model"
    )


def _keeps_nothing(node: ast.AST | None, cls: str, sure: bool) -> bool:
    """Whether calls of a model leave nothing of a graph in it."""
    if node is None:
        return sure and cls.startswith("torch.nn.")
    for method in getattr(node, "body", ()):
        if getattr(method, "name", "__init__") != "__init__" and any(
            isinstance(one, ast.Attribute) and isinstance(one.ctx, ast.Store) for one in ast.walk(method)
        ):
            return False
    return True


def _names(loss: Tensor) -> set[str]:
    """The variables that the graph of a loss is computed from."""
    nodes = [part.node for part in loss.history() if part.attached is not False and part.node is not None]
    return {one.id for node in nodes for one in ast.walk(node) if isinstance(one, ast.Name)}


def _carried(node: ast.AST, names: set[str]) -> bool:
    """Whether a round reads a name before it sets it: what the round before has left."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return _is_kept(node)
    if not isinstance(node, (ast.For, ast.While)):
        return True
    set_: set[str] = (
        {one.id for one in ast.walk(node.target) if isinstance(one, ast.Name)} if isinstance(node, ast.For) else set()
    )
    later: set[str] = {one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}
    counted = {
        one.target.id for one in ast.walk(node) if isinstance(one, ast.AugAssign) and isinstance(one.target, ast.Name)
    }
    if _is_kept(node):
        return True
    for statement in node.body:
        if isinstance(statement, ast.AugAssign):
            if not _is_number(statement.value):
                return True
            continue
        inner = list(ast.walk(statement))
        sums = {id(one.target) for one in inner if isinstance(one, ast.AugAssign) and _is_number(one.value)}
        for one in inner:
            asked = names & later - set_ - counted
            read = isinstance(one, ast.Name) and isinstance(one.ctx, ast.Load) and one.id in asked
            if read:
                return True
            if isinstance(one, ast.AugAssign) and id(one.target) not in sums:
                return True
        set_ |= {one.id for one in inner if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}
    return False


def _is_kept(node: ast.AST) -> bool:
    """Whether an attribute is read in a round and set to something that may have a graph."""
    read = {written(one) for one in ast.walk(node) if isinstance(one, ast.Attribute) and isinstance(one.ctx, ast.Load)}
    for one in ast.walk(node):
        if isinstance(one, ast.Assign) and not _is_number(one.value):
            for target in one.targets:
                if isinstance(target, ast.Attribute) and written(target) in read and not _LOSS.search(target.attr):
                    return True
    return False


def _is_number(node: ast.expr) -> bool:
    text = written(node)
    return isinstance(node, ast.Constant) or any(
        word in text for word in (".item()", "len(", ".size(", ".detach()", "float(", ".sum()")
    )


def _fix(script: Script, event: Event, keyword: ast.keyword) -> Fix | None:
    call = event.node
    if (
        not isinstance(call, ast.Call)
        or len(call.args) + len(call.keywords) != 1
        or not isinstance(call.func, ast.Attribute)
    ):
        return None
    start, line = call.func.end_lineno or call.lineno, call.end_lineno or call.lineno
    first = (start, script.column(start, call.func.end_col_offset or 0))
    return Fix("drop retain_graph=True", (Edit(first, (line, script.column(line, call.end_col_offset or 0)), "()"),))


BAD = (
    CHECK.example_bad.replace("graph=True)", "graph=True)  # expect"),
    """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(2, 1)
    def forward(self, x):
        return self.fc(x)
model = Net()
for epoch in range(3):
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward(retain_graph=True)  # expect
        optimizer.step()
        total += loss.item()
""",
    """
import torch
def train(loader):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
    optimizer = torch.optim.Adam(model.parameters())
    for i, (x, y) in enumerate(loader):
        out = model(x)
        loss = ((out - y) ** 2).mean()
        optimizer.zero_grad()
        loss.backward(retain_graph=True)  # expect
        optimizer.step()
        print(i, loss.item())
""",
    """
model = nn.Linear(2, 1)
for step in range(100):
    loss = F.mse_loss(model(x), y)
    scaler.scale(loss).backward(retain_graph=True)  # expect
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
""",
    """
import torch
G = torch.nn.Linear(1, 1)
D = torch.nn.Linear(1, 1)
for x in loader:
    opt.zero_grad()
    fake = G(x)
    loss = torch.nn.functional.softplus(-D(fake)).mean()
    loss.backward(retain_graph=True)  # expect
    opt.step()
""",
)
GOOD = (
    CHECK.example_good,
    """
model = nn.Linear(2, 1)
h = torch.zeros(1, 2)
for x, y in loader:
    h = model(x) + h
    loss = F.mse_loss(h, y)
    loss.backward(retain_graph=True)
    optimizer.step()
""",
    """
model = nn.Linear(2, 1)
features = encoder(x)
for step in range(10):
    loss = F.mse_loss(model(features), y)
    loss.backward(retain_graph=True)
    optimizer.step()
""",
    """
model = nn.Linear(2, 1)
for x, y in loader:
    out = model(x)
    F.mse_loss(out, y).backward(retain_graph=True)
    out.abs().mean().backward()
    optimizer.step()
""",
    """
for x, y in loader:
    loss = elsewhere(model, x, y)
    loss.backward(retain_graph=True)
    optimizer.step()
""",
)
