"""torch.cuda.amp, which torch.amp has replaced."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from stepwell.findings import Check, Edit, Finding, Fix
from stepwell.lint import edits
from stepwell.lint.analysis import Script
from stepwell.lint.analysis.syntax import written

CHECK = Check(
    code="SW607",
    name="deprecated-amp",
    severity="warning",
    certainty="certain",
    looks_for="autocast or GradScaler of torch.cuda.amp",
    why="both are deprecated since torch 2.4 and warn at each use; the new ones take the device by name",
    instead='torch.amp.autocast("cuda") and torch.amp.GradScaler("cuda")',
    silent_when="the name comes from elsewhere, or the script supports several versions of torch: the import stands in "
    "a try, the version is asked, or torch.amp is used as well",
    example_bad="import torch\nscaler = torch.cuda.amp.GradScaler()",
    example_good='import torch\nscaler = torch.amp.GradScaler("cuda")',
    reference="https://docs.pytorch.org/docs/stable/amp.html",
)
FIX = "safe"
_NAMES = ("autocast", "GradScaler")
_MODULE = re.compile(r"torch\.cuda(\.amp(\.autocast_mode|\.grad_scaler)?)?$")
_VERSIONS = re.compile(r"__version__|torch\.version|hasattr\(torch|torch_version|TORCH_VERSION|torch\.amp\.GradScaler|"
                       r"from torch\.amp import|version\.parse|is_torch_")  # fmt: skip
_OLD = tuple(f"torch.cuda.amp.{name}" for name in _NAMES)


def find(script: Script) -> Iterator[Finding]:
    """One finding for a file, with all its places."""
    if "cuda" not in script.source or "amp" not in script.source or _VERSIONS.search(script.source):
        return
    found = list(_found(script))
    if not found:
        return
    node, seen, _ = found[0]
    fixes = [fix for _, _, fix in found]
    edits_of_all = tuple(dict.fromkeys(edit for fix in fixes if fix is not None for edit in fix.edits))
    fix = None if None in fixes else Fix("use torch.amp, with the name of the device", edits_of_all, safe=True)
    others = [(other, "here, too") for other, _, _ in found[1:]]
    yield script.finding(CHECK, node, seen, others, fix=fix)


def _found(script: Script) -> Iterator[tuple[ast.AST, str, Fix | None]]:
    for node in script.each(ast.ImportFrom, ast.Call):
        if isinstance(node, ast.ImportFrom) and _MODULE.match(node.module or "") and not node.level:
            old = [one for one in node.names if node.module != "torch.cuda" and one.name in _NAMES]
            if old and _is_in_try(script, node):
                return
            if old:
                names = " and ".join(one.name for one in old)
                yield node, f"{names} of torch.cuda.amp is imported", _of_import(script, node)
        elif (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and script.full_name(node.func) in _OLD
        ):
            if any(node.func.attr in (one.asname or one.name for one in other.names) for other in
                   script.each(ast.ImportFrom) if (other.module or "").startswith("torch.cuda.amp")):  # fmt: skip
                continue  # the import is named
            yield node, f"{edits.text(script, node.func)} is deprecated", _of_call(script, node)


def _is_in_try(script: Script, node: ast.AST) -> bool:
    one: ast.AST | None = node
    while one is not None and not isinstance(one, ast.Try):
        one = script.parents.get(id(one))
    return one is not None


def _of_call(script: Script, node: ast.Call) -> Fix | None:
    assert isinstance(node.func, ast.Attribute)
    name = edits.text(script, node.func)
    change = _given(script, node)
    if change is None or name != f"torch.cuda.amp.{node.func.attr}":
        return None
    new = f"torch.amp.{node.func.attr}"
    return Fix(f'use {new}("cuda")', (edits.replace(script, node.func, new), *change), safe=True)


def _of_import(script: Script, node: ast.ImportFrom) -> Fix | None:
    """The import and all uses together: the new functions take the device first."""
    if any(one.name not in _NAMES or one.asname for one in node.names) or node.lineno != node.end_lineno:
        return None
    others = [one.names for one in script.each(ast.Import)]
    others += [one.names for one in script.each(ast.ImportFrom) if one is not node]
    if any((one.asname or one.name) in _NAMES for names in others for one in names):
        return None
    changes: list[Edit] = []
    names = [one.name for one in node.names]
    for use in script.each(ast.Name):
        if use.id in names:
            call = script.parents.get(id(use))
            change = _given(script, call) if isinstance(call, ast.Call) and call.func is use else None
            if change is None:
                return None
            changes += change
    text = edits.text(script, node)
    changes.append(edits.replace(script, node, text.replace("torch.cuda.amp", "torch.amp", 1)))
    return Fix('import from torch.amp and name the device "cuda"', tuple(changes), safe=True)


def _given(script: Script, node: ast.Call) -> list[Edit] | None:
    """The device as the first argument; a positional `enabled` of autocast by its name."""
    name = written(node.func).rsplit(".", 1)[-1]
    end = (node.func.end_lineno or 0, script.column(node.func.end_lineno or 0, node.func.end_col_offset or 0))
    line = script.lines[end[0] - 1]
    if line[end[1] - 1 : end[1]] != "(" or any(isinstance(one, ast.Starred) for one in node.args):
        return None
    start = (end[0], end[1] + 1)
    if not node.args and not node.keywords:
        return [Edit(start, start, '"cuda"')]
    if name == "autocast" and node.args:
        first = node.args[0]
        if len(node.args) > 1 or (first.lineno, script.column(first.lineno, first.col_offset)) != start:
            return None
        return [Edit(start, start, '"cuda", enabled=')]
    return [Edit(start, start, '"cuda", ')]


_HEAD = "\nimport torch\n"
BAD = (
    CHECK.example_bad + "  # expect",
    _HEAD
    + "for x in loader:\n    with torch.cuda.amp.autocast():  # expect\n        loss = model(x)\n    loss.backward()\n",
    "from torch.cuda.amp import GradScaler, autocast  # expect\nscaler = GradScaler(enabled=use_amp)\n"
    "with autocast(use_amp):\n    loss = model(x)\nscaler.scale(loss).backward()\n",
    "from torch.cuda import amp\nscaler = amp.GradScaler()  # expect\nscaler.scale(loss).backward()\n",
    "import torch.cuda.amp as amp\nwith amp.autocast(enabled=True):  # expect\n    loss = model(x)\nloss.backward()\n",
)
GOOD = (
    "try:\n    from torch.amp import GradScaler\nexcept ImportError:\n    from torch.cuda.amp import GradScaler\n"
    "scaler = GradScaler()\nscaler.scale(loss).backward()\n",
    "import torch\nfrom packaging import version\nif version.parse(torch.__version__) < version.parse('2.4'):\n"
    "    scaler = torch.cuda.amp.GradScaler()\nelse:\n    scaler = torch.amp.GradScaler('cuda')\nscaler.scale(loss)\n",
    CHECK.example_good,
    "from torch.amp import GradScaler, autocast\nscaler = GradScaler('cuda')\nscaler.scale(loss).backward()\n",
    _HEAD + "with torch.autocast('cuda', dtype=torch.bfloat16):\n    loss = model(x)\nloss.backward()\n",
    "from apex import amp\nmodel, optimizer = amp.initialize(model, optimizer)\nwith amp.scale_loss(loss, "
    "optimizer) as s:\n    s.backward()\n",
    _HEAD + "@torch.amp.custom_fwd(device_type='cuda')\ndef forward(ctx, x):\n    return x\nloss.backward()\n",
)
