"""Calls that torch no longer has, or no longer takes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from stepwell.findings import Check, Edit, Finding, Fix
from stepwell.lint import edits
from stepwell.lint.analysis import Script, Tensor, argument
from stepwell.lint.analysis.syntax import written

CHECK = Check(
    code="SW606",
    name="legacy-api",
    severity="error",
    certainty="certain",
    looks_for="forms of the first versions of torch: clip_grad_norm without underscore, loss.data[0], volatile, "
    "retain_variables, "
    "optimizer.step(loss), scaler.step(optimizer, closure)",
    why="the call fails, or does nothing but warn, in every torch of today",
    instead="clip_grad_norm_, loss.item(), torch.no_grad(), optimizer.step() after loss.backward()",
    silent_when="data[0] may be the first of several values",
    example_bad="import torch\ntorch.nn.utils.clip_grad_norm(model.parameters(), 1.0)",
    example_good="import torch\ntorch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)",
    reference="https://pytorch.org/blog/pytorch-0_4_0-migration-guide/",
)
FIX = "safe"

_CLIP = re.compile(r"torch\.nn\.utils(\.clip_grad)?\.clip_grad_norm$")
_CRITERION = re.compile(r"^(criterion\w*|\w*criterion|loss_f(n|unc|unction)|\w+_loss)$", re.I)
_SEVERAL = re.compile(r"reduction\s*=\s*['\"]none|reduce\s*=\s*False|nn\.DataParallel\(.*loss", re.I)
_LOSS = re.compile(r"(^|_)(loss|err[DG]?|cost)(_?[a-zA-Z0-9]+)?$")


def find(script: Script) -> Iterator[Finding]:
    words = script.source
    if not any(word in words for word in ("clip_grad_norm", ".data[0]", "volatile", "step(", "retain_variables")):
        return
    for imported in script.each(ast.ImportFrom):
        yield from _import(script, imported)
    for call in script.each(ast.Call):
        yield from _call(script, call)
    for owner in script.each(ast.Attribute) if "volatile" in words else ():
        if owner.attr == "volatile" and isinstance(owner.ctx, ast.Store):
            yield script.finding(CHECK, owner, "the attribute volatile of a tensor has no effect: a graph is recorded")
    for node in script.each(ast.Subscript) if ".data[0]" in words and not _SEVERAL.search(words) else ():
        if _is_first(script, node):
            assert isinstance(node.value, ast.Attribute)
            text = edits.text(script, node.value.value)
            fix = Fix("call item()", (edits.replace(script, node, f"{text}.item()"),), safe=True)
            yield script.finding(CHECK, node, f"{text}.data[0] indexes a tensor without dimensions", fix=fix)
    yield from _steps(script)


def _is_first(script: Script, node: ast.Subscript) -> bool:
    """loss.data[0]"""
    owner = node.value
    if not (isinstance(owner, ast.Attribute) and owner.attr == "data" and isinstance(node.ctx, ast.Load)):
        return False
    if not (isinstance(node.slice, ast.Constant) and node.slice.value == 0 and type(node.slice.value) is int):
        return False
    of = owner.value
    name = of.id if isinstance(of, ast.Name) else of.attr if isinstance(of, ast.Attribute) else ""
    if isinstance(of, ast.Call):
        if isinstance(of.func, ast.Attribute) and of.func.attr in ("sum", "mean") and not of.args and not of.keywords:
            return True
        return bool(_CRITERION.search(written(of.func).rsplit(".", 1)[-1]))
    return bool(_LOSS.search(name)) or (isinstance(of, ast.Name) and _is_loss(script, name))


def _is_loss(script: Script, name: str) -> bool:
    """Whether a name gets nothing but results of loss functions."""
    values = script.assignments.get(name, [])
    return bool(values) and all(
        isinstance(one, ast.Call) and _CRITERION.search(written(one.func).rsplit(".", 1)[-1]) for one in values
    )


def _import(script: Script, node: ast.ImportFrom) -> Iterator[Finding]:
    if node.level or not (node.module or "").startswith("torch.nn.utils"):
        return
    for one in node.names:
        if one.name == "clip_grad_norm":
            fix = None
            if one.asname is None:
                uses = [use for use in script.each(ast.Name) if use.id == "clip_grad_norm"]
                changes = [edits.replace(script, use, "clip_grad_norm_") for use in uses]
                changes.append(edits.replace(script, one, "clip_grad_norm_"))
                fix = Fix("use clip_grad_norm_", tuple(changes), safe=True)
            yield script.finding(CHECK, node, "clip_grad_norm is imported, which is now clip_grad_norm_", fix=fix)


def _call(script: Script, node: ast.Call) -> Iterator[Finding]:
    func = node.func
    if isinstance(func, ast.Attribute) and func.attr == "clip_grad_norm" and _CLIP.match(script.full_name(func)):
        line, end = func.end_lineno or 0, script.column(func.end_lineno or 0, func.end_col_offset or 0)
        fix = Fix("use clip_grad_norm_", (Edit((line, end), (line, end), "_"),), safe=True)
        yield script.finding(CHECK, node, "clip_grad_norm() is now clip_grad_norm_()", fix=fix)
    for one in node.keywords:
        if one.arg == "retain_variables" and isinstance(func, ast.Attribute) and func.attr == "backward":
            name = Fix("call it retain_graph", (edits.replace(script, one, f"retain_graph={written(one.value)}"),),
                       safe=True)  # fmt: skip
            yield script.finding(CHECK, node, "backward() takes retain_graph, no longer retain_variables", fix=name)
        if one.arg == "volatile" and written(func).rsplit(".", 1)[-1] == "Variable":
            drop: Fix | None = None
            text = edits.text(script, node)
            if node.keywords == [one] and len(node.args) == 1 and "#" not in text:
                new = f"{edits.text(script, func)}({edits.text(script, node.args[0])})"
                drop = Fix("drop volatile", (edits.replace(script, node, new),), safe=True)
            yield script.finding(
                CHECK, node, f"volatile={written(one.value)} has no effect: a graph is recorded", fix=drop
            )


def _steps(script: Script) -> Iterator[Finding]:
    for places in script.places("step"):
        event = places[0]
        if event.target is None or event.call is None or event.name:
            continue
        given = event.extra.get("given")
        if (
            event.by is None
            and isinstance(given, Tensor)
            and given.by == "loss"
            and event.target.cls.startswith("torch.optim.")
        ):
            yield script.finding(
                CHECK, event.node, f"{event.target.name}.step() is given a loss, where it takes a function"
            )
        elif event.by is not None and event.by.kind == "scaler" and event.by.cls.startswith("torch."):
            closure = argument(event.call, 1, "closure")
            if closure is not None and not (isinstance(closure, ast.Constant) and closure.value is None):
                yield script.finding(CHECK, event.node, f"{event.by.name}.step() is given a closure, which it refuses")


_HEAD = "\nimport torch\nfrom torch.autograd import Variable\n"
BAD = (
    "import torch\ncorrect = torch.eq(indices, y).sum().data[0]  # expect",
    CHECK.example_bad + "  # expect",
    "from torch.nn.utils import clip_grad_norm  # expect\nfor x, y in loader:\n    loss_fn(model(x), y).backward()\n"
    "    clip_grad_norm(model.parameters(), 0.25)\n    optimizer.step()\n    optimizer.zero_grad()\n",
    _HEAD + "for x in loader:\n    loss = loss_fn(model(x))\n    total += loss.data[0]  # expect\n",
    _HEAD + "for x in loader:\n    x = Variable(x, volatile=True)  # expect\n    model(x)\n",
    _HEAD
    + "optimizer = torch.optim.Adam(model.parameters())\nfor x in loader:\n    loss = criterion(model(x), x)\n"
    + "    optimizer.zero_grad()\n    loss.backward()\n    optimizer.step(loss)  # expect\n",
    _HEAD
    + "scaler = torch.amp.GradScaler('cuda')\noptimizer = torch.optim.LBFGS(model.parameters())\n"
    + "for x in loader:\n    scaler.step(optimizer, closure)  # expect\n    scaler.update()\n",
    _HEAD + "for x, y in loader:\n    mse = criterion(model(x), y)\n    total += mse.data[0]  # expect\n",
    _HEAD + "for x, y in loader:\n    loss = loss_fn(model(x), y)\n    loss.backward(retain_variables=True)  # expect\n"
    "    (0.1 * loss).backward()\n"
    "    optimizer.step()\n",
    _HEAD + "for x, y in loader:\n    goal = model(x)\n    goal.volatile = False  # expect\n    optimizer.step()\n",
    _HEAD + "class T:\n    def log(self):\n        print(self.loss_G.data[0])  # expect\noptimizer.step()\n",
)
GOOD = (
    CHECK.example_good,
    _HEAD + "for x in loader:\n    first = x.data[0]\n    optimizer.step()\n",
    _HEAD
    + "loss_fn = torch.nn.MSELoss(reduction='none')\nloss = loss_fn(a, b)\nprint(loss.data[0])\noptimizer.step()\n",
    _HEAD + "optimizer.step(closure)\n",
    "from mine import clip_grad_norm\nclip_grad_norm(model.parameters(), 1.0)\noptimizer.step()\n",
    "accelerator.clip_grad_norm_(model.parameters(), 1.0)\nfabric.clip_gradients(model, optimizer, max_norm=1)\n",
)
