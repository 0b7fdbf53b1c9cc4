"""Which functions of a file are worth following: those that train, evaluate, save or build what trains, and those that
call such. Most files of a project, and most functions of a training script, are not.

Read from the text: one search for words costs a twentieth of a walk over the tree, and a word too many costs little.
"""

from __future__ import annotations

import ast
import re

from stepwell.lint.analysis.scope import FUNCTIONS, statements_of

_WORDS = (
    r"backward|step|zero_grad|eval|no_grad|inference_mode|clip_grad_\w+|unscale_|manual_backward|load_state_dict|"
    r"set_epoch|GradScaler|autocast|lr_scheduler|optimizers?|step_update|first_step|optim|CrossEntropyLoss|"
    r"validation_step|test_step|compute_loss|cross_entropy|BCE\w*Loss|NLLLoss|deepspeed|training_step|SGD|Adam\w*|RMSprop|LBFGS|Ada\w+|\w*Muon\w*|\w+LR|"
    r"def\s+(?:\w+_)?(?:test|val|valid|validate|validation|evaluate|evaluation|accuracy)(?:_\w+)?"
)
_ALIAS = re.compile(
    r"^[ \t]*(?:from|import)\b[^\n]*\boptim\b[^\n]*\bas\s+(\w+)", re.M
)  # from torch.optim import Adam as A
# only modules are asked for these: `rnn.parameters()`, `self.head.eval()`
_MODEL = re.compile(r"\b(\w+)\.(?:named_parameters|parameters|eval)\(\)")
_COPIES = re.compile(r"\b(\w+)\.load_state_dict\((?:\w+\.)*(\w+)\.state_dict\(\)")
_NO_MODELS = frozenset(["self", "cls", "layer", "m", "mod", "module", "child", "block", "trainer", "p", "x", "model_"])
_YIELD = re.compile(r"\byield\b")
_NOT_CARRIED = ("__init__", "forward", "__call__", "get", "__enter__", "__exit__")  # calls of these are everywhere


class Interest:
    """Answers for the functions of one file.

    Attributes:
        any: whether anything of training is in the file.
        models: names of variables that the file treats as modules.
    """

    def __init__(self, source: str, tree: ast.Module) -> None:
        functions = [node for node in statements_of(tree) if isinstance(node, FUNCTIONS)]
        starts = _starts(source)
        lines = _lines_of(_words_and_aliases(source), source, starts)
        self.any = bool(lines)
        self.models = _models(source) if lines else frozenset()
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
            pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, sorted(names)))})\b")
            lines = _lines_of(pattern, source, starts)
        self._yields = _generators(functions, _lines_of(_YIELD, source, starts))

    def __contains__(self, node: ast.AST) -> bool:
        return id(node) in self._interesting

    def is_generator(self, node: ast.AST) -> bool:
        return id(node) in self._yields


def _models(source: str) -> frozenset[str]:
    """The names that a file treats as modules, and those that take the weights of one."""
    found = set(_MODEL.findall(source))
    for pair in _COPIES.findall(source):
        if found.intersection(pair):
            found.update(pair)
    return frozenset(found) - _NO_MODELS


def _words_and_aliases(source: str) -> re.Pattern[str]:
    names = "|".join([_WORDS, *sorted(set(_ALIAS.findall(source)))])
    return re.compile(rf"\b(?:{names})\b")


def _starts(source: str) -> list[int]:
    return [0, *(match.end() for match in re.finditer(r"\r\n|\r|\n", source))]


def _lines_of(pattern: re.Pattern[str], source: str, starts: list[int]) -> set[int]:
    """The numbers of the lines in which a pattern is found."""
    found: set[int] = set()
    line = 0
    for match in pattern.finditer(source):
        while line < len(starts) and starts[line] <= match.start():
            line += 1
        found.add(line)
    return found


def _generators(functions: list[ast.FunctionDef | ast.AsyncFunctionDef], lines: set[int]) -> set[int]:
    """The functions that yield: of those around a `yield`, the innermost."""
    found: set[int] = set()
    for line in lines:
        around = [one for one in functions if one.lineno <= line <= (one.end_lineno or one.lineno)]
        if around:
            found.add(id(max(around, key=lambda one: one.lineno)))
    return found
