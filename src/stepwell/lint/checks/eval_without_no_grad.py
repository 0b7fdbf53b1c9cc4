"""An evaluation that records a graph for every batch."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Event, Root, Script, Thing
from stepwell.lint.analysis.evaluating import Evaluation, evaluations
from stepwell.lint.analysis.syntax import written
from stepwell.lint.guarding import guarded

CHECK = Check(
    code="SW401",
    name="eval-without-no-grad",
    severity="warning",
    certainty="certain",
    looks_for="a model in eval mode goes over a loader, and no torch.no_grad() stands around it, here or at any caller",
    why="every forward pass records a graph that nobody uses: evaluation takes more memory and time, and a sum of "
    "losses keeps all graphs alive",
    instead="put the loop under `with torch.no_grad():`, or decorate the function with @torch.no_grad()",
    silent_when="a caller guards it, gradients are used (adversarial examples, adaptation at test time), the output is "
    "back-propagated, or a framework guards evaluation",
    example_bad="model.eval()\nfor x, y in val_loader:\n    correct += (model(x).argmax(1) == y).sum().item()",
    example_good="model.eval()\nwith torch.no_grad():\n    for x, y in val_loader:\n"
    "        correct += (model(x).argmax(1) == y).sum().item()",
    reference="https://docs.pytorch.org/docs/stable/generated/torch.no_grad.html",
)
FIX = "safe"


def find(script: Script) -> Iterator[Finding]:
    for one in unguarded(script):
        if not is_from_outside(one):
            yield finding(script, CHECK, one)


def unguarded(script: Script) -> Iterator[Evaluation]:
    """The first forward pass without a guard of every loop that evaluates."""
    seen: set[int] = set()
    for places in evaluations(script):
        one = places[0]
        around = one.loop.node if one.loop.role == "batch" and not one.aside else one.forward.function
        if id(around) not in seen and all(_is_unguarded(script, place) for place in places):
            seen.add(id(around))
            yield one


def _is_unguarded(script: Script, one: Evaluation) -> bool:
    if one.forward.no_grad is not False or one.root.framework or _is_frozen(script, one):
        return False
    if is_from_outside(one) and _is_called(script, getattr(one.root.function, "name", "")):
        return False  # by a caller that was not followed, which may guard it
    if one.aside:
        return True
    if one.mode is None or one.mode.kind == "train":  # nothing calls eval(): the name of the loader has to say it
        return one.named and one.loop.role == "batch" and any(_trains(root) for root in script.roots)
    if one.loop.role != "batch" and one.mode.function is not one.forward.function:
        return False
    return one.mode.kind == "eval"


def _is_called(script: Script, name: str) -> bool:
    return any(name == getattr(node.func, "attr", getattr(node.func, "id", None)) for node in script.each(ast.Call))


def _is_frozen(script: Script, one: Evaluation) -> bool:
    """Whether nothing of the model has gradients: frozen, and no part of it released again."""
    if any(_is_part_of(script, event, one.model) for event in script.of_kind("unfreeze")):
        return False
    return any(event.target is not None and event.target.is_same(one.model) for event in script.of_kind("freeze"))


def _is_part_of(script: Script, event: Event, model: Thing) -> bool:
    """Whether what is released is a part of a model: by what the analysis knows, or by its name, as in
    `for p in model.get_classifier().parameters(): p.requires_grad = True`."""
    if event.target is not None:
        return event.target.is_inside(model)
    around: ast.AST | None = event.node
    while around is not None and not isinstance(around, (ast.For, ast.FunctionDef)):
        around = script.parents.get(id(around))
    source = written(around.iter if isinstance(around, ast.For) else event.node)
    return bool(model.name) and f"{model.name}." in source


def is_from_outside(one: Evaluation) -> bool:
    """Whether nobody in the file calls the function, so that a caller elsewhere may guard it."""
    return one.root.uncalled and not _trains(one.root) and getattr(one.root.function, "name", "") != "main"


def _trains(root: Root) -> bool:
    return any(event.kind == "backward" for event in root.events)


def finding(script: Script, check: Check, one: Evaluation) -> Finding:
    evidence = [(one.mode.node, f"{one.model.name} is put into eval mode here")] if one.mode is not None else []
    line = script.place(one.loop.node).line
    return script.finding(
        check,
        one.forward.node,
        f"{one.model.name} goes over the loader of line {line} without torch.no_grad()"
        if one.loop.role == "batch" and not one.aside
        else f"{one.model.name} is evaluated without torch.no_grad(), in every round of the loop of line {line}",
        evidence,
        instead=_instead(one),
        fix=None
        if one.forward.flags or one.aside
        else guarded(script, one),  # the other phase of the same lines needs its graph
    )


def _instead(one: Evaluation) -> str:
    """Where a name decides whether these lines train: the guard that asks for the name."""
    for name, value in one.forward.flags:
        if isinstance(value, str):
            return f"put the forward pass under `with torch.set_grad_enabled({name} == 'train'):`"
        if isinstance(value, bool):
            return f"put the forward pass under `with torch.set_grad_enabled({'' if not value else 'not '}{name}):`"
    return ""


BAD = (
    """
import timm
import torch
model = timm.create_model("resnet50d", pretrained=True)
for param in model.parameters():
    param.requires_grad = False
for param in model.get_classifier().parameters():
    param.requires_grad = True
optimizer = torch.optim.Adam(params=model.parameters(), lr=1e-3)
for epoch in range(3):
    model.train()
    for x, y in train_loader:
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    for x, y in eval_loader:
        out = model(x)  # expect
        correct += (out.argmax(-1) == y).sum()
""",
    """
