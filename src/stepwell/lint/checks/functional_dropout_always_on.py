"""A functional dropout that drops in evaluation, too."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from stepwell.findings import Check, Edit, Finding, Fix
from stepwell.lint.analysis import Script
from stepwell.lint.analysis.evaluating import text_of
from stepwell.lint.analysis.syntax import nodes_of, written

CHECK = Check(
    code="SW405",
    name="functional-dropout-always-on",
    severity="error",
    certainty="certain",
    looks_for="a functional dropout in a module, without its argument `training`",
    why="`training` is True unless it is given: the model drops units in evaluation, too, and model.eval() does "
    "not help",
    instead="pass training=self.training, or use an nn.Dropout layer",
    silent_when="dropout at test time is wanted (Monte Carlo dropout), p is 0, or the call stands under `if "
    "self.training`",
    example_bad="class Net(nn.Module):\n    def forward(self, x):\n        return self.out(F.dropout(x, 0.5))",
    example_good="class Net(nn.Module):\n    def forward(self, x):\n        return self.out(F.dropout(x, 0.5, "
    "training=self.training))",
    reference="https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.dropout.html",
)
FIX = "safe"
_DROPOUTS = frozenset(
    f"torch.nn.functional.{name}"
    for name in ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
)
_WANTED = re.compile(
    r"monte.?carlo|mc_?drop|mcdrop|(^|_)mc(_|$)|uncertain|bayes|always|stochastic|inference.time|test.time", re.I
)


def find(script: Script) -> Iterator[Finding]:
    if "dropout" not in script.source:
        return
    modules = _modules(script)
    for call, method, cls in _calls_in_methods(script):
        if script.full_name(call.func) not in _DROPOUTS or id(cls) not in modules or not _is_always_on(call):
            continue
        if not method.args.args or _is_wanted(script, call, method, cls):
            continue
        function = written(call.func)
        yield script.finding(
            CHECK,
            call,
            f"{function}() without `training` drops in eval mode, too",
            fix=_fix(script, call, method.args.args[0].arg),
        )


def _calls_in_methods(
    script: Script,
) -> Iterator[tuple[ast.Call, ast.FunctionDef | ast.AsyncFunctionDef, ast.ClassDef]]:
    """The calls inside of methods: each with the method and its class."""
    for cls in script.each(ast.ClassDef):
        for method in cls.body:
            if isinstance(method, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield from ((node, method, cls) for node in nodes_of(method) if isinstance(node, ast.Call))


def _is_always_on(call: ast.Call) -> bool:
    if len(call.args) > 2 or not (call.args or call.keywords) or any(isinstance(one, ast.Starred) for one in call.args):
        return False
    if any(one.arg in (None, "training") for one in call.keywords):
        return False
    p = next((one.value for one in call.keywords if one.arg == "p"), call.args[1] if len(call.args) > 1 else None)
    if isinstance(p, ast.Constant) and p.value in (0, 0.0):
        return False
    return "train" not in written(call)


def _is_wanted(script: Script, call: ast.Call, method: ast.AST, cls: ast.ClassDef) -> bool:
    name = getattr(method, "name", "")
    if name not in ("forward", "__call__") and not _is_reached(cls, name):
        return True
    lines = script.lines[max(0, call.lineno - 3) : (call.end_lineno or call.lineno)]
    about = " ".join((cls.name, name, ast.get_docstring(cls) or "", *(line.partition("#")[2] for line in lines)))
    if _WANTED.search(about):
        return True
    one: ast.AST | None = call
    while one is not None and one is not method:
        if isinstance(one, (ast.If, ast.IfExp)) and re.search(r"train|eval|sample|mc", written(one.test)):
            return True
        one = script.parents.get(id(one))
    # a return above in `if not self.training: return x`
    head = text_of(script, method).split("\n")[: call.lineno - getattr(method, "lineno", 0)]
    return any(re.search(r"if .*(\bnot self\.training|self\.training (is|==) False)", line) for line in head)


def _is_reached(cls: ast.ClassDef, name: str) -> bool:
    """Whether another method of the class calls this one, directly: a part of forward."""
    return any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == name
        for node in nodes_of(cls)
    )


def _modules(script: Script) -> set[int]:
    """The classes that are modules of torch."""
    classes = script.each(ast.ClassDef)
    known: set[str] = set()
    found: set[int] = set()
    grown = True
    while grown:
        grown = False
        for cls in classes:
            if id(cls) not in found and any(_is_module(script.name_of(base), known) for base in cls.bases):
                found.add(id(cls))
                known.add(cls.name)
                grown = True
    return found


def _is_module(name: str, known: set[str]) -> bool:
    last = name.rsplit(".", 1)[-1]
    torch = ("Module", "LightningModule", "MessagePassing", "PreTrainedModel")
    return name.startswith("torch.nn.") or last in torch or last in known


def _fix(script: Script, call: ast.Call, own: str) -> Fix | None:
    end = (call.end_lineno or call.lineno, script.column(call.end_lineno or call.lineno, call.end_col_offset or 0) - 1)
    last = max(
        (*call.args, *(one.value for one in call.keywords)), key=lambda one: (one.end_lineno, one.end_col_offset)
    )
    line = last.end_lineno or last.lineno
    place = (line, script.column(line, last.end_col_offset or 0))
    if (line == end[0] and "," in script.lines[line - 1][place[1] - 1 : end[1] - 1]) or line != end[0]:
        return None
    return Fix(f"pass training={own}.training", (Edit(end, end, f", training={own}.training"),), safe=True)


BAD = (
    "from torch import nn\nimport torch.nn.functional as F\n" + CHECK.example_bad.replace("0.5))", "0.5))  # expect"),
    """
