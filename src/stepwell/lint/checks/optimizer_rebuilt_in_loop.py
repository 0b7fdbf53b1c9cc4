"""An optimizer that is built again in every round of the training loop, and so forgets its state."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Event, Loop, Script, Thing, argument
from stepwell.lint.analysis.relations import is_within, may_touch
from stepwell.lint.analysis.syntax import written

CHECK = Check(
    code="SW208",
    name="optimizer-rebuilt-in-loop",
    severity="error",
    certainty="certain",
    looks_for="an optimizer with a state (Adam, SGD with momentum) is built in every epoch or for every batch, over a "
    "model that stays the same",
    why="momentum, second moments and step counts start from zero each time: Adam's bias correction makes the first "
    "steps of each round the largest",
    instead="build the optimizer once, before the loop",
    silent_when="the loop is one over runs, folds, seeds, tasks or clients, the model is rebuilt or reloaded in it, "
    "the optimizer is built under a condition, or its arguments change from round to round",
    example_bad="import torch\nfor epoch in range(epochs):\n    optimizer = "
    "torch.optim.Adam(model.parameters(), lr=1e-3)\n"
    "    for x, y in loader:\n        optimizer.zero_grad()\n        loss_fn(model(x), y).backward()\n"
    "        optimizer.step()",
    example_good="import torch\noptimizer = torch.optim.Adam(model.parameters(), lr=1e-3)\nfor epoch in "
    "range(epochs):\n"
    "    for x, y in loader:\n        optimizer.zero_grad()\n        loss_fn(model(x), y).backward()\n"
    "        optimizer.step()",
    reference="https://arxiv.org/abs/1412.6980",
)
FIX = ""
_BUILDS = re.compile(r"_*(get|build|make|create|init|setup|configure)_(the_)?optim\w*$", re.I)
_MODEL = re.compile(r"(^|[._])(model|net|network|params|parameters)(\W|_|$)", re.I)
_RENEWS = re.compile(r"reset|init|load|restore|unfreeze|prune|grow", re.I)
_STATEFUL = frozenset(
    ["Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta", "RMSprop", "Lion", "Adafactor"]
)


def find(script: Script) -> Iterator[Finding]:
    yield from _by_a_function(script)
    for places in script.places("make"):
        if all(_is_rebuilt(script, event) for event in places):
            event = places[0]
            loop = event.loops[-1]
            assert event.target is not None
            step = _step(event, loop)
            assert step is not None
            yield script.finding(
                CHECK,
                event.node,
                f"{event.target.name or 'the optimizer'} is built again in every round of the loop of line "
                f"{getattr(loop.node, 'lineno', 0)}, over the same {event.target.of[0].name}",
                [(loop.node, "each round starts with an empty state"), (step.node, "the optimizer is stepped here")],
            )


def _by_a_function(script: Script) -> Iterator[Finding]:
    """`optimizer = get_optimizer(model, ...)` for every batch, where the function is of another file."""
    local = {node.name for node in script.each(ast.FunctionDef)}
    for _, loop in script.loops:
        body = getattr(loop.node, "body", []) if loop.role == "batch" and not loop.implicit else []
        for one in body:
            call = one.value if isinstance(one, ast.Assign) and len(one.targets) == 1 else None
            if (
                not isinstance(call, ast.Call)
                or written(call.func) in local
                or not _BUILDS.match(written(call.func).rsplit(".", 1)[-1])
            ):
                continue
            if not any(
                _MODEL.search(written(given)) for given in (*call.args, *(word.value for word in call.keywords))
            ):
                continue
            name = written(one.targets[0])
            step = next((event for event in loop.events() if event.kind == "step" and event.node is not None
                         and written(getattr(event.node, "func", event.node)) == f"{name}.step"), None)  # fmt: skip
            made = any(isinstance(inner, ast.Assign) and inner is not one and name == written(target)
                       for inner in ast.walk(loop.node) for target in getattr(inner, "targets", ()))  # fmt: skip
            if step is not None and not made:
                yield script.finding(
                    CHECK,
                    call,
                    f"{name} is built again for every batch of the loop of line {getattr(loop.node, 'lineno', 0)}",
                    [
                        (loop.node, "each round starts with an empty state"),
                        (step.node, "the optimizer is stepped here"),
                    ],
                    instead="build the optimizer before the loop, and set the rate in optimizer.param_groups",
                )


def _is_rebuilt(script: Script, event: Event) -> bool:
    optimizer = event.target
    if optimizer is None or optimizer.kind != "optimizer" or not event.loops or not _has_state(script, optimizer):
        return False
    loop = event.loops[-1]
    step = _step(event, loop)
    once = step is not None and step.loops == event.loops  # built for a single step
    paced = loop.role in ("epoch", "batch", "step") or "episode" in loop.target or (loop.role == "" and once)
    if not paced or loop.once or loop.implicit or "copy" in optimizer.arguments:
        return False
    if any(is_inside(branch.node, loop.node, script) or branch.test is None for branch, _ in event.branches):
        return False
    if not optimizer.of or any(one.kind != "model" or _is_new(one, loop) for one in optimizer.of):
        return False
    return not _depends(script, event, loop) and step is not None and not _resets(loop, optimizer)


def is_inside(node: ast.AST, outer: ast.AST, script: Script) -> bool:
    """Whether a branch stands in the loop, or in a function called there."""
    one: ast.AST | None = node
    while one is not None:
        if one is outer:
            return True
        one = script.parents.get(id(one))
    one = script.parents.get(id(node))
    while one is not None and not isinstance(one, (ast.FunctionDef, ast.Module)):
        one = script.parents.get(id(one))
    around = script.parents.get(id(outer))
    while around is not None and not isinstance(around, (ast.FunctionDef, ast.Module)):
        around = script.parents.get(id(around))
    return one is not around


def _has_state(script: Script, optimizer: Thing) -> bool:
    name = optimizer.cls.rsplit(".", 1)[-1]
    if optimizer.local is not None or optimizer.made is None or not optimizer.sure:
        return False
    if name == "SGD":
        given = argument(optimizer.made, 2, "momentum")
        momentum = script.literal(given)
        return momentum > 0 if isinstance(momentum, (int, float)) else given is not None
    return name in _STATEFUL


def _is_new(model: Thing, loop: Loop) -> bool:
    """Whether a model may be another one in every round."""
    top = model
    while top.parent is not None:
        top = top.parent
    for event in loop.events():
        if (
            event.kind in ("make", "load_state")
            and event.target is not None
            and (event.target.is_same(model) or event.target.is_same(top))
        ):
            return True
        if event.kind in ("freeze", "unfreeze", "replace"):
            return True
        touched = may_touch(event, model) or (event.target is not None and event.target.is_same(model))
        if touched and _RENEWS.search(event.name):
            return True
    return False


def _depends(script: Script, event: Event, loop: Loop) -> bool:
    """Whether what the optimizer is built of is set in the loop."""
    call = event.call
    assert call is not None
    bound: set[str] = set()
    outer: list[ast.AST] = [loop.node]
    if event.function is not None and event.function is not loop.function:
        outer.append(event.function)
    for node in outer:
        for inner in ast.walk(node):
            if isinstance(inner, (ast.Name, ast.Attribute)) and isinstance(inner.ctx, ast.Store):
                bound.add(written(inner))
    rate = (
        argument(call, 1, "lr") if loop.role in ("epoch", "batch", "step") else None
    )  # a new rate needs no new optimizer
    given = [one for one in (*call.args, *(word.value for word in call.keywords)) if one is not rate]
    asked = {written(one) for value in given for one in ast.walk(value) if isinstance(one, (ast.Name, ast.Attribute))}
    return bool(asked & bound)


def _step(event: Event, loop: Loop) -> Event | None:
    for one in loop.events():
        if one.kind == "step" and one.target is not None and one.target.is_same(event.target) and is_within(one, loop):
            return one
    return None


def _resets(loop: Loop, optimizer: Thing) -> bool:
    """Whether the state is carried over: loaded, or the optimizer is handed on."""
    return any(event.kind == "load_state" and event.is_on(optimizer) for event in loop.events())


_HEAD = "\nimport torch\nfrom torch import nn, optim\n"
BAD = (
    """