import torch
model = torch.nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
def estimate_loss():
    found = {}
    model.eval()
    for split in ["train", "val"]:
        losses = torch.zeros(20)
        for k in range(20):
            x, y = get_batch(split)
            losses[k] = torch.nn.functional.mse_loss(model(x), y).item()  # expect
        found[split] = losses.mean()
    model.train()
    return found
for step in range(1000):
    if step % 100 == 0:
        print(estimate_loss())
    x, y = get_batch("train")
    optimizer.zero_grad()
    torch.nn.functional.mse_loss(model(x), y).backward()
    optimizer.step()
""",
    """
import torch
def fit(model, optimizer, criterion, loaders):
    for epoch in range(10):
        for phase in ["train", "val"]:
            if phase == "train":
                model.train()
            else:
                model.eval()
            for x, y in loaders[phase]:
                optimizer.zero_grad()
                out = model(x)  # expect
                loss = criterion(out, y)
                if phase == "train":
                    loss.backward()
                    optimizer.step()
""",
    """
import torch
def run_epoch(model, loader, optimizer, train=True):
    model.train(train)
    total = 0.0
    for x, y in loader:
        loss = criterion(model(x), y)  # expect
        if train:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        total += loss.item()
    return total
for epoch in range(10):
    run_epoch(model, train_loader, optimizer, train=True)
    print(run_epoch(model, val_loader, optimizer, train=False))
""",
    "import torch\n" + CHECK.example_bad.replace(".item()", ".item()  # expect"),
    """
import torch
def evaluate(model, loader):
    model.eval()
    hits = 0
    for x, y in loader:
        hits += (model(x).argmax(1) == y).sum().item()  # expect
    return hits / len(loader.dataset)
def main():
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(3):
        model.train()
        for x, y in train_loader:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        print(evaluate(model, val_loader))
main()
""",
    """
import torch
class Trainer:
    def fit(self):
        for epoch in range(self.epochs):
            self.model.train()
            for x, y in self.train_loader:
                self.optimizer.zero_grad()
                self.criterion(self.model(x), y).backward()
                self.optimizer.step()
            self.validate()
    def validate(self):
        self.model.eval()
        total = 0
        for x, y in tqdm(self.val_loader):
            out = self.model(x)  # expect
            total += self.criterion(out, y).item()
""",
    """
import torch
for epoch in range(3):
    model.train()
    for batch in train_dataloader:
        loss = model(**batch).loss
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    for step, batch in enumerate(eval_dataloader):
        outputs = model(**batch)  # expect
        metric.add_batch(predictions=outputs.logits.argmax(-1), references=batch["labels"])
""",
    """
import torch
model = torch.nn.Linear(2, 2)
model.load_state_dict(torch.load("model.pt"))
model.eval()
test_loader = torch.utils.data.DataLoader(data)
for x, y in test_loader:
    for crop in x:
        print(model(crop))  # expect
""",
    """
import torch
def test():
    model.eval()
    return (model(data.x).argmax(1) == data.y).float().mean().item()  # expect
for epoch in range(200):
    model.train()
    optimizer.zero_grad()
    loss = loss_fn(model(data.x), data.y)
    loss.backward()
    optimizer.step()
    print(test())
""",
    """
import torch
def loss_of(model, batch):
    return loss_fn(model(batch[0]), batch[1])  # expect
def evaluate(model, loader):
    model.eval()
    total = 0
    for batch in loader:
        total += loss_of(model, batch).item()
    model.train()
    return total
for epoch in range(200):
    for batch in loader:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
    print(evaluate(model, val_loader))
""",
)
GOOD = (
    CHECK.example_good,
    """
import torch
def run_epoch(model, loader, optimizer, train=True):
    model.train(train)
    for x, y in loader:
        with torch.set_grad_enabled(train):
            loss = criterion(model(x), y)
        if train:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
for epoch in range(10):
    run_epoch(model, train_loader, optimizer)
    run_epoch(model, val_loader, optimizer, train=False)
""",
    """
import torch
def run_epoch(model, loader, optimizer=None):
    model.train() if optimizer is not None else model.eval()
    for x, y in loader:
        loss = criterion(model(x), y)
        if optimizer is not None:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
for epoch in range(10):
    run_epoch(model, train_loader, optimizer)
    with torch.no_grad():
        run_epoch(model, val_loader)
""",
    """
import torch
def evaluate(model, loader):
    model.eval()
    for x, y in loader:
        print(model(x))
with torch.no_grad():
    evaluate(net, loader)
""",
    """
import torch
@torch.inference_mode()
def evaluate(model, loader):
    model.eval()
    for x, y in loader:
        print(model(x))
evaluate(net, loader)
""",
    """
import torch
def evaluate(model, loader):
    model.eval()
    for x, y in loader:
        x.requires_grad_(True)
        loss = loss_fn(model(x), y)
        x_adv = x + 0.1 * torch.autograd.grad(loss, x)[0].sign()
        print(model(x_adv))
evaluate(net, loader)
""",
    """
import torch
torch.set_grad_enabled(False)
model.eval()
for x, y in loader:
    print(model(x))
""",
    """
import torch
backbone.eval()
for x, y in loader:
    loss = loss_fn(head(backbone(x)), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
""",
    """
import torch
def evaluate(model, loader):
    model.eval()
    for x, y in loader:
        print(model(x))
""",
    """
import torch
for phase in ["train", "val"]:
    model.train() if phase == "train" else model.eval()
    for x, y in loaders[phase]:
        with torch.set_grad_enabled(phase == "train"):
            out = model(x)
        if phase == "train":
            loss_fn(out, y).backward()
""",
)
