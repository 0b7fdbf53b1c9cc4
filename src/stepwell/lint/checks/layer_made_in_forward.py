"""A layer that is made anew in every forward pass."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Script
from stepwell.lint.analysis.layers import is_layer, methods, modules

CHECK = Check(
    code="SW608",
    name="layer-made-in-forward",
    severity="error",
    certainty="certain",
    looks_for="forward() of a module makes a layer with parameters, such as nn.Linear, and calls it there",
    why="the layer has new random weights in every forward pass; no optimizer has them, no checkpoint keeps them, and "
    "they stay on the CPU",
    instead="make the layer in __init__, keep it as self.layer, and call self.layer in forward()",
    silent_when="forward() keeps the layer as an attribute, sets its weights itself, or the layer has no parameters",
    example_bad="class Net(nn.Module):\n    def forward(self, x):\n        return nn.Linear(8, 2)(x)",
    example_good="class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
    "        self.head = nn.Linear(8, 2)\n    def forward(self, x):\n        return self.head(x)",
    reference="https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html",
)
FIX = ""


def find(script: Script) -> Iterator[Finding]:
    for cls in modules(script):
        forward = next((one for one in methods(cls) if one.name == "forward"), None)
        for node in ast.walk(forward) if forward is not None else ():
            if is_layer(script, node) and _is_used_at_once(script, forward, node):
                assert isinstance(node, ast.Call)
                name = script.full_name(node.func).rsplit(".", 1)[-1]
                yield script.finding(CHECK, node, f"forward() of {cls.name} makes a new {name} in every call")


def _is_used_at_once(script: Script, forward: ast.AST | None, made: ast.AST) -> bool:
    """Whether the layer is called where it is made, or by a local name that nothing else is done with."""
    parent = script.parents.get(id(made))
    if isinstance(parent, ast.Attribute):  # nn.Linear(8, 2).to(x.device)(x)
        call = script.parents.get(id(parent))
        if parent.attr in ("to", "cuda", "double", "float", "half") and isinstance(call, ast.Call):
            return _is_used_at_once(script, forward, call)
        return False
    if isinstance(parent, ast.Call):
        return parent.func is made
    if not (isinstance(parent, ast.Assign) and len(parent.targets) == 1 and isinstance(parent.targets[0], ast.Name)):
        return False
    name = parent.targets[0].id
    loads = [one for one in ast.walk(forward or made) if isinstance(one, ast.Name) and one.id == name]
    used = [one for one in loads if isinstance(one.ctx, ast.Load)]
    around = [script.parents.get(id(one)) for one in used]
    return bool(used) and all(
        isinstance(one, ast.Call) and one.func is node for one, node in zip(around, used, strict=True)
    )


_HEAD = "\nimport torch\nimport torch.nn as nn\nimport torch.nn.functional as F\n"
BAD = (
    _HEAD + CHECK.example_bad + "  # expect",
    _HEAD
    + """
class Attention(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.q = nn.Linear(d, d)
    def forward(self, x):
        output = nn.Linear(64, 64)(self.q(x))  # expect
        return nn.LayerNorm(64)(output + x)  # expect
""",
    _HEAD
    + """
class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3)
    def forward(self, x):
        x = torch.flatten(self.body(x), 1)
        head = nn.Linear(x.shape[1], 10)  # expect
        return head(F.relu(x))
""",
    _HEAD
    + """
class Block(nn.Module):
    def forward(self, x):
        x = nn.Conv1d(x.size(1), 16, 3).to(x.device)(x)  # expect
        return F.relu(x)
""",
    """
import torch
from torch.nn import LSTM, Module
class Tagger(Module):
    def forward(self, x):
        rnn = LSTM(x.size(-1), 32, batch_first=True).cuda()
        out, _ = LSTM(x.size(-1), 32)(x)  # expect
        return out
""",
    _HEAD
    + """
class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 4)
class Model(Encoder):
    def forward(self, tokens):
        return nn.Linear(4, 2)(self.embed(tokens))  # expect
""",
)
GOOD = (
    _HEAD + CHECK.example_good,
    _HEAD
    + """
class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = None
    def forward(self, x):
        if self.head is None:
            self.head = nn.Linear(x.shape[1], 10)
        return self.head(x)
""",
    _HEAD
    + """
class Blur(nn.Module):
    def forward(self, x):
        conv = nn.Conv2d(1, 1, 3, bias=False)
        conv.weight.data.fill_(1 / 9)
        return conv(x)
""",
    _HEAD
    + """
class Net(nn.Module):
    def forward(self, x):
        x = nn.ReLU()(x)
        x = nn.Dropout(0.1)(x)
        return nn.LayerNorm(x.shape[1:], elementwise_affine=False)(x)
""",
    _HEAD
    + """
class Heads:
    def forward(self, x):
        return nn.Linear(8, 2)(x)
def build():
    return nn.Sequential(nn.Linear(8, 2), nn.ReLU())
""",
    _HEAD
    + """
class Hyper(nn.Module):
    def forward(self, x):
        layer = nn.Linear(4, 4)
        torch.nn.utils.vector_to_parameters(self.generate(x), layer.parameters())
        return layer(x)
""",
)
