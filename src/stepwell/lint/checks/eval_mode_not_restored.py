"""A model that is put into eval mode inside the training cycle and trains on in it."""

from __future__ import annotations

from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Event, Loop, Script, Thing
from stepwell.lint.analysis.relations import may_touch, updates

CHECK = Check(
    code="SW402",
    name="eval-mode-not-restored",
    severity="error",
    certainty="certain",
    looks_for="model.eval() is called inside the training loop, and the next backward pass comes without model.train()",
    why="from the first evaluation on the model trains without dropout and with frozen statistics of batch norm",
    instead="call model.train() at the head of the loop that trains",
    silent_when="evaluation comes only after training, train() is called anywhere on the way back, or the model "
    "is another",
    example_bad="model.train()\nfor epoch in range(epochs):\n    for x, y in loader:\n        optimizer.zero_grad()\n"
    "        loss_fn(model(x), y).backward()\n        optimizer.step()\n    model.eval()\n    validate(model)",
    example_good="for epoch in range(epochs):\n    model.train()\n    for x, y in loader:\n        "
    "optimizer.zero_grad()\n"
    "        loss_fn(model(x), y).backward()\n        optimizer.step()\n    model.eval()\n    validate(model)",
    reference="https://docs.pytorch.org/docs/stable/notes/autograd.html#evaluation-mode-nn-module-eval",
)
FIX = ""


def find(script: Script) -> Iterator[Finding]:
    for places in script.places("eval"):
        # A function that also evaluates after training is at fault for the caller that trains on.
        event, back = next(((event, back) for event in places if (back := _trains_on(event))), (places[0], None))
        if event.target is not None and back is not None:
            yield script.finding(
                CHECK,
                event.node,
                f"{event.target.name} is put into eval mode in the training loop, and nothing calls train() before the "
                f"backward pass of line {back.line}",
                [(back.node, "from the second round on, this trains in eval mode")],
            )
        elif places[0].target is not None and (back := _loaded_and_trained(script, places)) is not None:
            yield script.finding(
                CHECK,
                event.node,
                f"{places[0].target.name} is put into eval mode after its weights were loaded, and nothing calls "
                f"train() before the backward pass of line {back.line}",
                [(back.node, "a resumed run trains in eval mode")],
            )


def _trains_on(event: Event) -> Event | None:
    """The backward pass that a model in eval mode comes to."""
    model = event.target
    if model is None or model.kind not in ("model", "engine") or not event.extra.get("known", True):
        return None
    for loop in reversed(event.loops):
        if loop.once or loop.role == "run":
            return None
        if _restores(loop, model):
            return None
        back = _backward(loop, model, event)
        if back is not None:
            return back
    return None


def _loaded_and_trained(script: Script, places: list[Event]) -> Event | None:
    """The backward pass of a training that begins after eval() of a model whose weights a checkpoint has given: a run
    that resumes, where the mode of a finished model was copied along."""
    found = []
    for event in places:
        model, root = event.target, script.root_of(event)
        if model is None or model.kind != "model" or event.loops or not model.sure:
            return None
        before = root.events[: root.events.index(event)]
        if not any(one.kind == "load_state" and one.is_on(model) and one.branches == event.branches for one in before):
            return None
        after = root.events[len(before) + 1 :]
        if any(
            (one.kind == "train" and one.target is not None and _may_hold(one.target, model)) or may_touch(one, model)
            for one in after
        ):
            return None
        loops = {id(one.loops[0]): one.loops[0] for one in after if one.kind == "backward" and one.loops}
        found.append(next((back for loop in loops.values() if (back := _trained(loop, model)) is not None), None))
    return found[0] if found and all(one is not None for one in found) else None


def _trained(loop: Loop, model: Thing) -> Event | None:
    """A backward pass of a loop that trains this model by a step."""
    steps = [one for one in loop.events() if one.kind == "step" and updates(one.target, model)]
    for event in loop.events() if steps else ():
        models = getattr(event.value, "models", ())
        if event.kind == "backward" and any(one.is_same(model) for one in models) and not _is_guarded(loop, model):
            return event
    return None


def _restores(loop: Loop, model: Thing) -> bool:
    """Whether anything in a loop may put the model back: its own train(), that of what holds it, or a call
    elsewhere."""
    for event in loop.events():
        if event.kind == "train" and event.target is not None and _may_hold(event.target, model):
            return True
        if event.kind == "eval" and not event.extra.get("known", True):
            return True
        if event.kind == "unknown" and "train" in event.name.lower().rsplit(".", 1)[-1]:
            return True
        if event.kind == "make" and event.target is not None and event.target.is_same(model):
            return True
    return False


