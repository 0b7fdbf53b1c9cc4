"""An optimizer that is built before the model gets new parameters: it keeps updating the old ones."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Event, Root, Script, Thing
from stepwell.lint.analysis.relations import may_touch
from stepwell.lint.analysis.syntax import written
from stepwell.lint.analysis.uses import enclosing

CHECK = Check(
    code="SW603",
    name="optimizer-before-model-change",
    severity="error",
    certainty="certain",
    looks_for="a part of a model is replaced or added after the optimizer over its parameters was built",
    why="the optimizer holds the old parameters: the new ones are never updated",
    instead="build the optimizer after the last change of the model",
    silent_when="the optimizer is built again or gets the new parameters by add_param_group, or the new part has none",
    example_bad="import torch\noptimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
    "model.fc = torch.nn.Linear(512, 10)\nfor x, y in loader:\n    optimizer.zero_grad()\n"
    "    loss_fn(model(x), y).backward()\n    optimizer.step()",
    example_good="import torch\nmodel.fc = torch.nn.Linear(512, 10)\n"
    "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\nfor x, y in loader:\n    optimizer.zero_grad()\n"
    "    loss_fn(model(x), y).backward()\n    optimizer.step()",
    reference="https://docs.pytorch.org/docs/stable/optim.html#constructing-it",
)
FIX = ""
_LOADS = re.compile(r"torch\.load$|from_pretrained$|(load|build|create|get|make|init)_?\w*_?(model|net|network)$", re.I)
_WRAPS = re.compile(r"Parallel|EMA|Average|Wrapper|FSDP|Compiled", re.I)
_WITHOUT = ("ReLU", "Dropout", "Identity", "Pool", "Softmax", "LogSoftmax", "Sigmoid", "Tanh", "GELU", "Flatten",
            "Upsample", "ELU", "Pad", "Unfold", "Fold", "Shuffle", "SiLU", "Mish", "Hardswish", "Softplus")  # fmt: skip


def find(script: Script) -> Iterator[Finding]:
    yield from _in_init(script)
    yield from _in_place_of(script)
    seen: set[int] = set()
    for root in script.roots:
        for index, event in enumerate(root.events):
            optimizer = event.target
            if event.kind != "make" or optimizer is None or optimizer.kind != "optimizer" or not optimizer.of:
                continue
            later = root.events[index + 1 :]
            change = _change(event, later)
            if change is None or id(change.node) in seen:
                continue
            step = next((one for one in later[later.index(change) :] if _uses(one, optimizer)), None)
            if step is None:
                continue
            seen.add(id(change.node))
            yield script.finding(
                CHECK,
                change.node,
                f"{_what(change)} after {optimizer.name or 'the optimizer'} of line {event.line} was built "
                "over its parameters",
                [(event.node, "this optimizer holds the parameters of before"), (step.node, "and is stepped here")],
            )


def _in_place_of(script: Script) -> Iterator[Finding]:
    """Models that are loaded or made anew in place of the one that the optimizer was built over."""
    seen: set[int] = set()
    for root in script.roots:
        for change in root.events:
            if change.kind != "rebind" or id(change.node) in seen or not _is_new(change):
                continue
            for made in root.events[: root.events.index(change)]:
                optimizer = made.target
                if made.kind != "make" or optimizer is None or optimizer.kind != "optimizer":
                    continue
                if change.target is None or not any(one.is_same(change.target) for one in optimizer.of):
                    continue
                step = _trained_by(script, root, made, change)
                if step is not None:
                    seen.add(id(change.node))
                    yield script.finding(
                        CHECK,
                        change.node,
                        f"{written(change.node)} becomes another model after {optimizer.name or 'the optimizer'} of "
                        f"line {made.line} was built over the parameters of the first",
                        [(made.node, "this optimizer holds the parameters of the first model"), (step.node, "and is "
                         "stepped here")],
                    )  # fmt: skip
                    break


def _is_new(change: Event) -> bool:
    name = written(change.call.func) if change.call is not None else ""
    sure = isinstance(change.value, Thing) and change.value.sure and change.value.kind == "model"
    return bool(_LOADS.search(name)) or (sure and name.rsplit(".", 1)[-1][:1].isupper() and not _WRAPS.search(name))


def _trained_by(script: Script, root: Root, made: Event, change: Event) -> Event | None:
    """The step of the optimizer after the change, where the optimizer is not built again."""
    optimizer = made.target
    assert optimizer is not None
    later = root.events[root.events.index(change) + 1 :]
    around = change.loops[len(made.loops)] if len(change.loops) > len(made.loops) else None
    if around is not None and len(change.branches) == len(made.branches):  # then the next round
        later = later + [one for one in around.events() if one.order < change.order]
    elif any(
        getattr(one, "name", "") == "__init__"
        for call in (change.node, *change.frames)
        for one in enclosing(script, call)
    ):
        later = later + [one for one in script.of_kind("step", "make") if one not in root.events]
    for one in later:
        other = one.target
        if other is None or other.kind != "optimizer":
            continue
        if one.kind == "make" and (other.name == optimizer.name or _replaces(other, optimizer)):
            return None
    own = isinstance(change.node, ast.Name)  # a name of one call, which its caller does not see
    for one in later:
        if one.kind != "step" or one.target is None or (own and one.frames[: len(change.frames)] != change.frames):
            continue
        if one.target.is_same(optimizer) or _is_own(one.target, optimizer):
            return one
    return None


def _is_own(one: Thing, optimizer: Thing) -> bool:
    return optimizer.name.startswith("self.") and one.name == optimizer.name


def _in_init(script: Script) -> Iterator[Finding]:
    """A module that builds its optimizer in __init__ and adds parts after that."""
    for optimizer in script.made("optimizer"):
        call = optimizer.made
        given = written(call.args[0]) if call is not None and call.args else ""
        statement = script.statement(call) if call is not None else None
        if call is None or statement is None or given != "self.parameters()" or not isinstance(statement, ast.Assign):
            continue
        function = script.parents.get(id(statement))
        if not isinstance(function, ast.FunctionDef) or function.name != "__init__":
            continue
        for one in function.body[function.body.index(statement) + 1 :]:
            if not isinstance(one, ast.Assign) or not isinstance(one.value, ast.Call):
                continue
            name = script.full_name(one.value.func)
            plain = name.startswith("torch.nn.") and name.rsplit(".", 1)[-1][:1].isupper() and name.count(".") == 2
            if (
                plain
                and not any(word in name for word in (*_WITHOUT, "Loss"))
                and written(one.targets[0]).startswith("self.")
            ):
                yield script.finding(
                    CHECK,
                    one,
                    f"{written(one.targets[0])} is made after the optimizer of line {call.lineno} was built over "
                    "self.parameters()",
                    [(call, "this optimizer holds the parameters of before")],
                )


def _uses(event: Event, optimizer: Thing) -> bool:
    """Whether an optimizer is stepped, or handed to what trains with it."""
    if event.kind == "step":
        return event.target is not None and event.target.is_same(optimizer)
    return may_touch(event, optimizer) and any(word in event.name.lower() for word in ("train", "fit"))


def _change(made: Event, later: list[Event]) -> Event | None:
    """The change of a model after which its optimizer is not built again."""
    optimizer = made.target
    assert optimizer is not None
    found: Event | None = None
    for event in later:
        other = event.target if event.kind == "make" else None
        if other is not None and other.kind == "optimizer" and _replaces(other, optimizer):
            return None
        if event.kind == "other" and event.name == "add_param_group" and event.is_on(optimizer):
            return None
        if found is None and event.kind in ("step", "backward") and event.is_on(optimizer):
            return None
        if found is None and _changes(event, optimizer) and _surely(made, event):
            found = event
        elif found is not None and may_touch(event, optimizer) and event.kind == "unknown" and "group" in event.name:
            return None
    return found


def _replaces(other: Thing, optimizer: Thing) -> bool:
    return other.name == optimizer.name or any(a.is_same(b) for a in other.of for b in optimizer.of)


def _surely(made: Event, change: Event) -> bool:
    """Whether the change comes whenever the optimizer was built, and in the same round."""
    return change.branches[: len(made.branches)] == made.branches and change.loops == made.loops


def _changes(event: Event, optimizer: Thing) -> bool:
    if event.kind == "replace" and event.target is not None:
        value = event.value
        if not isinstance(value, Thing) or value.kind != "model" or not value.sure or value.made is None:
            return False
        if event.target.is_same(value) or any(value.is_same(one) for one in optimizer.of):
            return False
        if any(word in value.cls.rsplit(".", 1)[-1] for word in _WITHOUT) or value.cls.endswith(".Module"):
            return False
        if "copy" in value.arguments:
            return False
        return any(event.target.is_same(one) or event.target.is_inside(one) for one in optimizer.of)
    call = event.call
    if call is None:
        return False
    name = written(call.func).rsplit(".", 1)[-1]
    if name == "get_peft_model" and event.kind == "unknown":
        return any(one.is_same(model) for one in event.targets for model in optimizer.of)
    if name == "resize_token_embeddings" and event.target is not None:
        return any(event.target.is_same(model) for model in optimizer.of)
    return False


def _what(change: Event) -> str:
    node = change.node
    if isinstance(node, (ast.Attribute, ast.Subscript)):
        return f"{written(node)} is replaced"
    return f"{written(change.call.func)}() makes new parameters" if change.call is not None else "the model is changed"


_HEAD = "\nimport torch\nimport torch.nn as nn\nfrom torchvision import models\n"
_LOOP = """
for x, y in loader:
    optimizer.zero_grad()
    loss_fn(model(x), y).backward()
    optimizer.step()
