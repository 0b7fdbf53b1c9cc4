"""x.detach(), x.to(device) and the like as a statement: the new tensor is thrown away."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from stepwell.findings import Check, Finding, Fix
from stepwell.lint import edits
from stepwell.lint.analysis import Event, Script, Tensor
from stepwell.lint.analysis.syntax import written

CHECK = Check(
    code="SW108",
    name="discarded-result",
    severity="error",
    certainty="certain",
    looks_for="the result of detach(), to(), cuda(), clamp() or the like of a tensor is not used",
    why="these return a new tensor and leave the old one as it is: the tensor still has its graph, or is still "
    "on the old device",
    instead="assign the result: x = x.detach()",
    silent_when="the object may be no tensor: a model, a batch of a library that moves itself, a graph",
    example_bad="loss = loss_fn(model(x), y)\nloss.backward()\nloss.detach()\nlosses.append(loss)",
    example_good="loss = loss_fn(model(x), y)\nloss.backward()\nloss = loss.detach()\nlosses.append(loss)",
    reference="https://docs.pytorch.org/docs/stable/generated/torch.Tensor.detach.html",
)
FIX = "safe"
_ANY = frozenset(["detach", "clamp", "clip"])  # of whatever is a tensor
_MOVES = frozenset(["to", "cuda", "cpu", "float", "half", "double", "bfloat16", "long", "requires_grad"])


def find(script: Script) -> Iterator[Finding]:
    for places in script.places("discard"):
        event = places[0]
        if all(_is_lost(script, one) for one in places):
            call = event.call
            assert call is not None
            assert isinstance(call.func, ast.Attribute)
            base = call.func.value
            name = written(base)
            fix = None
            if isinstance(base, (ast.Name, ast.Attribute)):
                fix = Fix(
                    f"assign the result to {name}",
                    (edits.replace(script, call, f"{name} = {edits.text(script, call)}"),),
                    safe=True,
                )
            yield script.finding(
                CHECK,
                event.node,
                f"{script.text(call)} gives a new tensor, which is not used, and leaves {name} as it is",
                fix=fix,
            )


def _is_lost(script: Script, event: Event) -> bool:
    call = event.call
    if call is None or not isinstance(call.func, ast.Attribute) or _is_watched(script, event.node):
        return False
    base = call.func.value
    if event.name in _ANY:
        return isinstance(base, (ast.Name, ast.Attribute, ast.Call, ast.Subscript)) and _is_tensor(
            script, base, event.extra.get("of")
        )
    return (
        event.name in _MOVES
        and isinstance(base, (ast.Name, ast.Attribute))
        and _is_tensor(script, base, event.extra.get("of"))
    )


def _is_tensor(script: Script, base: ast.expr, value: object) -> bool:
    """Whether the object of a call is surely a tensor, and not a batch that moves itself."""
    if not isinstance(value, Tensor):
        return False
    if value.by in {
        "loss",
        "softmax",
        "log_softmax",
        "sum",
        "mean",
        "+",
        "-",
        "*",
        "/",
        "@",
        "new",
        "scaled",
        "cat",
        "stack",
    }:
        return True
    if value.attached is True and isinstance(base, ast.Name) and value.by == "model" and _sure(value):
        return True
    return isinstance(base, ast.Name) and base.id in _unpacked(script)


def _sure(part: Tensor) -> bool:
    return any(
        one.kind == "model" and one.sure and (one.local is not None or one.cls.startswith("torch.nn."))
        for one in part.models
    )


def _unpacked(script: Script) -> set[str]:
    """Names that loops over loaders unpack from a pair: `for x, y in loader`."""
    found: set[str] = set()
    for _, loop in script.loops:
        node = loop.node
        if loop.role == "batch" and isinstance(node, (ast.For, ast.AsyncFor)):
            target = node.target
            if (
                isinstance(target, ast.Tuple)
                and written(node.iter).startswith(("enumerate", "tqdm(enumerate"))
                and len(target.elts) == 2
            ):
                target = target.elts[1]
            if (
                isinstance(target, (ast.Tuple, ast.List))
                and len(target.elts) == 2
                and all(isinstance(one, ast.Name) for one in target.elts)
            ):
                found |= {one.id for one in target.elts if isinstance(one, ast.Name) and not _LIBRARY(one.id)}
    return found


def _LIBRARY(name: str) -> bool:
    return any(
        word in name.lower()
        for word in ("graph", "batch", "data", "encod", "token", "meta", "info", "idx", "index", "name", "key")
    )


def _is_watched(script: Script, node: ast.AST) -> bool:
    """Whether a test waits for an exception here."""
    one = script.parents.get(id(node))
    while one is not None:
        if isinstance(one, (ast.With, ast.AsyncWith)) and any(
            word in written(item.context_expr)
            for item in one.items
            for word in ("aises", "warns", "profile", "timer", "suppress")
        ):
            return True
        if isinstance(one, ast.Try):
            return True
        one = script.parents.get(id(one))
    return False


BAD = (
    "import torch\n"
    + CHECK.example_bad.replace("loss.detach()", "loss.detach()  # expect").replace(
        "loss_fn(", "torch.nn.functional.mse_loss("
    ),
    """
for x, y in train_loader:
    x.to(device)  # expect
    y.to(device)  # expect
    optimizer.zero_grad()
    loss = criterion(model(x), y)
    loss.backward()
    optimizer.step()
""",
    """
class Trainer:
    def fit(self):
        for i, (images, labels) in enumerate(self.train_loader):
            images.cuda()  # expect
            loss = self.criterion(self.model(images), labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
""",
    """
for real, _ in loader:
    fake = G(z)
    optimizer_D.zero_grad()
    fake.detach()  # expect
    d_loss = criterion(D(fake), zeros)
    d_loss.backward()
    optimizer_D.step()
from nets import G, D
""".replace("from nets import G, D\n", "").replace(
        "\nfor real", "\nimport torch\nG, D = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)\nfor real"
    ),
    """
for x, y in loader:
    loss = (model(x) - y).abs().mean()
    ratio = loss / 2
    ratio.clamp(0, 1)  # expect
    ratio.backward()
    optimizer.step()
    optimizer.zero_grad()
""",
)
GOOD = (
    """
import torch
class Policy(torch.nn.Module):
    @classmethod
    def load(cls, path, device):
        saved = torch.load(path)
        model = cls(**saved["data"])
        model.load_state_dict(saved["state_dict"])
        model.to(device)
        return model
""",
    CHECK.example_good,
    "model.to(device)\nfor x, y in loader:\n    x = x.to(device)\n    model(x).sum().backward()",
    """
for data in loader:
    data.to(device)
    loss = criterion(model(data), data.y)
    loss.backward()
    optimizer.step()
""",
    """
for x, y in loader:
    loss = criterion(model(x), y)
    loss.detach_()
    x.clamp_(0, 1)
""",
    """
import pytest
def test_it():
    x = torch.ones(2) * 2
    with pytest.raises(RuntimeError):
        x.to("nowhere")
""",
)