def _may_hold(one: Thing, model: Thing) -> bool:
    return (
        one.is_same(model)
        or model.is_inside(one)
        or one.is_inside(model)
        or one.kind == "instance"
        or not (one.sure and model.sure)
    )


def _backward(loop: Loop, model: Thing, after: Event) -> Event | None:
    """A backward pass in the loop through this model."""
    around = _common([event.branches for event in loop.events()])
    inside = after.branches[around:]
    for event in loop.events():
        if event.kind != "backward" or (inside and event.branches[around : len(after.branches)] == inside):
            continue
        models = getattr(event.value, "models", ())
        if any(one.is_same(model) or one.is_inside(model) for one in models) and not _is_guarded(loop, model):
            return event
    return None


def _is_guarded(loop: Loop, model: Thing) -> bool:
    """Whether all that a model computes in a loop is without a graph: a teacher stays in eval mode."""
    forwards = [one for one in loop.events() if one.kind == "forward" and one.target is not None
                and (one.target.is_same(model) or one.target.is_inside(model))]  # fmt: skip
    return bool(forwards) and all(one.no_grad is True for one in forwards)


def _common(branches: list[tuple[object, ...]]) -> int:
    """How many branches are around all events of a loop."""
    number = 0
    while branches and all(len(one) > number and one[number] == branches[0][number] for one in branches):
        number += 1
    return number


BAD = (
    """
import torch
net = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.Dropout())
optimizer = torch.optim.Adam(net.parameters())
if resume:
    saved = torch.load(path)
    net.load_state_dict(saved["net"])
    optimizer.load_state_dict(saved["optimizer"])
    net.eval()  # expect
for epoch in range(10):
    for x, y in loader:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
""",
    CHECK.example_bad.replace("model.eval()", "model.eval()  # expect"),
    """
def evaluate(model, loader):
    model.eval()  # expect
    with torch.no_grad():
        for x, y in loader:
            model(x)
for epoch in range(3):
    for x, y in train_loader:
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
    evaluate(model, val_loader)
evaluate(model, test_loader)
""",
    """
if args.train:
    for epoch in range(3):
        for x, y in train_loader:
            optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            optimizer.step()
        model.eval()  # expect
        print(evaluate(model))
""",
    """
class Trainer:
    def fit(self):
        self.model.train()
        for epoch in range(self.epochs):
            for x, y in self.train_loader:
                self.optimizer.zero_grad()
                loss = self.criterion(self.model(x), y)
                loss.backward()
                self.optimizer.step()
            self.validate()
    def validate(self):
        self.model.eval()  # expect
        with torch.no_grad():
            for x, y in self.val_loader:
                self.model(x)
""",
    """
for step, (x, y) in enumerate(loader):
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.step()
    if step % 100 == 0:
        model.eval()  # expect
        with torch.no_grad():
            print(loss_fn(model(x_val), y_val).item())
""",
    """
while step < max_steps:
    for batch in loader:
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()  # expect
    score = evaluate(batch)
""",
)
GOOD = (
    """
import torch
net = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.Dropout())
optimizer = torch.optim.Adam(net.parameters())
if resume:
    saved = torch.load(path)
    net.load_state_dict(saved["net"])
    optimizer.load_state_dict(saved["optimizer"])
    net.eval()
    print(score(net))
for epoch in range(10):
    net.train()
    for x, y in loader:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
""",
    """
import torch
def train(model, loader, optimizer):
    model.student.train()
    model.teacher.eval()
    for x, y in loader:
        optimizer.zero_grad()
        out = model.student(x)
        with torch.no_grad():
            goal = model.teacher(x)
        loss = torch.nn.functional.cross_entropy(out, y) + (out - goal).pow(2).mean()
        loss.backward()
        optimizer.step()
for epoch in range(10):
    train(model, loader, optimizer)
""",
    CHECK.example_good,
    """
for epoch in range(3):
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
model.eval()
""",
    """
for epoch in range(3):
    for phase in ["train", "val"]:
        if phase == "train":
            model.train()
        else:
            model.eval()
        for x, y in loaders[phase]:
            with torch.set_grad_enabled(phase == "train"):
                loss = loss_fn(model(x), y)
                if phase == "train":
                    loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()
""",
    """
teacher.eval()
for x, y in loader:
    with torch.no_grad():
        target = teacher(x)
    loss = loss_fn(student(x), target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
""",
    """
def validate(model):
    model.eval()
    score = 0
    model.train()
    return score
for epoch in range(3):
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
    validate(model)
""",
)