"""
BAD: tuple[str, ...] = (
    CHECK.example_bad.replace("Linear(512, 10)", "Linear(512, 10)  # expect"),
    _HEAD
    + """
def main():
    model = models.resnet18(pretrained=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.fc = nn.Linear(model.fc.in_features, 10)  # expect
    for epoch in range(3):
        for x, y in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
""",
    _HEAD
    + "model = models.vgg16()\noptimizer = torch.optim.Adam(model.parameters())\n"
    + "model.classifier[6] = nn.Linear(4096, 10)  # expect\n"
    + _LOOP,
    _HEAD
    + """
class Trainer:
    def __init__(self, model):
        self.model = model
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.model.head = nn.Sequential(nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 2))  # expect
    def fit(self):
        for x, y in self.loader:
            self.optimizer.zero_grad()
            self.loss(self.model(x), y).backward()
            self.optimizer.step()
Trainer(models.resnet18()).fit()
""",
    """
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("gpt2")
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
model = get_peft_model(model, config)  # expect
for batch in loader:
    model(**batch).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
""",
    _HEAD
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(3, 4)
        self.optimizer = torch.optim.Adam(self.parameters())
        self.head = nn.Linear(4, 2)  # expect
        self.criterion = nn.MSELoss()
""",
    _HEAD
    + """
def main():
    model = build_model(args)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    model.head = nn.Linear(3, 4)  # expect
    train(model, optimizer, loader)
""",
    _HEAD
    + """
class Trainer:
    def __init__(self, args):
        self.model = build_model(args)
        self.optimizer = torch.optim.Adam(self.model.parameters())
        if args.resume:
            self.load_model()
    def load_model(self):
        loaded = torch.load("last.pt")
        self.model = build_model(loaded["args"])  # expect
        self.model.load_state_dict(loaded["model"])
    def train(self, loader):
        for x, y in loader:
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(x), y).backward()
            self.optimizer.step()
""",
    """
import torch
from transformers import BertForTokenClassification
def train(model, optimizer, loader, restore_dir=None):
    if restore_dir is not None:
        model = BertForTokenClassification.from_pretrained(restore_dir)  # expect
    for batch in loader:
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
model = BertForTokenClassification.from_pretrained("bert-base-cased")
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)
train(model, optimizer, loader, "last")
""",
)
GOOD = (
    """
import torch
from diffusers import ControlNetModel
def log_validation(model, path, loader):
    model = ControlNetModel.from_pretrained(path)
    model.eval()
    with torch.no_grad():
        for x, y in loader:
            print(loss_fn(model(x), y).item())
model = build_model(args)
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)
for epoch in range(3):
    log_validation(model, "best.pt", val_loader)
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
""",
    CHECK.example_good,
    """
import torch
model = build_model(args)
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)
for epoch in range(3):
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
    torch.save(model, "best.pt")
model = torch.load("best.pt")
evaluate(model)
""",
    """
import torch
model = build_model(args)
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)
if args.resume:
    model = torch.load("best.pt")
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)
for x, y in loader:
    optimizer.zero_grad()
    loss_fn(model(x), y).backward()
    optimizer.step()
""",
    """
import torch
for fold in range(5):
    model = build_model(args)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
    model = torch.load("best.pt")
    evaluate(model)
""",
    _HEAD + "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\nmodel = model.to(device)\n" + _LOOP,
    _HEAD + "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\nmodel.dropout = nn.Dropout(0.5)\n" + _LOOP,
    _HEAD
    + "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\nmodel.fc = nn.Linear(9, 2)\n"
    + "optimizer.add_param_group({'params': model.fc.parameters()})\n"
    + _LOOP,
    _HEAD
    + "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
    + _LOOP
    + "model.fc = nn.Linear(9, 2)\noptimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
    + _LOOP,
    _HEAD + "head = nn.Linear(9, 2)\noptimizer = torch.optim.SGD(list(model.parameters()) + list(head.parameters()), "
    "lr=0.1)\n" + "model.fc = head\n" + _LOOP,
)
