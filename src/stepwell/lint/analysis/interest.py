"""Which functions of a file are worth following: those that train, evaluate, save or build what trains, and those that
call such. Most files of a project, and most functions of a training script, are not.

Read from the text: one search for words costs a twentieth of a walk over the tree, and a word too many costs little.
"""

from __future__ import annotations

import ast
import re
from bisect import bisect_right
from collections.abc import Callable

from stepwell.lint.analysis.scope import FUNCTIONS, statements_of

_TRAINING = re.compile(
    r"backward|step|zero_grad|eval|no_grad|inference_mode|clip_grad_\w+|unscale_|manual_backward|load_state_dict|"
    r"set_epoch|GradScaler|autocast|lr_scheduler|optimizers?|step_update|first_step|optim|CrossEntropyLoss|"
    r"validation_step|test_step|compute_loss|cross_entropy|BCE\w*Loss|NLLLoss|deepspeed|training_step|SGD|Adam\w*|RMSprop|LBFGS|Ada\w+|\w*Muon\w*|\w+LR"
)
_EVALUATES = re.compile(r"(?:\w+_)?(?:test|val|valid|validate|validation|evaluate|evaluation|accuracy)(?:_\w+)?")
_WORD = re.compile(r"\w+")
_ALIAS = re.compile(
    r"^[ \t]*(?:from|import)\b[^\n]*\boptim\b[^\n]*\bas\s+(\w+)", re.M
)  # from torch.optim import Adam as A
_OF_MODELS = ("named_parameters", "parameters", "eval")  # only modules are asked for these
_COPIES = re.compile(r"\b(\w+)\.load_state_dict\((?:\w+\.)*(\w+)\.state_dict\(\)")
_NO_MODELS = frozenset(["self", "cls", "layer", "m", "mod", "module", "child", "block", "trainer", "p", "x", "model_"])
_NOT_CARRIED = ("__init__", "forward", "__call__", "get", "__enter__", "__exit__")  # calls of these are everywhere


class _Remembered(dict[str, bool]):
    """word -> whether it is one of training. Files use the same words again and again, and a regular expression of many
    alternatives is slow."""

    def __missing__(self, word: str) -> bool:
        if len(self) > 100_000:
            self.clear()
        self[word] = found = _TRAINING.fullmatch(word) is not None
        return found


_OF_TRAINING = _Remembered()


class Interest:
    """Answers for the functions of one file.

    Attributes:
        any: whether anything of training is in the file.
        models: names of variables that the file treats as modules.
    """

    def __init__(self, source: str, tree: ast.Module, calls: list[ast.Call]) -> None:
        functions = [node for node in statements_of(tree) if isinstance(node, FUNCTIONS)]
        starts = _starts(source)
        aliases = set(_ALIAS.findall(source))
        lines = _lines_of(source, starts, lambda word: _OF_TRAINING[word] or word in aliases)
        lines.update(node.lineno for node in functions if _EVALUATES.fullmatch(node.name))
        self.any = bool(lines)
        self.models = _models(source, calls) if lines else frozenset()
        self._interesting: set[int] = set()
        todo = list(functions)
        while todo and lines:
            names = set()
            rest = []
            for node in todo:
                if any(line in lines for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)):
                    self._interesting.add(id(node))
                    if node.name not in _NOT_CARRIED:
                        names.add(node.name)
                else:
                    rest.append(node)
            if len(rest) == len(todo) or not names:
                break
            todo = rest
            lines = _lines_of(source, starts, names.__contains__)
        yields = _lines_of(source, starts, "yield".__eq__) if "yield" in source else set()
        self._yields = _generators(functions, yields)

    def __contains__(self, node: ast.AST) -> bool:
        return id(node) in self._interesting

    def is_generator(self, node: ast.AST) -> bool:
        return id(node) in self._yields


def _models(source: str, calls: list[ast.Call]) -> frozenset[str]:
    """The names that a file treats as modules, as in `rnn.parameters()` and `self.head.eval()`, and those that take the
    weights of one."""
    found: set[str] = set()
    for call in calls:
        func = call.func
        if isinstance(func, ast.Attribute) and func.attr in _OF_MODELS and not call.args and not call.keywords:
            owner = func.value
            if isinstance(owner, (ast.Name, ast.Attribute)):
                found.add(owner.id if isinstance(owner, ast.Name) else owner.attr)
    for pair in _COPIES.findall(source) if "load_state_dict" in source else ():
        if found.intersection(pair):
            found.update(pair)
    return frozenset(found) - _NO_MODELS


def _starts(source: str) -> list[int]:
    return [0, *(match.end() for match in re.finditer(r"\r\n|\r|\n", source))]


def _lines_of(source: str, starts: list[int], wanted: Callable[[str], bool]) -> set[int]:
    """The numbers of the lines in which a word is wanted."""
    return {bisect_right(starts, match.start()) for match in _WORD.finditer(source) if wanted(match.group())}


def _generators(functions: list[ast.FunctionDef | ast.AsyncFunctionDef], lines: set[int]) -> set[int]:
    """The functions that yield: of those around a `yield`, the innermost."""
    found: set[int] = set()
    for line in lines:
        around = [one for one in functions if one.lineno <= line <= (one.end_lineno or one.lineno)]
        if around:
            found.add(id(max(around, key=lambda one: one.lineno)))
    return found
