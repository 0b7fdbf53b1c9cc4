"""A validation with dropout and batch norm in training mode."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Class, Script, Thing
from stepwell.lint.analysis.evaluating import NAMED, Evaluation, evaluations, text_of
from stepwell.lint.analysis.relations import may_touch
from stepwell.lint.analysis.syntax import nodes_of, written

CHECK = Check(
    code="SW404",
    name="eval-missing",
    severity="error",
    certainty="certain",
    looks_for="a validation loop runs a model that has dropout or batch norm (or that train() was called on), and "
    "nothing puts it into eval mode; or a function that evaluates calls train()",
    why="dropout still drops and batch norm uses (and updates) the statistics of the validation batch: the score is "
    "noisy, depends on the batch size, and leaks validation data into the model",
    instead="call model.eval() before the loop, and model.train() before training continues",
    silent_when="eval() may be called anywhere on this model, the layers of the model are not seen, dropout at "
    "test time is wanted, or the model returns losses in training mode only, as the detectors of torchvision do",
    example_bad="model = torchvision.models.resnet18()\nwith torch.no_grad():\n    for x, y in val_loader:\n"
    "        correct += (model(x).argmax(1) == y).sum()",
    example_good="model = torchvision.models.resnet18()\nmodel.eval()\nwith torch.no_grad():\n    for x, y in "
    "val_loader:\n"
    "        correct += (model(x).argmax(1) == y).sum()",
    reference="https://docs.pytorch.org/docs/stable/notes/autograd.html#evaluation-mode-nn-module-eval",
)
FIX = ""
_LAYERS = re.compile(r"^(Alpha|Feature)?Dropout[123]?d?$|^(Sync)?BatchNorm([123]d)?$|^FeatureAlphaDropout$|^InPlaceABN")
_WANTED = re.compile(r"monte.?carlo|mc_?drop|mcdrop|uncertain|bayes|update_bn|bn_update|recalib|calibrat|ensembl", re.I)
_SCORES = re.compile(r"_*(eval|evaluate|valid|validate|test)(_(one_)?(epoch|model|net|loop|step))?$", re.I)
_MODES = re.compile(r"eval|infer|mode|predict|freeze|test|valid", re.I)


def find(script: Script) -> Iterator[Finding]:
    seen: set[int] = set()
    for places in evaluations(script):
        one = places[0]
        if _asks_for_losses(script, one):
            continue
        if id(one.loop.node) not in seen and all(_is_wrong(script, place) for place in places):
            seen.add(id(one.loop.node))
            assert one.mode is not None
            yield script.finding(
                CHECK,
                one.mode.node,
                f"{one.model.name} is put into training mode by the function that evaluates it",
                [(one.forward.node, "this forward pass evaluates in training mode")],
                instead="call eval() here, and train() at the head of the loop that trains",
            )
        if id(one.loop.node) in seen or not all(_is_missing(script, place) for place in places):
            continue
        seen.add(id(one.loop.node))
        layer = _layer(one.model)
        yield script.finding(
            CHECK,
            one.forward.node,
            f"{one.model.name} {f'has {layer[0]} and ' if layer else ''}is evaluated in training mode: nothing calls "
            "its eval()",
            [(layer[1], "this layer acts differently in eval mode")]
            if layer and layer[1] is not None
            else [(one.mode.node, "train() is called here")]
            if one.mode is not None
            else (),
        )


def _asks_for_losses(script: Script, one: Evaluation) -> bool:
    """Whether the model is a detector, which is given targets and returns a dictionary of losses in training mode."""
    call = one.forward.call or one.forward.node
    given = [*call.args, *(word.value for word in call.keywords)] if isinstance(call, ast.Call) else []
    statement = script.statement(one.forward.node)
    name = written(statement.targets[0]) if isinstance(statement, ast.Assign) else ""
    return len(given) > 1 and ("models.detection" in one.model.cls or bool(re.search(r"loss_?dict|losses", name, re.I)))


def _is_missing(script: Script, one: Evaluation) -> bool:
    if one.root.framework or not (one.named or (one.forward.no_grad is True and _scores(script, one))):
        return False
    if one.mode is not None and one.mode.kind == "eval":
        return False
    if one.forward.no_grad is None or _WANTED.search(script.source):
        return False
    if _layer(one.model) is None and not _is_left_in_training(script, one):
        return False
    if one.model.cls.endswith("from_pretrained") and not any(
        event.target is not None and event.target.is_same(one.model) for event in script.of_kind("train")
    ):
        return False  # it comes in eval mode
    return not _may_be_put(script, one)


def _is_left_in_training(script: Script, one: Evaluation) -> bool:
    """Whether the layers of the model are not seen, and its train() says that it has some with a mode."""
    if one.mode is None or one.mode.kind != "train" or one.model.local is not None or not one.named or one.aside:
        return False
    return not one.model.cls.startswith("torch.nn.") and script.complete


def _is_wrong(script: Script, one: Evaluation) -> bool:
    """Whether a function that is called an evaluation calls train() where it means eval()."""
    mode, function = one.mode, one.forward.function
    if mode is None or mode.kind != "train" or mode.function is not function or one.aside:
        return False
    if function is None:  # at the end of a script: nothing trains after this train()
        trains = any(event.kind == "backward" and event.order > mode.order for event in one.root.events)
        return one.named and one.forward.no_grad is True and not trains and not one.root.framework
    if one.root.framework or _WANTED.search(script.source):
        return False
    undone = any(event.kind == "eval" and event.function is function and event.order < mode.order
                 for event in one.root.events)  # fmt: skip
    name = getattr(function, "name", "")
    later = any(event.kind == "eval" and event.function is function and event.order > mode.order
                for event in one.root.events)  # fmt: skip
    if one.forward.no_grad is not True and not undone and (later or not _SCORES.match(name)):
        return False
    return bool(NAMED.search(name)) and mode.order < one.forward.order


def _scores(script: Script, one: Evaluation) -> bool:
    return bool(re.search(r"argmax|correct|accurac|metric|\.max\(", text_of(script, one.loop.node)))


def _may_be_put(script: Script, one: Evaluation) -> bool:
    """Whether anything in the file may put the model, or what holds it, into eval mode."""
    followed: set[int] = set()
    for event in script.events:
        if event.kind in ("eval", "train"):
            followed.add(id(event.node))
            if event.kind == "eval" or not event.extra.get("known", True):
                other = event.target
                if other is None or not (other.sure and one.model.sure) or _related(other, one.model):
                    return True
        if event.kind == "unknown" and may_touch(event, one.model) and _MODES.search(event.name.rsplit(".", 1)[-1]):
            return True
        if event.kind == "make" and event.target is not None and event.target.kind in ("accelerator", "engine"):
            continue
    for node in script.each(ast.Call, ast.Attribute, ast.With, ast.AsyncWith):
        if isinstance(node, ast.Call) and id(node) not in followed and isinstance(node.func, ast.Attribute):
            if (node.func.attr == "eval" and not node.args) or (
                node.func.attr == "train" and (node.args or node.keywords)
            ):
                return True
            if node.func.attr == "apply" and "eval" in written(node):
                return True
        if isinstance(node, ast.Attribute) and node.attr == "training" and isinstance(node.ctx, ast.Store):
            return True
        if isinstance(node, (ast.With, ast.AsyncWith)) and any("eval" in written(item) for item in node.items):
            return True
    return False


def _related(one: Thing, other: Thing) -> bool:
    return one.is_same(other) or other.is_inside(one) or one.is_inside(other) or one.kind != "model"


def _layer(model: Thing) -> tuple[str, ast.AST | None] | None:
    """A layer that has a mode: its name, and where it is made."""
    last = model.cls.rsplit(".", 1)[-1]
    if model.local is not None:
        return _in_class(model.local, set())
    if model.cls.startswith("torchvision.models"):
        return f"dropout or batch norm ({'torchvision' if last == 'some' else last})", None
    if model.cls in ("timm.create_model", "timm.models.create_model"):
        return "dropout or batch norm (timm)", None
    if last == "Sequential" and model.made is not None:
        return _in_tree(model.made)
    if last == "from_pretrained":
        return "dropout", None
    return None


def _in_class(cls: Class, seen: set[int]) -> tuple[str, ast.AST | None] | None:
    if id(cls) in seen or len(seen) > 20:
        return None
    seen.add(id(cls))
    found = _in_tree(cls.node)
    if found is not None:
        return found
    for one in cls.lineage():
        if isinstance(one, Class) and one is not cls and (found := _in_class(one, seen)):
            return found
    for node in nodes_of(cls.node):
        if isinstance(node, ast.Name) and isinstance(inner := cls.scope.find(node.id), Class):
            found = _in_class(inner, seen)
            if found is not None:
                return found
    return None


def _in_tree(tree: ast.AST) -> tuple[str, ast.AST | None] | None:
    for node in nodes_of(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and written(node) == "self.training":
            return "parts that depend on self.training", node
        if isinstance(node, ast.Call):
            name = (
                node.func.attr
                if isinstance(node.func, ast.Attribute)
                else node.func.id
                if isinstance(node.func, ast.Name)
                else ""
            )
            if _LAYERS.match(name) and not (
                node.args and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0
            ):
                return name, node
    return None


_NET = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.drop = nn.Linear(9, 9), nn.Dropout(0.5)
    def forward(self, x):
        return self.drop(self.a(x))
"""
BAD: tuple[str, ...] = (
    "import torchvision\n" + CHECK.example_bad.replace(".sum()", ".sum()  # expect"),
    _NET
    + """
def train(model, loader, optimizer):
    model.train()
    for x, y in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
def test(model, loader):
    with torch.no_grad():
        for x, y in loader:
            print(model(x).argmax(1))  # expect
net = Net()
for epoch in range(3):
    train(net, loader, optimizer)
    test(net, test_loader)
""",
    _NET
    + """
class Trainer:
    def __init__(self, loader, val_loader):
        self.model = Net()
        self.optimizer = torch.optim.Adam(self.model.parameters())
        self.train_loader, self.val_loader = loader, val_loader
    def fit(self):
        for epoch in range(3):
            for x, y in self.train_loader:
                self.optimizer.zero_grad()
                nn.functional.cross_entropy(self.model(x), y).backward()
                self.optimizer.step()
            self.validate()
    @torch.no_grad()
    def validate(self):
        for x, y in self.val_loader:
            out = self.model(x)  # expect
            self.hits += (out.argmax(1) == y).sum().item()
""",
    """
import torch
from torch import nn
model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 10))
for epoch in range(3):
    for x, y in train_loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    correct = 0
    with torch.no_grad():
        for x, y in test_loader:
            correct += (model(x).argmax(1) == y).sum().item()  # expect
""",
    _NET
    + """
accelerator = Accelerator()
model, optimizer, train_dl, eval_dl = accelerator.prepare(Net(), optimizer, train_dl, eval_dl)
for epoch in range(3):
    model.train()
    for batch in train_dl:
        loss = loss_fn(model(batch["x"]), batch["y"])
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    for batch in eval_dl:
        with torch.no_grad():
            outputs = model(batch["x"])  # expect
        metric.add_batch(predictions=outputs.argmax(-1), references=batch["y"])
""",
    """
import torch
def train_epoch(model, loader, optimizer):
    model.train()
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
@torch.no_grad()
def evaluate(model, loader):
    model.train()  # expect
    right = 0
    for x, y in loader:
        right += (model(x).argmax(1) == y).sum().item()
    return right
for epoch in range(10):
    train_epoch(model, train_loader, optimizer)
    print(evaluate(model, val_loader))
""",
    _NET
    + """
model = Net()
for x, y in train_loader:
    optimizer.zero_grad()
    loss_fn(model(x), y).backward()
    optimizer.step()
model.train()  # expect
with torch.no_grad():
    for x, y in test_loader:
        correct += (model(x).argmax(1) == y).sum().item()
""",
)
BAD = (
    *BAD,
    """
import torch
from torch import nn
model = nn.Sequential(nn.Linear(64, 32), nn.Dropout(0.5), nn.Linear(32, 10))
opt = torch.optim.Adam(model.parameters(), lr=1e-3)
for epoch in range(5):
    for xb, yb in train:
        opt.zero_grad()
        nn.functional.cross_entropy(model(xb), yb).backward()
        opt.step()
    correct = 0
    for xb, yb in test:
        correct += (model(xb).argmax(1) == yb).sum().item()  # expect
""",
)
GOOD = (
    """
import torch
from torchvision.models.detection import maskrcnn_resnet50_fpn
def validate(loader, model):
    total = 0.0
    for images, targets in loader:
        with torch.no_grad():
            loss_dict = model(images, targets)
        total += sum(loss for loss in loss_dict.values())
    return total / len(loader)
model = maskrcnn_resnet50_fpn()
for epoch in range(3):
    train_one_epoch(train_loader, model)
    validate(val_loader, model)
""",
    "import torchvision\n" + CHECK.example_good,
    BAD[1].replace("  # expect", "").replace("    with torch.no_grad", "    model.eval()\n    with torch.no_grad"),
    BAD[2]
    .replace("  # expect", "")
    .replace("        for x, y in self.val_loader", "        self.model.eval()\n        for x, y in self.val_loader"),
    BAD[1].replace("  # expect", "").replace("nn.Dropout(0.5)", "nn.ReLU()"),
    BAD[1].replace("  # expect", "").replace("def test(", "def mc_dropout_test("),
    BAD[3].replace("  # expect", "").replace("    correct = 0", "    set_mode(model, training=False)\n    correct = 0"),
)
