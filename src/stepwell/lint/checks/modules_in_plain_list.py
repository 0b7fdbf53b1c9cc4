"""Layers in a Python list, where a module does not see them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Script
from stepwell.lint.analysis.layers import makes_module, methods, modules
from stepwell.lint.analysis.syntax import nodes_of

CHECK = Check(
    code="SW609",
    name="modules-in-plain-list",
    severity="error",
    certainty="certain",
    looks_for="a module keeps layers in a Python list or dict, and not in nn.ModuleList or nn.ModuleDict",
    why="parameters() does not see the layers: the optimizer does not update them, to(device) does not move them, and "
    "state_dict() does not save them",
    instead="put the layers into nn.ModuleList (for a dict, nn.ModuleDict)",
    silent_when="the layers are registered some other way, or their parameters are asked for by hand",
    example_bad="class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
    "        self.layers = [nn.Linear(8, 8) for _ in range(4)]\n    def forward(self, x):\n"
    "        for layer in self.layers:\n            x = layer(x)\n        return x",
    example_good="class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
    "        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))\n    def forward(self, x):\n"
    "        for layer in self.layers:\n            x = layer(x)\n        return x",
    reference="https://docs.pytorch.org/docs/stable/generated/torch.nn.ModuleList.html",
)
FIX = ""
_REGISTERS = re.compile(r"add_module|register_module|setattr|__setattr__|register_parameter|_modules\b")
_HARMLESS = ("len", "zip", "enumerate", "reversed", "list", "iter")


def find(script: Script) -> Iterator[Finding]:
    for cls in modules(script):
        if _REGISTERS.search(_text(script, cls)):
            continue
        for name, given in _assigned(cls).items():
            for value, method in given:
                made = _made(script, value, method)
                if made is not None and len(given) == 1 and _is_kept(script, name):
                    kind = "dict" if isinstance(made, (ast.Dict, ast.DictComp)) else "list"
                    yield script.finding(
                        CHECK,
                        made,
                        f"self.{name} of {cls.name} is a Python {kind} of layers, which the module does not see",
                        instead=f"put the layers into nn.Module{kind.capitalize()}",
                    )


def _assigned(cls: ast.ClassDef) -> dict[str, list[tuple[ast.expr, ast.AST]]]:
    """attribute of self -> what the methods of a class assign to it."""
    found: dict[str, list[tuple[ast.expr, ast.AST]]] = {}
    for method in methods(cls):
        for node in nodes_of(method):
            for one in node.targets if isinstance(node, ast.Assign) else ():
                if isinstance(one, ast.Attribute) and isinstance(one.value, ast.Name) and one.value.id == "self":
                    assert isinstance(node, ast.Assign)
                    found.setdefault(one.attr, []).append((node.value, method))
    return found


def _made(script: Script, value: ast.expr, method: ast.AST) -> ast.AST | None:
    """The list or dict of new layers that an attribute is given, directly or by a local name."""
    if isinstance(value, ast.Name):
        made = [
            node.value
            for node in nodes_of(method)
            if isinstance(node, ast.Assign)
            and any(isinstance(one, ast.Name) and one.id == value.id for one in node.targets)
        ]
        if len(made) != 1 or not isinstance(made[0], (ast.List, ast.ListComp)):
            return None
        if _is_wrapped(method, value.id):
            return None
        return made[0] if _holds(script, made[0], method, value.id) else None
    return value if _holds(script, value, method, "") else None


def _holds(script: Script, value: ast.AST, method: ast.AST, name: str) -> bool:
    if isinstance(value, ast.ListComp):
        return makes_module(script, value.elt)
    if isinstance(value, ast.DictComp):
        return makes_module(script, value.value)
    if isinstance(value, ast.List) and value.elts:
        return all(makes_module(script, one) or _is_plain(script, one) for one in value.elts) and any(
            makes_module(script, one) for one in value.elts
        )
    if isinstance(value, ast.Dict) and value.values:
        return all(makes_module(script, one) for one in value.values)
    if isinstance(value, ast.List) and name:  # filled by append
        return any(
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "append"
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == name
            and len(node.args) == 1
            and makes_module(script, node.args[0])
            for node in nodes_of(method)
        )
    return False


def _is_plain(script: Script, node: ast.AST) -> bool:
    """Whether this is a module without parameters: nn.ReLU()."""
    return isinstance(node, ast.Call) and script.full_name(node.func).startswith("torch.nn.")


def _is_wrapped(method: ast.AST, name: str) -> bool:
    """Whether the list is handed to a call, as `nn.Sequential(*layers)` does."""
    for node in nodes_of(method):
        if isinstance(node, ast.Call):
            for one in (*node.args, *(word.value for word in node.keywords)):
                inner = one.value if isinstance(one, ast.Starred) else one
                if isinstance(inner, ast.Name) and inner.id == name:
                    return True
    return False


def _is_kept(script: Script, name: str) -> bool:
    """Whether the list is all that holds the layers: the file goes through it, and nothing asks for the parameters
    of its items or hands it to a call that may register them."""
    used = False
    for node in script.each(ast.Attribute):
        if not (node.attr == name and isinstance(node.ctx, ast.Load)):
            continue
        parent = script.parents.get(id(node))
        if isinstance(parent, ast.Starred):
            return False
        harmless = isinstance(parent, ast.Call) and isinstance(parent.func, ast.Name) and parent.func.id in _HARMLESS
        if isinstance(parent, ast.Call) and node in parent.args and not harmless:
            return False
        used = True
    asks = rf"{re.escape(name)}\b[^\n]*\n?[^\n]*\.(parameters|named_parameters|state_dict|requires_grad_|eval)\("
    return used and not re.search(asks, script.source)


def _text(script: Script, cls: ast.ClassDef) -> str:
    return "".join(script.lines[cls.lineno - 1 : cls.end_lineno or 0])


_HEAD = "\nimport torch\nimport torch.nn as nn\n"
BAD = (
    _HEAD + CHECK.example_bad.replace("range(4)]", "range(4)]  # expect"),
    _HEAD
    + """
