"""The updates of a script: each step of an optimizer with the backward passes, resets and clips that belong to it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NoReturn

from lint.scripts import NoPlace, Script, called, is_optimizer, is_scaler, is_scheduler, receiver


@dataclass
class Backward:
    statement: ast.stmt
    call: ast.Call
    loss: ast.expr
    kind: str  # "plain", "scaled", "accelerator" or "manual"


@dataclass
class Update:
    script: Script
    step: ast.stmt
    call: ast.Call
    optimizer: str
    scaler: str = ""
    backwards: list[Backward] = field(default_factory=list)
    zeros: list[ast.stmt] = field(default_factory=list)
    clips: list[ast.stmt] = field(default_factory=list)
    unscales: list[ast.stmt] = field(default_factory=list)
    scaler_updates: list[ast.stmt] = field(default_factory=list)

    @property
    def loops(self) -> list[ast.For | ast.While]:
        return self.script.loops(self.step)

    @property
    def function(self) -> ast.AST:
        return self.script.function(self.step)

    @property
    def batch_loop(self) -> ast.For | ast.While:
        """The loop over batches; in accumulation over micro-batches the one around it."""
        if not self.loops:
            raise NoPlace
        return self.loops[0]

    @property
    def last(self) -> Backward:
        return self.backwards[-1]

    @property
    def everything(self) -> list[ast.AST]:
        return [self.step, *(one.statement for one in self.backwards), *self.loops[:1]]

    def make(self) -> Make:
        for make in makes(self.script):
            if make.name == self.optimizer:
                return make
        raise NoPlace

    def model(self) -> str:
        """The module whose parameters the optimizer has, as it is written at the step."""
        found = next((make for make in makes(self.script) if make.name == self.optimizer), None)
        if found is not None and found.modules:
            return found.modules[0]
        attribute = self.optimizer.startswith("self.")
        names = [
            ast.unparse(node)
            for node in ast.walk(self.function)
            if isinstance(node, (ast.Name, ast.Attribute)) and ast.unparse(node).rsplit(".", 1)[-1] == "model"
        ]
        for name in ("self.model", "model") if attribute else ("model",):
            if name in names and (name == "self.model" or "model" in _locals(self.function)):
                return name
        return names[0] if names else _no_place()


def _no_place() -> NoReturn:
    raise NoPlace


def _locals(function: ast.AST) -> set[str]:
    names = {node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return names | {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)}


@dataclass
class Make:
    """Where an optimizer is made: `name = torch.optim.Adam(model.parameters(), lr=0.1)`."""

    statement: ast.Assign
    call: ast.Call
    name: str
    kind: str

    @property
    def parameters(self) -> ast.expr:
        keyword = next((one.value for one in self.call.keywords if one.arg == "params"), None)
        found = self.call.args[0] if self.call.args else keyword
        if found is None:
            raise NoPlace
        return found

    @property
    def modules(self) -> list[str]:
        """The modules whose parameters() it is given."""
        return [
            receiver(node)
            for node in ast.walk(self.parameters)
            if isinstance(node, ast.Call) and called(node) == "parameters"
        ]


OPTIMIZERS = ("Adam", "AdamW", "SGD", "RMSprop", "Adadelta", "Adagrad", "NAdam", "RAdam", "Adamax")
SCHEDULERS = (
    "StepLR", "MultiStepLR", "ExponentialLR", "CosineAnnealingLR", "OneCycleLR", "LambdaLR", "LinearLR",
    "CosineAnnealingWarmRestarts", "ReduceLROnPlateau", "PolynomialLR",
)  # fmt: skip


def makes(script: Script, kinds: tuple[str, ...] = OPTIMIZERS) -> list[Make]:
    return [
        Make(statement, statement.value, ast.unparse(statement.targets[0]), called(statement.value))
        for statement in script.statements
        if isinstance(statement, ast.Assign)
        and isinstance(statement.value, ast.Call)
        and called(statement.value) in kinds
        and isinstance(statement.targets[0], (ast.Name, ast.Attribute))
    ]


def schedulers(script: Script) -> list[Make]:
    return makes(script, SCHEDULERS)


def scheduler_steps(script: Script, name: str = "") -> list[ast.stmt]:
    """The statements `scheduler.step()`, of this scheduler or of all."""
    return [
        statement
        for statement, call in script.calls("step")
        if (receiver(call) == name if name else is_scheduler(receiver(call)))
    ]


def updates(script: Script) -> list[Update]:
    """The updates in the order of the source; only those with a backward pass in the same function."""
    found = _updates(script)
    if not found:
        raise NoPlace
    return found


@lru_cache(maxsize=256)
def _updates(script: Script) -> list[Update]:
    made = {make.name for make in makes(script)}
    found = []
    for statement, call in script.calls("step"):
        on = receiver(call)
        if is_scaler(on) and call.args:
            found.append(Update(script, statement, call, ast.unparse(call.args[0]), on))
        elif on in made or (is_optimizer(on) and not is_scheduler(on)):
            found.append(Update(script, statement, call, on))
    found.sort(key=lambda one: one.step.lineno)
    for index, update in enumerate(found):
        earlier = [one.step.lineno for one in found[:index] if one.function is update.function]
        _complete(update, max(earlier, default=0), found)
    return [update for update in found if update.backwards]


def _complete(update: Update, after: int, all_updates: list[Update]) -> None:
    script = update.script
    modules = next((make.modules for make in makes(script) if make.name == update.optimizer), [])
    alone = len({one.optimizer for one in all_updates}) == 1
    for statement in script.statements:
        if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)):
            continue
        call = statement.value
        if script.function(statement) is not update.function:
            continue
        on, name = receiver(call), called(call)
        between = after < statement.lineno < update.step.lineno
        if between and (backward := _backward(statement, call)) is not None:
            update.backwards.append(backward)
        if name == "zero_grad" and (on == update.optimizer or on in modules or (alone and not is_optimizer(on))):
            update.zeros.append(statement)
        if between and name in ("clip_grad_norm_", "clip_grad_value_", "clip_gradients"):
            update.clips.append(statement)
        if name == "unscale_" and call.args and ast.unparse(call.args[0]) == update.optimizer:
            update.unscales.append(statement)
        if name == "update" and update.scaler and on == update.scaler:
            update.scaler_updates.append(statement)


def _backward(statement: ast.stmt, call: ast.Call) -> Backward | None:
    name = called(call)
    if name == "manual_backward" and call.args:
        return Backward(statement, call, call.args[0], "manual")
    if name != "backward" or not isinstance(call.func, ast.Attribute):
        return None
    on = call.func.value
    if isinstance(on, ast.Call) and called(on) == "scale" and on.args:
        return Backward(statement, call, on.args[0], "scaled")
    if isinstance(on, (ast.Name, ast.Attribute)) and any(
        word in ast.unparse(on).rsplit(".", 1)[-1] for word in ("accelerator", "fabric")
    ):
        return Backward(statement, call, call.args[0], "accelerator") if call.args else None
    return Backward(statement, call, on, "plain")


def only(script: Script) -> Update:
    """The one update of a script with one."""
    found = updates(script)
    if len({one.optimizer for one in found}) != 1:
        raise NoPlace
    return found[-1]


def assigned_before(script: Script, name: str, statement: ast.stmt) -> ast.Assign:
    """The last assignment to a name before a statement, in the same function."""
    found = [
        one
        for one in script.statements
        if isinstance(one, ast.Assign)
        and one.lineno < statement.lineno
        and script.function(one) is script.function(statement)
        and any(ast.unparse(part) == name for target in one.targets for part in _parts(target))
    ]
    if not found:
        raise NoPlace
    return found[-1]


def _parts(target: ast.expr) -> Iterator[ast.expr]:
    if isinstance(target, (ast.Tuple, ast.List)):
        for one in target.elts:
            yield from _parts(one)
    else:
        yield target


def forward(update: Update) -> ast.Assign:
    """The assignment `outputs = model(inputs)` before the last backward pass of an update."""
    model = update.model()
    found = [
        one
        for one in update.script.statements
        if isinstance(one, ast.Assign)
        and isinstance(one.value, ast.Call)
        and one.lineno < update.last.statement.lineno
        and update.script.function(one) is update.function
        and ast.unparse(one.value.func) == model
        and update.script.loops(one)
    ]
    if not found:
        raise NoPlace
    return found[-1]


def epoch_loop(update: Update) -> ast.For | ast.While:
    """The loop over epochs: the one around the batch loop, or the one that calls the function of the batch loop."""
    script = update.script
    if len(update.loops) > 1:
        return update.loops[1]
    function = update.function
    if isinstance(function, ast.FunctionDef) and update.loops:
        for call in script.all_calls(function.name):
            loops = script.loops(call)
            if loops:
                return loops[0]
    raise NoPlace


def epochs(loop: ast.For | ast.While) -> str:
    """How many rounds a loop has, from `for epoch in range(n)`."""
    if not (isinstance(loop, ast.For) and isinstance(loop.iter, ast.Call) and called(loop.iter) == "range"):
        raise NoPlace
    arguments = loop.iter.args
    stop = arguments[-1] if len(arguments) < 3 else arguments[1]
    if len(arguments) > 1 and isinstance(stop, ast.BinOp) and isinstance(stop.op, ast.Add):
        return ast.unparse(stop.left)
    return ast.unparse(stop)


def loader(loop: ast.For | ast.While) -> str:
    """What a loop goes over, without enumerate()."""
    if not isinstance(loop, ast.For):
        raise NoPlace
    over = loop.iter
    while isinstance(over, ast.Call) and called(over) in ("enumerate", "tqdm") and over.args:
        over = over.args[0]
    if not isinstance(over, (ast.Name, ast.Attribute)):
        raise NoPlace
    return ast.unparse(over)


def lightning(script: Script) -> list[ast.ClassDef]:
    """The classes with a training_step() whose loop Lightning runs, with automatic optimization."""
    found = [
        one
        for one in script.statements
        if isinstance(one, ast.ClassDef)
        and method(one, "training_step") is not None
        and any("Lightning" in ast.unparse(base) for base in one.bases)
        and "automatic_optimization = False" not in script.source
    ]
    if not found:
        raise NoPlace
    return found


def method(owner: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    return next((one for one in owner.body if isinstance(one, ast.FunctionDef) and one.name == name), None)


def modules(script: Script) -> list[ast.ClassDef]:
    """The classes of the script with a forward(self, x)."""
    return [
        one
        for one in script.statements
        if isinstance(one, ast.ClassDef)
        and any(ast.unparse(base).endswith(("Module", "LightningModule")) for base in one.bases)
        and method(one, "forward") is not None
    ]