from helpers import get_optimizer, update_lr
for epoch in range(epochs):
    for x, y in train_loader:
        rate = update_lr(epoch)
        optimizer = get_optimizer(model, rate, 0.9)  # expect
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
""",
    CHECK.example_bad.replace("lr=1e-3)", "lr=1e-3)  # expect"),
    _HEAD
    + """
def train_epoch(model, loader):
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)  # expect
    for x, y in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
def main():
    model = nn.Sequential(nn.Linear(9, 9), nn.ReLU())
    for epoch in range(10):
        train_epoch(model, loader)
""",
    _HEAD
    + """
class Trainer:
    def train_step(self, x, y):
        optimizer = optim.AdamW(self.model.parameters(), lr=1e-4)  # expect
        optimizer.zero_grad()
        self.loss(self.model(x), y).backward()
        optimizer.step()
    def fit(self):
        for epoch in range(10):
            for x, y in self.train_loader:
                self.train_step(x, y)
""",
    _HEAD
    + """
model = Net()
for epoch in range(num_epochs):
    model.train()
    for x, y in train_loader:
        opt = optim.RMSprop(model.parameters(), lr=1e-3)  # expect
        loss = criterion(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
""",
    _HEAD
    + """
for epoch in range(100):
    optimizer_G = optim.Adam(G.parameters(), lr=2e-4, betas=(0.5, 0.999))  # expect
    for real in dataloader:
        fake = G(torch.randn(8, 9))
        optimizer_G.zero_grad()
        (-D(fake)).mean().backward()
        optimizer_G.step()
""",
)
GOOD = (
    CHECK.example_good,
    _HEAD
    + """
for fold in range(5):
    model = Net()
    optimizer = optim.Adam(model.parameters())
    for epoch in range(3):
        for x, y in loader:
            optimizer.zero_grad()
            loss_fn(model(x), y).backward()
            optimizer.step()
""",
    _HEAD
    + """
for epoch in range(30):
    if epoch == 10:
        optimizer = optim.Adam(model.parameters(), lr=1e-4)
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
""",
    _HEAD
    + """
for x, y in loader:
    learner = copy.deepcopy(model)
    inner = optim.Adam(learner.parameters())
    for _ in range(5):
        inner.zero_grad()
        loss_fn(learner(x), y).backward()
        inner.step()
""",
    _HEAD
    + """
for x in loader:
    delta = torch.zeros_like(x, requires_grad=True)
    attack = optim.Adam([delta], lr=0.01)
    for _ in range(10):
        attack.zero_grad()
        loss_fn(model(x + delta)).backward()
        attack.step()
""",
    _HEAD
    + """
for epoch in range(10):
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
""",
    _HEAD
    + """
for train_set in datasets:
    model.reset_parameters()
    optimizer = optim.Adam(model.parameters())
    for x, y in train_set:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
""",
    _HEAD
    + """
for client in clients:
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    for x, y in client.loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
""",
)
