"""Parameters that an optimizer is given twice."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Script, argument
from stepwell.lint.analysis.syntax import written

CHECK = Check(
    code="SW601",
    name="parameter-in-two-groups",
    severity="error",
    certainty="certain",
    looks_for="an optimizer is given all parameters of a model, and those of a part of it once more",
    why="torch refuses a parameter in two groups; within one group the parameter is updated twice per step",
    instead="give each parameter once: all but those of the part in one group, the part in another",
    silent_when="the parameters are filtered, or the part was replaced in between",
    example_bad='import torch\noptimizer = torch.optim.SGD([\n    {"params": model.parameters()},\n'
    '    {"params": model.fc.parameters(), "lr": 0.01},\n], lr=0.001)',
    example_good='import torch\noptimizer = torch.optim.SGD([\n    {"params": model.backbone.parameters()},\n'
    '    {"params": model.fc.parameters(), "lr": 0.01},\n], lr=0.001)',
    reference="https://docs.pytorch.org/docs/stable/optim.html#per-parameter-options",
)
FIX = ""
_SAME = ("list", "tuple", "chain", "itertools.chain", "iter")


def find(script: Script) -> Iterator[Finding]:
    seen: set[int] = set()
    for optimizer in script.made("optimizer"):
        call = optimizer.made
        if call is None or id(call) in seen or optimizer.local is not None:
            continue
        seen.add(id(call))
        given = list(_sources(script, argument(call, 0, "params"), 5))
        added = [] if script.of_kind("replace") else script.of_kind("other")
        for event in added:
            if event.name == "add_param_group" and event.target is optimizer and event.call and not event.branches:
                given += _sources(script, argument(event.call, 0, "param_group"), 3)
        yield from _doubled(script, given)


def _doubled(script: Script, given: list[ast.Call]) -> Iterator[Finding]:
    for index, one in enumerate(given):
        for other in given[:index]:
            a, b = _owner(one), _owner(other)
            if one is not other and (a == b or a.startswith(f"{b}.") or b.startswith(f"{a}.")):
                words = "the same" if a == b else f"inside of {b}" if len(a) > len(b) else f"around {b}"
                yield script.finding(
                    CHECK, one, f"the optimizer is given {a}.parameters(), {words} whose parameters it has already"
                    if a != b else f"the optimizer is given {a}.parameters() twice",
                    [(other, f"{b}.parameters() is given here")],
                )  # fmt: skip
                return


def _owner(call: ast.Call) -> str:
    assert isinstance(call.func, ast.Attribute)
    return written(call.func.value)


def _sources(script: Script, node: ast.expr | None, depth: int) -> Iterator[ast.Call]:
    """The plain calls of parameters() in what an optimizer is given."""
    node = script.resolved(node)
    if node is None or depth == 0:
        return
    if isinstance(node, (ast.List, ast.Tuple)):
        for one in node.elts:
            yield from _sources(script, one.value if isinstance(one, ast.Starred) else one, depth - 1)
    elif isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and key.value == "params":
                yield from _sources(script, value, depth - 1)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        yield from _sources(script, node.left, depth)
        yield from _sources(script, node.right, depth)
    elif isinstance(node, ast.Call):
        if (
            isinstance(node.func, ast.Attribute)
            and node.func.attr == "parameters"
            and not node.args
            and not node.keywords
        ):
            owner = written(node.func.value)
            if owner.replace(".", "").replace("_", "").isalnum():
                yield node
        elif written(node.func) in _SAME:
            for one in node.args:
                yield from _sources(script, one, depth - 1)
        elif written(node.func) == "dict":
            for keyword in node.keywords:
                if keyword.arg == "params":
                    yield from _sources(script, keyword.value, depth - 1)


_HEAD = "\nimport torch\nfrom torch import optim\nimport itertools\n"
BAD = (
    CHECK.example_bad.replace('"lr": 0.01},', '"lr": 0.01},  # expect'),
    _HEAD + "optimizer = optim.Adam(list(model.parameters()) + list(model.head.parameters()))  # expect\n",
    _HEAD + "optimizer = optim.Adam(itertools.chain(G.parameters(), F.parameters(), G.parameters()))  # expect\n",
    _HEAD
    + """
class Trainer:
    def __init__(self, model):
        self.model = model
        groups = [
            dict(params=self.model.encoder.parameters(), lr=1e-5),
            dict(params=self.model.parameters()),  # expect
        ]
        self.optimizer = optim.AdamW(groups, lr=1e-3)
""",
    _HEAD
    + "optimizer = optim.SGD(model.parameters(), lr=0.1)\n"
    + "optimizer.add_param_group({'params': model.fc.parameters(), 'lr': 1.0})  # expect\n",
)
GOOD = (
    CHECK.example_good,
    _HEAD + "optimizer = optim.Adam(list(encoder.parameters()) + list(decoder.parameters()))\n",
    _HEAD
    + "head = set(model.fc.parameters())\n"
    + "optimizer = optim.SGD([{'params': [p for p in model.parameters() if p not in head]},\n"
    + "    {'params': model.fc.parameters(), 'lr': 1.0}], lr=0.1)\n",
    _HEAD
    + "optimizer = optim.SGD(model.fc.parameters(), lr=0.1)\n"
    + "optimizer.add_param_group({'params': model.layer4.parameters()})\n",
    _HEAD
    + "optimizer = optim.SGD(model.parameters(), lr=0.1)\nmodel.fc = torch.nn.Linear(2, 2)\n"
    + "optimizer.add_param_group({'params': model.fc.parameters()})\n",
    _HEAD
    + "optimizer = optim.SGD([{'params': model.parameters()}, {'params': model2.parameters(), 'lr': 1.0}], lr=0.1)\n",
)