import torch
class Net(torch.nn.Module):
    def forward(self, x):
        x = torch.nn.functional.dropout2d(self.conv(x))  # expect
        return x
""",
    """
import torch.nn.functional as F
from torch_geometric.nn import GCNConv
import torch
class GCN(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = GCNConv(16, 16)
    def forward(self, data):
        x = F.relu(self.conv1(data.x, data.edge_index))
        x = F.dropout(x)  # expect
        return F.log_softmax(x, dim=1)
""",
    """
from torch.nn import functional, Module
class Block(Module):
    def forward(self, x):
        return x + functional.dropout(self.ff(x), p=self.p)  # expect
""",
    """
from lightning.pytorch import LightningModule
from torch.nn.functional import dropout
class Model(LightningModule):
    def forward(self, x):
        return self.head(self.encode(x))
    def encode(self, x):
        return dropout(self.body(x), 0.1)  # expect
""",
)
GOOD = (
    """
import torch.nn as nn, torch.nn.functional as F
class Twice(nn.Module):
    pass
class Twice(nn.Module):
    def forward(self, x):
        return F.dropout(x, training=self.training)
""",
    "from torch import nn\nimport torch.nn.functional as F\n" + CHECK.example_good,
    """
import torch.nn as nn, torch.nn.functional as F
class Net(nn.Module):
    def forward(self, x):
        return F.dropout(x, self.p, self.training)
""",
    """
import torch.nn as nn, torch.nn.functional as F
class MCDropoutNet(nn.Module):
    def forward(self, x):
        return F.dropout(x, self.p)
""",
    """
import torch.nn as nn, torch.nn.functional as F
class Net(nn.Module):
    def forward(self, x):
        if self.training:
            x = F.dropout(x, 0.5)
        return x
""",
    """
import torch.nn as nn, torch.nn.functional as F
class Prenet(nn.Module):
    def forward(self, x):
        return F.dropout(x, 0.5, training=True)
""",
    """
import torch.nn as nn, torch.nn.functional as F
class Net(nn.Module):
    def forward(self, x):
        return F.dropout(x, self.p if self.training else 0.0)
""",
)
