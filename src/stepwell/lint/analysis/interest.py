"""Which functions of a file are worth following: those that train, evaluate, save or build what trains, and those that
call such. Most files of a project, and most functions of a training script, are not."""

from __future__ import annotations

import ast

from stepwell.lint.analysis.known import is_optimizer, is_scheduler

_WORDS = frozenset(
    [
        "backward",
        "step",
        "zero_grad",
        "eval",
        "no_grad",
        "inference_mode",
        "clip_grad_norm_",
        "clip_grad_norm",
        "clip_grad_value_",
        "unscale_",
        "manual_backward",
        "load_state_dict",
        "set_epoch",
        "GradScaler",
        "autocast",
        "lr_scheduler",
        "optimizers",
        "step_update",
        "first_step",
        "optim",
        "optimizer",
        "optimizers_",
        "CrossEntropyLoss",
        "BCEWithLogitsLoss",
        "deepspeed",
        "training_step",
    ]
)
_NAMES = frozenset(["training_step", "validation_step", "test_step", "compute_loss"])  # called by frameworks


class Interest:
    """Answers for the functions of one file."""

    def __init__(self, tree: ast.Module) -> None:
        self._words: dict[int, set[str]] = {}
        self._yields: set[int] = set()
        self._aliases: set[str] = set()  # `from torch.optim import Adam as A`
        names: dict[str, list[int]] = {}
        self.module = self._read(tree, names)
        wanted = set(_WORDS) | self._aliases
        interesting: set[int] = set()
        grown = True
        while grown:
            grown = False
            for name, nodes in names.items():
                for node in nodes:
                    if node not in interesting and (name in _NAMES or not wanted.isdisjoint(self._words[node])):
                        interesting.add(node)
                        grown = True
                        if name not in ("__init__", "forward", "__call__", "main_"):
                            wanted.add(name)
        self._interesting = interesting
        self.any = bool(interesting) or not wanted.isdisjoint(self.module)

    def _read(self, tree: ast.Module, names: dict[str, list[int]]) -> set[str]:
        """The names that each function and the module use, nested functions included."""
        outside: set[str] = set()
        todo: list[tuple[ast.AST, list[set[str]], int]] = [(tree, [outside], 0)]
        while todo:
            node, into, function = todo.pop()
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                own: set[str] = set()
                self._words[id(node)] = own
                names.setdefault(node.name, []).append(id(node))
                into, function = [*into, own], id(node)
            elif isinstance(node, ast.Attribute):
                for one in into:
                    one.add(node.attr)
                    if _is_maker(node.attr):
                        one.add("optim")
            elif isinstance(node, ast.Name):
                for one in into:
                    one.add(node.id)
                    if _is_maker(node.id):
                        one.add("optim")
            elif isinstance(node, ast.ImportFrom):
                self._aliases.update(one.asname for one in node.names if one.asname and _is_maker(one.name))
            elif isinstance(node, (ast.Yield, ast.YieldFrom)):
                self._yields.add(function)
            todo += [(child, into, function) for child in ast.iter_child_nodes(node)]
        return outside

    def __contains__(self, node: ast.AST) -> bool:
        return id(node) in self._interesting

    def is_generator(self, node: ast.AST) -> bool:
        return id(node) in self._yields


def _is_maker(name: str) -> bool:
    return name[:1].isupper() and (
        (is_optimizer(f"torch.optim.{name}") and ("Adam" in name or "Muon" in name or name in _PLAIN))
        or is_scheduler(f"torch.optim.lr_scheduler.{name}")
    )


_PLAIN = frozenset(
    ["SGD", "RMSprop", "LBFGS", "Adagrad", "Adadelta", "Adamax", "AdamW", "Adam", "NAdam", "RAdam", "Rprop", "ASGD"]
)
