"""Layers with parameters, and the classes of modules that a file defines."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from stepwell.lint.analysis.script import Script

_LAYER = re.compile(
    r"^torch\.nn\.(modules\.\w+\.)?(Linear|Bilinear|Conv\w*|LSTM|GRU|RNN|LSTMCell|GRUCell|RNNCell|Embedding\w*|BatchNorm\w*|"
    r"LayerNorm|GroupNorm|PReLU|MultiheadAttention|Transformer\w*)$"
)
_NORM = re.compile(r"\.(BatchNorm\w*|LayerNorm|GroupNorm)$")


def is_layer(script: Script, node: ast.AST) -> bool:
    """Whether an expression makes a layer of torch that has parameters to be learned."""
    if not isinstance(node, ast.Call):
        return False
    name = script.full_name(node.func)
    if not _LAYER.match(name):
        return False
    if not _NORM.search(name):
        return True
    plain = [one for one in node.keywords if one.arg in ("affine", "elementwise_affine")]
    return not any(isinstance(one.value, ast.Constant) and one.value.value is False for one in plain)


def makes_module(script: Script, node: ast.AST) -> bool:
    """Whether an expression makes a module with parameters: a layer, a sequence of them, an object of a class here."""
    if is_layer(script, node):
        return True
    if not isinstance(node, ast.Call):
        return False
    if script.full_name(node.func) in ("torch.nn.Sequential", "torch.nn.ModuleList"):
        return any(makes_module(script, one) for given in node.args for one in ast.walk(given))
    if not isinstance(node.func, ast.Name):
        return False
    made = _class(script, node.func.id)
    return made is not None and is_module(script, made) and any(is_layer(script, inner) for inner in ast.walk(made))


def modules(script: Script) -> list[ast.ClassDef]:
    """The classes of a file that are modules of torch."""
    return [node for node in script.each(ast.ClassDef) if is_module(script, node)]


def is_module(script: Script, cls: ast.ClassDef, depth: int = 5) -> bool:
    """Whether a class of the file is a module of torch, by its bases in the file as well."""
    for base in cls.bases:
        if script.name_of(base).rsplit(".", 1)[-1] in ("Module", "LightningModule"):
            return True
        other = _class(script, base.id) if isinstance(base, ast.Name) else None
        if other is not None and other is not cls and depth and is_module(script, other, depth - 1):
            return True
    return False


def methods(cls: ast.ClassDef) -> Iterator[ast.FunctionDef]:
    yield from (node for node in cls.body if isinstance(node, ast.FunctionDef))


def _class(script: Script, name: str) -> ast.ClassDef | None:
    return next((node for node in script.each(ast.ClassDef) if node.name == name), None)