class Net(nn.Module):
    def __init__(self, n):
        super().__init__()
        blocks = []  # expect
        for _ in range(n):
            blocks.append(nn.Linear(3, 3))
        self.blocks = blocks
        self.head = nn.Linear(3, 1)
    def forward(self, x):
        for block in self.blocks:
            x = torch.relu(block(x))
        return self.head(x)
""",
    _HEAD
    + """
class Block(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.w = nn.Linear(d, d)
    def forward(self, x):
        return self.w(x)
class Stack(nn.Module):
    def __init__(self, d, n):
        super().__init__()
        self.stages = [Block(d) for _ in range(n)]  # expect
    def forward(self, x):
        for i, stage in enumerate(self.stages):
            x = stage(x) + i
        return x
""",
    _HEAD
    + """
class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = {"a": nn.Linear(4, 2), "b": nn.Linear(4, 3)}  # expect
    def forward(self, x, task):
        return self.heads[task](x)
""",
    """
import lightning as L
from torch.nn import Conv2d
class Lit(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.convs = [Conv2d(3, 3, 3), Conv2d(3, 3, 3)]  # expect
    def forward(self, x):
        return self.convs[1](self.convs[0](x))
""",
)
GOOD = (
    _HEAD + CHECK.example_good,
    _HEAD
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        layers = []
        for _ in range(4):
            layers.append(nn.Linear(3, 3))
        self.net = nn.Sequential(*layers)
        self.layers = layers
    def forward(self, x):
        return self.net(x)
""",
    _HEAD
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.layers = [self.a, self.b]
    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x
""",
    _HEAD
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(3, 3) for _ in range(2)]
        for i, layer in enumerate(self.layers):
            self.add_module(f"layer{i}", layer)
    def forward(self, x):
        return self.layers[1](self.layers[0](x))
""",
    _HEAD
    + """
class Critics:
    def __init__(self):
        self.nets = [nn.Linear(3, 1) for _ in range(2)]
        self.optimizers = [torch.optim.Adam(net.parameters()) for net in self.nets]
    def values(self, x):
        return [net(x) for net in self.nets]
""",
    _HEAD
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(3, 3) for _ in range(2)]
        self.held = nn.ModuleList(self.layers)
    def forward(self, x):
        return self.layers[1](self.layers[0](x))
""",
    _HEAD
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.acts = [nn.ReLU(), nn.Tanh()]
        self.sizes = [3, 4]
    def forward(self, x):
        return self.acts[0](x)
""",
)
